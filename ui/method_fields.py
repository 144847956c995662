"""The second part of the merge form: the method, and the parameters that it has for all models."""

from typing import Any

import gradio as gr
from gradio.components import Component

from merging.method import MergeMethod
from ui import render
from ui.base_picker import BasePicker
from ui.forms import SAME_DTYPE, label, methods, shared_key, shared_parameters
from ui.parts import fragment, parameter_component


class MethodFields:
    """The components of this part."""

    def __init__(self) -> None:
        self.controls: dict[str, Component] = {}  # by the keys of `ui.forms`
        self.groups: dict[str, gr.Group] = {}

    def build(self, base: BasePicker) -> None:
        """Lay the part out where the page stands, the field of the base in its middle."""
        fragment('<h2 id="method"><span>2</span> Method</h2>')
        first = methods()[0]
        choices = [(method.title, method.name) for method in methods()]
        self.controls["merge_method"] = gr.Radio(choices, value=first.name, label="Merge method", elem_id="methods")
        self.summary = fragment(render.method_summary(first))
        base.build()
        self.controls["base_model"] = base.field
        for method in methods():
            with gr.Group(visible=method is first and bool(shared_parameters(method))) as group:
                for parameter in shared_parameters(method):
                    key = shared_key(method, parameter)
                    self.controls[key] = parameter_component(parameter, label(parameter), elem_id=key.replace(".", "-"))
            self.groups[method.name] = group
        self.note = fragment(elem_id="parameters-note")
        with gr.Accordion("More", open=False):
            self.controls["dtype"] = gr.Dropdown(
                [SAME_DTYPE, "float32", "float16", "bfloat16"], value=SAME_DTYPE, label="Numbers are stored"
            )
            self.controls["seed"] = gr.Number(0, label="Seed", precision=0)

    @property
    def outputs(self) -> list[Any]:
        """What `show` writes."""
        return [self.summary, *self.groups.values()]

    def show(self, method: MergeMethod) -> dict[Any, Any]:
        """The method in words, and its parameters in place of another's."""
        updates: dict[Any, Any] = {group: gr.Group(visible=False) for group in self.groups.values()}
        updates[self.groups[method.name]] = gr.Group(visible=bool(shared_parameters(method)))
        return updates | {self.summary: render.method_summary(method)}
