"""The few components that more than one page is made of."""

from typing import Any

import gradio as gr
from gradio.components import Component

from merging.method import Parameter
from ui.forms import help_text, label


def fragment(value: str = "", **more: Any) -> gr.HTML:
    """A piece of our own HTML (see `render`), styled by `style.css` alone."""
    return gr.HTML(value, apply_default_css=False, **more)


def parameter_component(parameter: Parameter, name: str, **more: Any) -> Component:
    """The field of a declared parameter. Ranges are checked by the recipe, whose sentences are better."""
    if parameter.kind == "bool":
        return gr.Checkbox(parameter.default, label=name, info=help_text(parameter), **more)
    if parameter.kind == "choice":
        choices = list(parameter.option.choices)
        return gr.Dropdown(choices, value=parameter.default, label=name, info=help_text(parameter), **more)
    if parameter.per_model:
        return gr.Number(parameter.default, label=label(parameter), min_width=90, scale=0, **more)
    return gr.Number(parameter.default, label=name, info=help_text(parameter), **more)
