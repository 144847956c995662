"""Statistics as people read them: what a file holds, what a job will do, what it has made."""

import re
from collections.abc import Sequence
from urllib.parse import quote

from hub.statistics import REFERENCE
from hub.statistics_look import Look
from jobs.job import Job
from jobs.statistics_preview import StatisticsPreview
from merging.errors import Problem, errors_of
from merging.recipe import Recipe, recipe_from_dict, valid_repo_id
from merging.summary import Summary
from ui import job_words, render

METHOD_OF = {"gram": "regmean", "fisher": "fisher"}
COMMIT = re.compile(r"[0-9a-f]{40}")
PLACES = {
    "own": "the repo <b>{}</b>, made when the file is there and checked",
    "model": "the model's repo <b>{}</b>",
    "pull-request": "a pull request to <b>{}</b>, for its owner to decide",
}


def for_a_merge(recipe: Recipe, kind: str, model: str) -> str:
    """The merge that statistics are collected for: its models, each a way to its statistics, and the way back."""
    names = [
        f"<b>{render.text(entry.repo_id)}</b>"
        if entry.repo_id == model.partition("@")[0]
        else render.link(render.statistics_link(entry.model, kind, recipe), entry.repo_id, here=True)
        for entry in recipe.models
        if not entry.is_folder
    ]
    back = render.link(render.recipe_link("", recipe), "Back to the merge", css="mm-button", here=True)
    return f'<p class="mm-notice">For {render.text(recipe.method.title)} of {", ".join(names)}. {back}</p>'


def merge_link(one: Summary) -> str:
    """The merge form with the model and these statistics filled in; "" when the file names no model of the Hub."""
    if not valid_repo_id(one.model) or REFERENCE.fullmatch(one.source) is None or one.belongs is False:
        return ""
    model = f"{one.model}@{one.revision}" if COMMIT.fullmatch(one.revision) else one.model
    ref = {"source": one.source, "sha256": one.sha256}
    entry = {"model": model, "statistics": {one.kind: ref}}
    return render.recipe_link("", recipe_from_dict({"merge_method": METHOD_OF[one.kind], "models": [entry]}))


def summary(one: Summary, hub_url: str) -> str:
    """One statistics file: whether it fits, what it holds, what to think of, where it is."""
    chip = {
        True: '<span class="mm-chip mm-good">fits these weights</span>',
        False: '<span class="mm-chip mm-bad">other weights</span>',
        None: "",
    }[one.belongs]
    match = REFERENCE.fullmatch(one.source)
    links = []
    if match is not None:
        address = (
            f"{hub_url}/{quote(match['repo'])}/blob/{quote(match['revision'] or 'main')}/{quote(match['path'] or '')}"
        )
        links.append(f"<p>{render.link(address, match['repo'])}</p>")
    use = merge_link(one)
    if use:
        links.append(f"<p>{render.link(use, 'Use it in a merge', css='mm-button', here=True)}</p>")
    warned = "".join(render.notice(sentence, "warning") for sentence in one.warnings())
    return (
        f'<section class="mm-card mm-statistics"><h3>{render.text(one.title)} {chip}</h3>'
        f"{render.definitions(one.facts())}{warned}{''.join(links)}</section>"
    )


def found(look: Look, hub_url: str) -> str:
    """All that is published for a model, or in a statistics repo."""
    name = render.text(look.model)
    if not look.summaries:
        return f'<p class="mm-quiet">No statistics of {name} are published yet.</p>{render.problems(look.problems)}'
    head = f"<p>Published statistics{f' of <b>{name}</b>' if name else ''}:</p>"
    return head + "".join(summary(one, hub_url) for one in look.summaries) + render.problems(look.problems)


def preview(one: StatisticsPreview, problems: Sequence[Problem], texts: int | None) -> str:
    """What a wish will do, in plain words, and what stands in the way."""
    if errors_of(problems) or one.parent is None:
        return f'<div class="mm-preview">{render.not_yet(problems)}</div>'
    kinds = " and ".join({"gram": "Gram", "fisher": "Fisher"}[kind] for kind in one.wish.collect)
    target = PLACES[one.wish.publish].format(render.text(one.wish.repo_id or one.parent.model))
    examples = one.wish.text.examples if texts is None else min(texts, one.wish.text.examples)
    source = one.wish.text.data if texts is None else "the text that you hand over"
    rows = {
        "Model": f"{render.kind_of(one.parent)}, {render.size(one.parent.weight_bytes)}",
        "Text": f"{examples:,} examples{' at most' if texts is None else ''}, from {source}",
        "Download": render.size(one.download_bytes),
        "Visibility": "as the model's repo" if one.wish.publish != "own" else "private" if one.private else "public",
    }
    handed = "" if texts is None else _handed_over()
    return (
        f'<div class="mm-preview"><h3 class="mm-yes">Ready to collect</h3><p>{kinds} statistics go to {target}.</p>'
        f"{render.definitions(rows)}{render.problems(problems)}{handed}</div>"
    )


def _handed_over() -> str:
    return (
        '<p class="mm-quiet">Your text is kept for this job alone and deleted when it ends. What is published are sums '
        "over all of its tokens: no text and no row of activations.</p>"
    )


def preview_wait(words: str) -> str:
    """The preview of a form that is not filled yet."""
    return f'<div class="mm-preview"><h3>Preview</h3><p>{render.text(words)}</p></div>'


def job(one: Job, hub_url: str, *, base_url: str = "") -> str:
    """A statistics job as it goes on; at its end what it has made."""
    return job_words.job(one, base_url=base_url, end=_made(one, hub_url) if one.status == "done" and one.url else None)


def _made(one: Job, hub_url: str) -> str:
    words = f"Open {one.repo_id} on the Hub"
    if "/discussions/" in one.url:
        words = f"Open the pull request to {one.repo_id}"
    cards = "".join(summary(Summary.from_dict(data), hub_url) for data in one.summaries)
    return f"<p>{render.link(one.url, words, css='mm-big')}</p>{cards}"


def job_links(one: Job) -> str:
    """What can be done with a wish for statistics: look at the model's, collect others."""
    look = render.link(render.statistics_link(one.models[0]), "Statistics of this model", css="mm-button", here=True)
    return (
        f'<p class="mm-actions">{look} {render.download(one.recipe_yaml, "statistics.yaml", "Download the wish")}</p>'
    )
