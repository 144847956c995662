"""The last part of the merge form: where the result goes, and the whole wish as a file."""

import re
from typing import Any

import gradio as gr
from gradio.components import Component

from hub.client import Hub
from ui.desk import Desk
from ui.forms import Draft, Values, default_name, merged_rows
from ui.parts import fragment


class ResultFields:
    """The components of this part."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.controls: dict[str, Component] = {}  # by the keys of `ui.forms`

    def build(self) -> None:
        """Lay the part out where the page stands."""
        fragment('<h2 id="result"><span>3</span> Result</h2>')
        with gr.Row():
            self.controls["output.owner"] = gr.Dropdown(
                [], value=None, label="Owner", allow_custom_value=True, min_width=140, elem_id="owner"
            )
            self.controls["output.name"] = gr.Textbox(label="Name of the new repo", min_width=180, elem_id="repo-name")
        self.controls["output.private"] = gr.Checkbox(
            label="Private", info="A merge of private or gated models is private in any case"
        )
        self.controls["output.root"] = gr.Dropdown(
            [], value=None, label="The repo's root loads the task", visible=False, elem_id="root"
        )
        self.note = fragment(elem_id="output-note")
        with gr.Accordion("Recipe (YAML)", open=False, elem_id="recipe"):
            self.yaml = gr.Textbox(
                label="The whole wish as a file",
                info="Copy it, change it, paste another",
                lines=10,
                max_lines=30,
                buttons=["copy"],
                elem_classes="mm-mono",
                elem_id="yaml",
            )
            self.load = gr.Button("Load this recipe into the form", size="sm")
            self.yaml_note = fragment()

    def choose_name(self, offer: dict[str, Any], draft: Draft, values: Values, named: str, hub: Hub) -> None:
        """Offer a name for the result as long as nobody else gave one; a name that still fits is not offered again."""
        names = [draft["models"][row]["model"] for row in merged_rows(draft, values)]
        wanted = default_name(names, values["merge_method"])
        shown = values["output.name"] or ""
        if shown not in ("", named) or re.fullmatch(rf"{re.escape(wanted)}(-\d+)?", shown):
            return
        values["output.name"] = self._desk.free_name(hub, values["output.owner"] or "", wanted)
        offer["name"] = {"value": values["output.name"]}
