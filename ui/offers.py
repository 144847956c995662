"""What the form offers below its search: an empty one examples, another one what else was made from the same base."""

import gradio as gr

from hub.search import fine_tunes_of
from merging.errors import MergeError
from merging.parent import Parent
from ui import examples
from ui.desk import Desk
from ui.examples import Examples
from ui.forms import ROWS, Draft, common_base
from ui.parts import chooser

SUGGESTED = 5  # further fine-tunes of the same base


class Offers:
    """One line of links or buttons, whose room is there from the beginning."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._examples = Examples(desk.examples)

    def build(self) -> None:
        """Lay it out where the page stands."""
        self.line = chooser(elem_id="offers")

    def of(
        self, draft: Draft, known: dict[str, Parent] | None, token: gr.OAuthToken | None, request: gr.Request
    ) -> str:
        """What an empty form may begin with, or what else was made from the base of the models that are picked."""
        hub, picked = self._desk.hub(token, request), {entry["model"].partition("@")[0] for entry in draft["models"]}
        if not picked:
            return examples.shown(self._examples.available(hub))
        base = common_base([parent for parent in (known or {}).values() if parent.model in picked])
        if not base or len(picked) == ROWS:
            return ""
        try:
            found = [hit.repo_id for hit in fine_tunes_of(hub, base)]
        except MergeError:
            return ""  # the preview says what is wrong
        return examples.suggested([name for name in found if name not in picked][:SUGGESTED], base)
