"""The page of one merged model, to share: anybody may open it, without signing in."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import gradio as gr

from hub.how_to_load import snippet, trap
from hub.merged import MergedModel
from merging.errors import InputError, MergeError
from ui import charts, heat_map, render, sweep_chart, verify_view
from ui.desk import Desk
from ui.forms import label, share, shared_parameters
from ui.parts import fragment
from ui.security import spoken
from ui.try_it import TryItSection, kind_of
from ui.verify import VerifySection


class ModelPage:
    """`/model?id=owner/merged`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def build(self, page: gr.Blocks) -> None:
        """Lay the page out inside the `page` that is open, and wire it."""
        self.body = fragment('<p class="mm-quiet">Reading the recipe …</p>', elem_id="merged")
        page.load(self._open, None, self.body, show_progress="hidden", api_visibility="private")
        TryItSection(self._desk).build(page)
        VerifySection(self._desk).build(page)

    def _open(self, token: gr.OAuthToken | None, request: gr.Request) -> str:
        with spoken():
            repo_id = str(request.query_params.get("id") or "")
            if not repo_id:
                return render.notice("This page shows one merged model: /model?id=owner/name", "warning")
            hub = self._desk.hub(token, request)
            try:
                merged = self._desk.merged(repo_id, hub)
                badge = verify_view.badge(self._desk.verification(merged))
                return merged_html(merged, hub.url, badge, trying=bool(kind_of(merged, self._desk.trying)))
            except InputError as error:
                return render.problems(error.problems)
            except MergeError as error:
                return render.problems([error.problem])


def merged_html(merged: MergedModel, hub_url: str, badge: str = "", *, trying: bool = False) -> str:
    """What it is, from what, how, how to load it, and the way to merge it again. `badge` tells of its verification.

    Below it the page has a section in which to verify it, and one for `trying` it where that can be done.
    """
    text, recipe = render.text, merged.recipe
    again = f"/?{urlencode({'model': merged.repo_id})}"
    actions = render.link(merged.url, "Open on the Hub", css="mm-big")
    actions += " " + render.link(again, "Merge again", css="mm-button", here=True)
    below = {"try-it": "Try it"} if trying else {}
    for place, words in (below | {"verified": "Verify"}).items():
        address = f"/model?{urlencode({'id': merged.repo_id})}#{place}"
        actions += " " + render.link(address, words, css="mm-button mm-jump", here=True)
    actions += " " + render.download(recipe.to_yaml(), "recipe.yaml", "Download the recipe")
    actions += " " + render.copy_button("Copy the link to this page")
    shape = f", one body with {render.plural(len(merged.folders), 'head')}" if merged.folders else ""
    what = f"{text(recipe.method.title)} of {render.plural(len(recipe.models), 'model')}{shape}"
    private = ' <span class="mm-chip">private</span>' if merged.private else ""
    parts = [
        f"<h2>{text(merged.repo_id)}{private}</h2>{badge}<p>{what}.</p><p class='mm-actions'>{actions}</p>",
        *_figures(merged.report or {}),
        _section("From what", _parents(merged, hub_url)),
        _section("How", _method(merged)),
        _section("How to load it", _loading(merged)),
        _section("Licence", f"<p>{text(merged.license or 'The card names none: ask the owners of the parents.')}</p>"),
        _section("Recipe", render.snippet(recipe.to_yaml(), "recipe")),
    ]
    return f'<article class="mm-merged">{"".join(parts)}</article>'


def _figures(report: Mapping[str, Any]) -> list[str]:
    """How it does and where its models differ, as far as the merge was published with figures."""
    evaluation = report.get("evaluation") or {}
    evaluated = charts.evaluation(evaluation) + sweep_chart.sweep(evaluation)
    differ = heat_map.differences(report.get("differences") or {})
    parts = [_section("How it does", evaluated)] if evaluated else []
    return parts + ([_section("Where the models differ", differ)] if differ else [])


def _loading(merged: MergedModel) -> str:
    """Python for every model, each of which can be pasted by itself."""
    parts = []
    for model in merged.models:
        title = f"<h4>{render.text(model.folder)}</h4>" if model.folder else ""
        parts.append(f"{title}{render.snippet(snippet(merged.repo_id, model), 'code')}")
    warning = trap(merged.models).replace("`", "").replace("\n", " ")
    return "".join(parts) + (render.notice(warning, "warning") if warning else "")


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
    facts = {label(one): render.setting(bound[one.name]) for one in shared_parameters(method)}
    return render.method_summary(method) + render.definitions(facts)
