"""The rows of the merge form: one for each picked model, with its fields, and what is known of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from merging.errors import Problem
from merging.method import MergeMethod
from merging.parent import Parent
from merging.recipe import Recipe
from ui import render
from ui.forms import ROWS, Draft, label, methods, model_parameters, per_model
from ui.parts import fragment, parameter_component

Updates = dict[Any, Any]


class ModelRows:
    """The components of all rows; those without a model are hidden."""

    def __init__(self, hub_url: str) -> None:
        self._hub_url = hub_url
        self.controls: dict[str, Component] = {}  # by the keys of `ui.forms`
        self.rows: list[gr.Column] = []
        self.texts: list[gr.HTML] = []
        self.removes: list[gr.Button] = []

    def build(self) -> None:
        """Lay the rows out where the page stands."""
        first = per_model(methods()[0])
        for index in range(ROWS):
            with gr.Column(visible=False, elem_id=f"row-{index + 1}", elem_classes="mm-model-row") as row:
                with gr.Row(equal_height=False):
                    self.texts.append(fragment(elem_id=f"model-{index + 1}"))
                    for parameter in model_parameters():
                        key = f"models.{index}.parameters.{parameter.name}"
                        name, used = f"{label(parameter)} of model {index + 1}", parameter.name in first
                        self.controls[key] = parameter_component(parameter, name, visible=used)
                    remove = gr.Button("Remove", size="sm", min_width=80, scale=0, elem_id=f"remove-{index + 1}")
                    self.removes.append(remove)
                with gr.Accordion("Task name, text for statistics", open=False):
                    self.controls[f"models.{index}.task"] = gr.Textbox(
                        label="Task name",
                        info="Folder of its head when the heads stay apart",
                        placeholder="by its name",
                    )
                    self.controls[f"models.{index}.calibration.data"] = gr.Textbox(
                        label="Text to collect statistics from",
                        info="A dataset of the Hub, id[:config][:split]; empty: published ones, found by themselves",
                    )
            self.rows.append(row)

    @property
    def parameters(self) -> dict[str, Component]:
        """The per-model parameters of all rows, by their keys."""
        return {key: control for key, control in self.controls.items() if ".parameters." in key}

    def show(self, draft: Draft) -> Updates:
        """A row for each model of the draft, which is not looked up yet."""
        updates: Updates = {}
        for index in range(ROWS):
            model = draft["models"][index]["model"] if index < len(draft["models"]) else ""
            updates[self.rows[index]] = gr.Column(visible=bool(model))
            waiting = render.model_row(model, None, "", (), (), self._hub_url, looked=False) if model else ""
            updates[self.texts[index]] = waiting
        return updates

    def fields_of(self, method: MergeMethod, shown: str) -> Updates:
        """Rows with the fields that the method has; nothing is touched while the method is the one that is shown."""
        if method.name == shown:
            return {}
        used, fields = per_model(method), self.parameters.items()
        return {control: gr.update(visible=key.rpartition(".")[2] in used) for key, control in fields}

    def describe(
        self,
        draft: Draft,
        merged: Sequence[int],
        known: Mapping[str, Parent],
        shares: Sequence[str],
        method: MergeMethod,
        beside: Mapping[str, Sequence[Problem]],
        recipe: Recipe | None,
    ) -> Updates:
        """What is known of each model, and what is wrong with it. `merged` are the rows that the recipe has."""
        updates: Updates = {}
        for row, entry in enumerate(draft["models"]):
            place = merged.index(row) if row in merged else None
            role = "the base of the merge" if place is None else shares[place] if shares else ""
            updates[self.texts[row]] = render.model_row(
                entry["model"],
                known.get(entry["model"]),
                role,
                method.needs if place is not None else (),
                beside.get(f"models.{place}", ()),
                self._hub_url,
                recipe,
            )
        return updates
