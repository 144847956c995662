"""The few components that more than one page is made of."""

from typing import Any

import gradio as gr
from gradio.components import Component

from hub.client import Hub
from hub.search import MINIMUM, search_models
from merging.errors import MergeError
from merging.method import Parameter
from ui import render
from ui.forms import help_text, label

SEARCH_HELP = "Type a few letters and pick, or paste owner/name"
NOTHING = [("", "")] * 12  # Gradio cannot draw an open list that becomes shorter: rows that `style.css` hides fill it
CHOOSE = """element.addEventListener('click', (event) => {
    const button = event.target.closest('[data-choice]')
    if (button) trigger('click', {choice: button.dataset.choice})
})"""
NONE_FOUND = "No model with that name (or you have no access)"


def fragment(value: str = "", **more: Any) -> gr.HTML:
    """A piece of our own HTML (see `render`), styled by `style.css` alone."""
    return gr.HTML(value, apply_default_css=False, **more)


def chooser(value: str = "", **more: Any) -> gr.HTML:
    """A piece of our own HTML whose buttons can be pressed: the event `click` tells `data-choice` as `choice`."""
    return gr.HTML(value, apply_default_css=False, js_on_load=CHOOSE, **more)


def search_field(title: str, elem_id: str) -> gr.Dropdown:
    """A field in which a model of the Hub is looked for, see `found_models`, or pasted."""
    return gr.Dropdown(
        choices=[],
        value=None,
        label=title,
        info=SEARCH_HELP,
        allow_custom_value=True,
        interactive=True,
        elem_id=elem_id,
    )


def found_models(hub: Hub, typed: str) -> gr.Dropdown:
    """The list of a search field: models whose name holds what was typed; under the field, why there are none."""
    if len(typed.strip()) < MINIMUM:
        return gr.Dropdown(choices=NOTHING, info=SEARCH_HELP)
    try:
        hits = search_models(hub, typed, len(NOTHING))
    except MergeError as error:
        return gr.Dropdown(choices=NOTHING, info=str(error))
    choices = [(render.hit(one), one.repo_id) for one in hits] + NOTHING[len(hits) :]
    return gr.Dropdown(choices=choices, info=SEARCH_HELP if hits else NONE_FOUND)


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
