"""What people read, as HTML made of escaped text: the Hub's names, its cards and every error are from strangers.

Every function returns a fragment for `gr.HTML`. Class names begin with `mm-` and are styled in `style.css`.
"""

import base64
import html
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote, urlencode

from hub.search import Hit
from merging.errors import Problem, errors_of
from merging.method import MergeMethod
from merging.parent import Parent
from merging.plan import Plan
from merging.progress import size as size
from merging.recipe import Recipe
from ui.field_names import on_page

TASK_NAMES = {
    "ForSequenceClassification": "text classifier",
    "ForTokenClassification": "token classifier",
    "ForQuestionAnswering": "question answering",
    "ForMaskedLM": "masked language model",
    "ForCausalLM": "language model",
    "LMHeadModel": "language model",
    "ForImageClassification": "image classifier",
}
NEED_NAMES = {"gram": "Gram statistics", "fisher": "Fisher statistics", "base": "the common base"}


def text(value: object, limit: int = 300) -> str:
    """Anything as text that HTML leaves alone, at most `limit` characters of it."""
    words = str(value).encode(errors="replace").decode()
    return html.escape(words if len(words) <= limit else words[: limit - 1] + "…")


def link(url: str, words: str, *, css: str = "", here: bool = False) -> str:
    """A link, in a new tab unless `here`. Anything but http(s) and our own paths becomes plain text."""
    if not re.match(r"https?://|/(?![/\\])", url):
        return text(words)
    kind = f' class="{css}"' if css else ""
    tab = "" if here else ' target="_blank" rel="noopener"'
    return f'<a href="{html.escape(url)}"{kind}{tab}>{text(words)}</a>'


def number(count: int) -> str:
    """A number of parameters in words: `22.7 M`."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return str(count)


def setting(value: object) -> str:
    """The value of a parameter as a recipe says it: `true`, not `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def plural(count: int, word: str) -> str:
    """`1 head`, `3 heads`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def ago(moment: float, now: float | None = None) -> str:
    """A Unix time in words: `3 minutes ago`."""
    seconds = max(0.0, (time.time() if now is None else now) - moment)
    if seconds < 45:
        return "just now"
    for limit, length, word in ((3600, 60, "minute"), (86400, 3600, "hour")):
        if seconds < limit - length / 2:
            return f"{plural(max(1, round(seconds / length)), word)} ago"
    return f"{plural(round(seconds / 86400), 'day')} ago"


def paper(method: MergeMethod) -> str:
    """The paper of a method, its arXiv number as a link."""
    found = re.search(r"arXiv (\d{4}\.\d{4,5})", method.paper)
    url = f"https://arxiv.org/abs/{found[1]}" if found else method.paper
    return link(url, method.paper)


def problems(found: Iterable[Problem]) -> str:
    """A list of problems, errors first."""
    ordered = sorted(found, key=lambda problem: problem.severity != "error")
    if not ordered:
        return ""
    items = "".join(
        f'<li class="mm-{problem.severity}"><span class="mm-sr">{problem.severity}: </span>'
        f"{text(on_page(problem), 900)}</li>"
        for problem in ordered
    )
    return f'<ul class="mm-problems">{items}</ul>'


def notice(sentence: str, kind: str = "info") -> str:
    """One sentence that stands out: `info`, `warning` or `error`."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="mm-notice mm-{kind}" role="{role}">{text(sentence, 900)}</p>' if sentence else ""


def method_summary(method: MergeMethod) -> str:
    """What a method does, in one line, with its paper."""
    named = ", ".join(NEED_NAMES.get(need, need) for need in sorted(method.needs))
    needs = f' <span class="mm-chip">needs {text(named)}</span>' if named else ""
    return f'<p class="mm-summary">{text(method.summary, 500)}{needs}<br><small>{paper(method)}</small></p>'


def hit(found: Hit) -> str:
    """One search result as a line of the picker (plain text: a dropdown shows it as it is)."""
    facts = [fact for fact in (found.task, found.model_type, "private" if found.private else "") if fact]
    return f"{found.repo_id}  ·  {' · '.join(facts)}"[:160] if facts else found.repo_id


def kind_of(parent: Parent) -> str:
    """`bert text classifier, 77 labels`."""
    task = next((name for ending, name in TASK_NAMES.items() if parent.architecture.endswith(ending)), "model")
    named = f", {len(parent.labels)} labels" if "classifier" in task and parent.labels else ""
    return f"{parent.model_type} {task}{named}".strip()


def model_row(
    model: str,
    parent: Parent | None,
    share: str,
    needs: Iterable[str],
    found: Sequence[Problem],
    hub_url: str,
    recipe: Recipe | None = None,
    looked: bool = True,
) -> str:
    """One picked model: what it is, its share, what was found of what the method needs, what is wrong with it.

    Whoever collects what is missing finds the way back to the `recipe`; `looked` is whether it was asked for yet.
    """
    repo_id, _, revision = model.partition("@")
    name = link(f"{hub_url}/{quote(repo_id, errors='replace')}", repo_id, css="mm-model")
    pinned = f' <code title="pinned revision">{text(revision[:8])}</code>' if revision else ""
    chips = [f'<span class="mm-chip mm-share">{text(share)}</span>'] if share else []
    if parent is not None:
        facts = [kind_of(parent), size(parent.weight_bytes), parent.license or "no licence named"]
        facts += ["private or gated"] if parent.restricted else []
        chips += [f'<span class="mm-chip">{text(fact, 80)}</span>' for fact in facts]
        chips += [_statistics_chip(parent, kind, recipe) for kind in sorted(needs) if kind != "base"]
    elif not found:
        chips.append(f'<span class="mm-chip">{"not looked up" if looked else "looking it up …"}</span>')
    facts_line = f'<div class="mm-chips">{"".join(chips)}</div>'
    return f'<div class="mm-row"><div>{name}{pinned}</div>{facts_line}{problems(found)}</div>'


def _statistics_chip(parent: Parent, kind: str, recipe: Recipe | None) -> str:
    fact, name = parent.statistics.get(kind), kind.title()
    if fact is not None:
        examples = f" from {plural(fact.examples, 'example')}" if fact.examples else ""
        return f'<span class="mm-chip mm-good" title="{text(fact.source)}">{name} found{examples}</span>'
    if parent.calibration:
        return f'<span class="mm-chip">{name} collected from text</span>'
    model = f"{parent.model}@{parent.revision}" if parent.revision else parent.model
    collect = link(statistics_link(model, kind, recipe), "collect them", here=True)
    return f'<span class="mm-chip mm-bad">{name} missing</span> <span class="mm-chip">{collect}</span>'


def preview(plan: Plan, parents: Sequence[Parent], found: Sequence[Problem], *, private: bool, signed_in: bool) -> str:
    """What will happen, in plain words, and what stands in the way."""
    if errors_of(found):
        return impossible(found)
    body = f'<h3 class="mm-yes">{"Ready to merge" if signed_in else "This merge will work"}</h3>'
    expected = f"<p>{text(plan.expectation)}</p>" if plan.expectation else ""
    body += f"<p>{_outcome(plan, parents)}</p>{expected}{_facts(plan, private)}"
    return f'<div class="mm-preview">{body}{problems(found)}{_nothing_fetched()}</div>'


def impossible(found: Sequence[Problem]) -> str:
    """What stands in the way of a merge."""
    return f'<div class="mm-preview">{not_yet(found)}{_nothing_fetched()}</div>'


def not_yet(found: Sequence[Problem]) -> str:
    """How much is to be mended, and what."""
    head = f'<h3 class="mm-no">Not yet: {plural(len(errors_of(found)), "thing")} to mend</h3>'
    return head + problems(found)


def about() -> str:
    """What this is, for somebody who meets an empty form."""
    return (
        '<p class="mm-about">Make one model out of several that were fine-tuned from the same base: pick them from the '
        f"Hugging Face Hub, choose {link('/methods', 'a method', here=True)}, and the result is published there under "
        "your name. No training, no code.</p>"
    )


def preview_wait(models: int, least: int = 2) -> str:
    """The preview of a form that has too few models for a method that takes at least so many."""
    first = "Pick two or more models." if least > 1 else "Pick a model."
    words = (
        f"{first} What the merge will do stands here, before any weights are fetched."
        if models == 0
        else f"Pick {'one more model' if least - models == 1 else f'{least - models} more models'}."
    )
    return f'<div class="mm-preview"><h3>Preview</h3><p>{words}</p></div>'


def _outcome(plan: Plan, parents: Sequence[Parent]) -> str:
    method = plan.recipe.method
    what = f"<b>{text(method.title)}</b> of {plural(len(parents), 'model')}"
    what += f" and the base <code>{text(plan.recipe.base.repo_id)}</code>" if plan.recipe.base else ""
    folders = [output.folder for output in plan.outputs if output.folder]
    size_of = number(plan.parameters(plan.outputs[0])) if plan.outputs else "?"
    if plan.head_rule != "apart":
        return f"{what} becomes one model of {size_of} parameters."
    names = ", ".join(f"<code>{text(folder)}/</code>" for folder in folders)
    root = plan.recipe.tasks[plan.outputs[0].parent]
    return (
        f"{what} becomes <b>one body with {plural(len(folders), 'head')}</b>, {size_of} parameters each: {names}. "
        f"The repo's root loads <code>{text(root)}</code>."
    )


def _facts(plan: Plan, private: bool) -> str:
    actions = [step.action for step in plan.steps]
    merged, averaged = actions.count("merge"), actions.count("average")
    work = f"{plural(merged, 'tensor')} by {plan.recipe.method.title}"
    reasons = {step.reason for step in plan.steps if step.action == "average" and step.reason}
    work += f", {averaged} averaged" if averaged else ""
    work += f" ({reasons.pop()})" if len(reasons) == 1 else ""
    rows = {
        "Tensors": work,
        "Download": size(plan.download_bytes),
        "Result": f"{size(plan.output_bytes)} in {plural(len(plan.shards), 'file')}",
        "Disk needed": f"at most {size(plan.disk_bytes)} at a time",
        "Visibility": "private repo" if private else "public repo",
    }
    if plan.recipe.evaluate:
        rows["Evaluated on"] = ", ".join(one.title for one in plan.recipe.evaluate)
    if plan.recipe.sweep:
        values = ", ".join(map(str, plan.recipe.sweep.values))
        rows["Evaluated also at"] = f"{plan.recipe.sweep.parameter} = {values}: a merge each, one at a time"
    return definitions(rows)


def definitions(rows: Mapping[str, str]) -> str:
    """A list of facts; the values are text."""
    items = "".join(f"<div><dt>{text(key)}</dt><dd>{text(value)}</dd></div>" for key, value in rows.items())
    return f'<dl class="mm-facts">{items}</dl>'


def _nothing_fetched() -> str:
    return '<p class="mm-quiet">0 bytes of weights fetched so far: this is known from headers alone.</p>'


def recipe_link(base_url: str, recipe: Recipe) -> str:
    """The form filled with this recipe, as a link."""
    return f"{base_url}/?{urlencode({'recipe': recipe.to_link()})}"


def statistics_link(model: str, kind: str = "", recipe: Recipe | None = None) -> str:
    """The Statistics page with that model and kind filled in, and the way back to a merge."""
    query = {"model": model} | ({"collect": kind} if kind else {}) | ({"recipe": recipe.to_link()} if recipe else {})
    return f"/statistics?{urlencode(query)}"


def download(content: str, name: str, words: str) -> str:
    """A link that saves a text under a name, without asking the server again."""
    data = base64.b64encode(content.encode()).decode()
    return f'<a class="mm-button" download="{text(name)}" href="data:text/yaml;base64,{data}">{text(words)}</a>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells that are HTML already. On a phone each row stands as a block, its cells named by the head."""
    body = "".join(f"<tr><th scope=row>{row[0]}</th>{''.join(map(_cell, head[1:], row[1:]))}</tr>" for row in rows)
    names = "".join(f"<th scope=col>{text(name)}</th>" for name in head)
    return f'<div class="mm-scroll"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(name: str, cell: str) -> str:
    whole = f"<span>{cell}</span>" if cell else ""
    return f'<td data-head="{text(name)}">{whole}</td>'


def details(summary: str, body: str) -> str:
    """HTML that is shown at a click on its summary."""
    return f'<details class="mm-details"><summary>{text(summary)}</summary>{body}</details>'


def snippet(words: str, what: str, limit: int = 20_000) -> str:
    """Text to be copied, with a button that does it."""
    pre = f'<pre class="mm-log" tabindex="0" aria-label="{text(what)}">{text(words, limit)}</pre>'
    return f'<div class="mm-snippet">{pre}{copy_button(f"Copy the {what}")}</div>'


def copy_button(words: str) -> str:
    """A button that copies the text above it, or the page's address where there is none (`ui.shell.SCRIPT`)."""
    return f'<button type="button" class="mm-copy">{text(words)}</button>'
