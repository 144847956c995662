"""The page of one merged model, to share: anybody may open it, without signing in."""

from urllib.parse import quote, urlencode

import gradio as gr

from hub.how_to_load import CLASSES, PIPELINES, pipeline_tag
from hub.merged import MergedModel
from merging.errors import InputError, MergeError
from ui import render
from ui.desk import Desk
from ui.forms import label, share, shared_parameters
from ui.parts import fragment
from ui.security import spoken


class ModelPage:
    """`/model?id=owner/merged`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def build(self, page: gr.Blocks) -> None:
        """Lay the page out inside the `page` that is open, and wire it."""
        self.body = fragment('<p class="mm-quiet">Reading the recipe …</p>', elem_id="merged")
        page.load(self._open, None, self.body, show_progress="hidden", api_visibility="private")

    def _open(self, token: gr.OAuthToken | None, request: gr.Request) -> str:
        with spoken():
            repo_id = str(request.query_params.get("id") or "")
            if not repo_id:
                return render.notice("This page shows one merged model: /model?id=owner/name", "warning")
            hub = self._desk.hub(token, request)
            try:
                return merged_html(self._desk.merged(repo_id, hub), hub.url)
            except InputError as error:
                return render.problems(error.problems)
            except MergeError as error:
                return render.problems([error.problem])


def merged_html(merged: MergedModel, hub_url: str) -> str:
    """What it is, from what, how, how to load it, and the way to merge it again."""
    text, recipe = render.text, merged.recipe
    again = f"/?{urlencode({'model': merged.repo_id})}"
    actions = render.link(merged.url, "Open on the Hub", css="mm-big")
    actions += " " + render.link(again, "Merge again", css="mm-button", here=True)
    actions += " " + render.download(recipe.to_yaml(), "recipe.yaml", "Download the recipe")
    shape = f", one body with {render.plural(len(merged.folders), 'head')}" if merged.folders else ""
    what = f"{text(recipe.method.title)} of {render.plural(len(recipe.models), 'model')}{shape}"
    private = ' <span class="mm-chip">private</span>' if merged.private else ""
    parts = [
        f"<h2>{text(merged.repo_id)}{private}</h2><p>{what}.</p><p class='mm-actions'>{actions}</p>",
        _section("From what", _parents(merged, hub_url)),
        _section("How", _method(merged)),
        _section(
            "How to load it", f"<pre class='mm-log' tabindex=0>{text(loading(merged), 4000)}</pre>{_warning(merged)}"
        ),
        _section("Licence", f"<p>{text(merged.license or 'The card names none: ask the owners of the parents.')}</p>"),
        _section("Recipe", f"<pre class='mm-log' tabindex=0>{text(recipe.to_yaml(), 20_000)}</pre>"),
    ]
    return f'<article class="mm-merged">{"".join(parts)}</article>'


def loading(merged: MergedModel) -> str:
    """The lines of Python that load the model, task by task."""
    tag = pipeline_tag(merged.architecture)
    auto = CLASSES.get(tag, "AutoModel")
    lines = [f"from transformers import AutoTokenizer, {auto}", "", f'repo = "{merged.repo_id}"']
    if not merged.folders:
        return "\n".join(
            [*lines, f"model = {auto}.from_pretrained(repo)", "tokenizer = AutoTokenizer.from_pretrained(repo)"]
        )
    for folder in merged.folders:
        lines.append(f'model = {auto}.from_pretrained(repo, subfolder="{folder}")')
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained(repo, subfolder="{merged.folders[0]}")')
    if tag in PIPELINES:
        lines[0] += ", pipeline"
        lines.append(f'classify = pipeline("{tag}", model=repo, model_kwargs={{"subfolder": "{merged.folders[0]}"}})')
    return "\n".join(lines)


def _warning(merged: MergedModel) -> str:
    if not merged.folders:
        return ""
    sentence = 'pipeline(..., subfolder="...") silently takes the root of the repo: use model_kwargs as above.'
    return render.notice(sentence, "warning")


def _section(title: str, body: str) -> str:
    return f'<section class="mm-card"><h3>{render.text(title)}</h3>{body}</section>'


def _parents(merged: MergedModel, hub_url: str) -> str:
    text, recipe = render.text, merged.recipe
    folders = dict(zip(recipe.tasks, recipe.models, strict=True))
    rows = [
        (
            render.link(f"{hub_url}/{quote(entry.repo_id)}", entry.repo_id),
            text(share(recipe, weight)),
            f"<code>{text(entry.revision[:8])}</code>" if entry.revision else "",
            f"<code>{text(task)}/</code>" if task in merged.folders else "",
        )
        for (task, entry), weight in zip(folders.items(), recipe.effective_weights, strict=False)
    ]
    if recipe.base is not None:
        base = recipe.base
        named = render.link(f"{hub_url}/{quote(base.repo_id)}", base.repo_id)
        rows.append((named, "the base", f"<code>{text((base.revision or '')[:8])}</code>", ""))
    return render.table(("Model", "Share", "Revision", "Head"), rows)


def _method(merged: MergedModel) -> str:
    method, bound = merged.recipe.method, merged.recipe.bound()
    facts = {label(one): str(bound[one.name]) for one in shared_parameters(method)}
    return render.method_summary(method) + render.definitions(facts)
