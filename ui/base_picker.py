"""The field of the base model: searched like the models, shown for methods that need it, filled by itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from hub.client import Hub
from merging.errors import MergeError, Problem
from merging.method import MergeMethod, find_method
from merging.parent import Parent
from ui import browser, render
from ui.desk import Desk
from ui.forms import Draft, Values, base_of, common_base, hub_id
from ui.parts import NOTHING, found_models, fragment, search_field

Updates = dict[Any, Any]


class BasePicker:
    """The components of the field, inside the merge page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def build(self) -> None:
        """Lay the field out where the page stands."""
        self.asked = gr.Textbox(visible=False)  # what its search looked for last
        self.written = gr.Textbox(visible=False)  # what the form wrote into the field by itself
        with gr.Group(visible=False) as self.group:
            self.field = search_field("Base model", "base")
            self.why = fragment(elem_id="base-why")
        self.note = fragment(elem_id="base-note")

    def wire(self, **quiet: Any) -> None:
        """The search as somebody types."""
        asking: dict[str, Any] = {"js": browser.typed("base"), "queue": False, "trigger_mode": "once"}
        found = self.field.key_up(self._search, self.asked, [self.field, self.asked], **asking, **quiet)
        found.then(None, self.asked, None, js=browser.ask_again("base"), api_visibility="private")
        self.field.input(self._chosen, self.field, self.field, queue=False, **quiet)

    def show(self, method: MergeMethod, problems: Sequence[Problem], reason: str) -> Updates:
        """The field where the method needs a base, why it is suggested, and what is wrong with it."""
        needed = "base" in method.needs
        notes = {self.why: reason, self.note: render.problems(problems if needed else ())}
        return {self.group: gr.Group(visible=needed)} | notes

    def reason(self, draft: Draft, values: Values, hub: Hub, known: Mapping[str, Parent]) -> str:
        """Why the base that stands in the field is the one that the models have in common, "" where it is not."""
        found = [known[entry["model"]] for entry in draft["models"] if entry["model"] in known]
        base = base_of(values)
        if not base or len(found) < len(draft["models"]):
            return ""
        try:
            common = self._desk.common_base(found, hub)
        except MergeError:
            return ""
        return f'<p class="mm-quiet">Suggested: {render.text(common.why)}.</p>' if common.repo_id == base else ""

    def suggest(
        self, offer: dict[str, Any], draft: Draft, values: Values, written: str, hub: Hub, known: Mapping[str, Parent]
    ) -> bool:
        """Offer the base that models have in common, unless somebody chose one; True when `values` has another now."""
        chosen = values["base_model"] or ""
        if hub_id(chosen) not in ("", written):
            return False
        parents = [known.get(entry["model"]) for entry in draft["models"]]  # one of them may be the base of the others
        found = [parent for parent in parents if parent is not None]
        if len(found) < len(parents):
            return False  # not all of them are known yet
        wanted = self._common(found, values, hub)
        if wanted == chosen:
            return False
        values["base_model"] = wanted
        offer["base"] = {"value": wanted}
        return True

    def _common(self, parents: Sequence[Parent], values: Values, hub: Hub) -> str:
        """What the cards name; where the method reads a base and they do not agree, what the weights say."""
        if "base" in find_method(values["merge_method"]).needs:
            try:
                return self._desk.common_base(parents, hub).repo_id
            except MergeError:
                pass  # the preview will say what is wrong
        return common_base(parents)

    def _chosen(self, model: str | None) -> gr.Dropdown:
        """The name alone, also of what was picked from the list or pasted as a link."""
        return gr.Dropdown(value=hub_id(model or ""), choices=NOTHING)

    def _search(self, typed: str, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """Models whose name holds what was typed so far, and what that was."""
        return {self.field: found_models(self._desk.hub(token, request), typed), self.asked: typed}
