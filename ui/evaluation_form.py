"""The evaluation part of the merge form: the sets that the result is to be tried on, and the one being written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from hub.client import Hub
from hub.dataset_look import DataLook, look_at_rows
from jobs.text import TEXT_LIMIT
from merging.errors import InputError, MergeError, Problem
from merging.method import MergeMethod
from merging.parent import Parent
from merging.sweep import LEAST, MOST
from ui import evaluation_words, render
from ui.desk import Desk
from ui.evaluation_sets import (
    DATASET,
    UPLOAD,
    guessed_domain,
    label_wish,
    matched,
    raise_if_unlabelled,
    read_set,
    source_of,
    uploaded_rows,
    with_set,
)
from ui.forms import Draft, methods
from ui.parts import chooser, fragment
from ui.security import spoken
from ui.sweep_fields import choices, is_of_another

Updates = dict[Any, Any]
SOURCES = (("A dataset of the Hub", DATASET), ("A file of mine", UPLOAD))
ENDINGS = [".jsonl", ".csv", ".tsv"]
GUESSED = ("text_column", "label_column", "in_domain", "labels")  # a look at other data writes them anew
INTRO = (
    "The merge is tried on labelled text beside its parents and their plain average. Each set may be the own domain of "
    "one of the models, or new to all of them."
)


class EvaluationForm:
    """The components of this part, by name, and what happens when one is touched."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.controls: dict[str, Component] = {}  # of the set that is being written
        self.sweep: dict[str, Component] = {}  # by the keys of `ui.forms`

    def build(self) -> None:
        """Lay the part out where the page stands, folded."""
        with gr.Accordion("Prove it: evaluate the result", open=False, elem_id="evaluate"):
            fragment(f'<p class="mm-quiet">{INTRO}</p>')
            self.list = chooser(elem_id="evaluation-sets")
            self.note = fragment(elem_id="evaluation-note")
            self.controls["source"] = gr.Radio(list(SOURCES), value=DATASET, label="Where the labelled text comes from")
            self.controls["data"] = gr.Textbox(
                label="Dataset", info="id[:config][:split], such as owner/texts:test", elem_id="evaluation-data"
            )
            self.controls["file"] = gr.File(
                label=f"A {', '.join(ENDINGS)} of at most {TEXT_LIMIT // 1_000_000} MB",
                file_types=ENDINGS,
                type="filepath",
                visible=False,
                elem_id="evaluation-file",
            )
            self.looked = gr.State("")  # what was looked at last: a field that is left as it was changes nothing
            self.look = fragment(elem_id="evaluation-look")
            with gr.Column(visible=False) as self.more:
                with gr.Row():
                    for name, words in (
                        ("text_column", "Column of the texts"),
                        ("label_column", "Column of the labels"),
                    ):
                        self.controls[name] = gr.Dropdown([], label=words, min_width=150, elem_id=f"evaluation-{name}")
                self.controls["in_domain"] = gr.Dropdown(
                    [],
                    multiselect=True,
                    label="Own domain of",
                    info="The models that were made for such text; none: it is new to all of them",
                    elem_id="evaluation-domain",
                )
                self.controls["labels"] = gr.Textbox(
                    label="Labels that are called otherwise",
                    info="One a line: label in the data = label of the model",
                    lines=2,
                    elem_id="evaluation-labels",
                )
                with gr.Row():
                    self.controls["name"] = gr.Textbox(label="Name", placeholder="by the data", min_width=150)
                    self.controls["examples"] = gr.Number(500, label="Examples", precision=0, min_width=110)
                self.add = gr.Button("Add this set", elem_id="evaluation-add")
            with gr.Row(elem_classes="mm-level"):
                self.sweep["sweep.parameter"] = gr.Dropdown(
                    choices(methods()[0]),
                    value="",
                    label="Sweep",
                    info="Try the merge at other values too: a merge each, of which none is published",
                    allow_custom_value=True,  # of a recipe: what is wrong with it is said below the sets
                    min_width=150,
                    elem_id="sweep-parameter",
                )
                self.sweep["sweep.values"] = gr.Textbox(
                    label="Values of the sweep",
                    info=f"{LEAST} to {MOST} numbers; none: five over its range",
                    placeholder="0, 0.25, 0.5, 0.75, 1",
                    min_width=150,
                    elem_id="sweep-values",
                )

    def wire(self, draft: gr.State, known: gr.State, **quiet: Any) -> tuple[Any, Any]:
        """Connect the fields; gives the two events after which the draft has other sets."""
        self._draft, self._known = draft, known
        shown: list[Any] = [*self.controls.values(), self.look, self.more, self.looked]
        inputs: set[Any] = {draft, known, self.looked, *self.controls.values()}
        written = [self.controls["source"].input, self.controls["data"].submit, self.controls["data"].blur]  # type: ignore[attr-defined]
        written += [self.controls["file"].upload, self.controls["file"].clear]  # type: ignore[attr-defined]
        begun = gr.on(written, self._begin, inputs, shown, queue=False, **quiet)
        begun.then(self._look_anew, inputs, shown, **quiet)
        corrected = [self.controls[name].input for name in GUESSED[:3]] + [self.controls["labels"].blur]  # type: ignore[attr-defined]
        gr.on(corrected, self._look, inputs, shown, **quiet)
        changed: list[Any] = [draft, self.list, self.note, *shown]
        added = self.add.click(self._add, inputs, changed, **quiet)
        return added, self.list.click(self._chosen, inputs, changed, **quiet)

    @property
    def outputs(self) -> list[Any]:
        """What `show` writes."""
        return [self.list, self.note, self.sweep["sweep.parameter"]]

    def show(self, draft: Draft, found: Sequence[Problem] = ()) -> Updates:
        """The sets of the draft, and what is wrong with them."""
        return {self.list: evaluation_words.sets(draft.get("evaluate", ())), self.note: render.problems(found)}

    def numbers_of(self, method: MergeMethod, shown: str, chosen: str | None) -> Updates:
        """What a sweep of that method may go over; nothing is touched while it is the method that is shown."""
        if method.name == shown:
            return {}
        stale: dict[str, Any] = {"value": ""} if is_of_another(chosen, method) else {}
        return {self.sweep["sweep.parameter"]: gr.update(choices=choices(method), **stale)}

    # What happens

    def _begin(self, data: dict[Any, Any]) -> Updates:
        """The field of the chosen source, and what is waited for."""
        values = self._values(data)
        updates: Updates = {
            self.controls["data"]: gr.Textbox(visible=values["source"] == DATASET),
            self.controls["file"]: gr.File(visible=values["source"] == UPLOAD),
        }
        if source_of(values) and data[self.looked] != source_of(values):
            updates[self.look] = '<p class="mm-quiet" role="status">Reading the first rows …</p>'
        return updates

    def _look_anew(self, data: dict[Any, Any], token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """Other data: nothing of what was guessed of the last ones stays."""
        values = self._values(data)
        if data[self.looked] == source_of(values):
            return {self.looked: source_of(values)}
        empty: dict[str, Any] = {"text_column": None, "label_column": None, "in_domain": [], "labels": ""}
        updates: Updates = {self.controls[name]: gr.update(value=value) for name, value in empty.items()}
        updates[self.looked] = source_of(values)
        return updates | self._seen(values | empty, data, self._desk.hub(token, request), anew=True)

    def _look(self, data: dict[Any, Any], token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """A guess was corrected: what follows from it is shown anew."""
        return self._seen(self._values(data), data, self._desk.hub(token, request), anew=False)

    def _seen(self, values: dict[str, Any], data: Mapping[Any, Any], hub: Hub, *, anew: bool) -> Updates:
        draft, known = self._state(data)
        if not source_of(values):
            return {self.look: "", self.more: gr.Column(visible=False)}
        with spoken():
            try:
                look, wish = self._looked(values, hub), label_wish(values["labels"])
            except InputError as error:
                return self._refused(error.problems, anew=anew)
            except MergeError as error:
                return self._refused([error.problem], anew=anew)
            models = [entry["model"] for entry in draft["models"]]
            parents = {model: known[model] for model in models if model in known}
            domain = guessed_domain(look, parents) if anew else list(values["in_domain"] or [])
            own = {model: matched(look, parents[model], wish) for model in domain if model in parents and look.labels}
            updates: Updates = {
                self.more: gr.Column(visible=True),
                self.look: evaluation_words.look(look, own),
                self.controls["text_column"]: gr.Dropdown(choices=list(look.columns), value=look.text or None),
                self.controls["label_column"]: gr.Dropdown(choices=list(look.columns), value=look.label or None),
            }
            if anew:
                updates[self.controls["in_domain"]] = gr.Dropdown(choices=models, value=domain)
            return updates

    def _refused(self, problems: Sequence[Problem], *, anew: bool) -> Updates:
        """Data that cannot be read, and may be tried again; or a correction that is none, and may be corrected."""
        updates: Updates = {self.look: render.problems(problems)}
        return updates | ({self.more: gr.Column(visible=False), self.looked: ""} if anew else {})

    def _add(self, data: dict[Any, Any]) -> Updates:
        """The set that was written joins the others, or takes the place of one with the same name and data."""
        draft, known = self._state(data)
        try:
            values = self._values(data)
            look = self._looked(values, Hub.anonymous()) if values["source"] == UPLOAD and values["file"] else None
            entry = read_set(values, look)
            raise_if_unlabelled(entry, [known[one["model"]] for one in draft["models"] if one["model"] in known])
            sets = with_set(draft.get("evaluate", ()), entry)
        except InputError as error:
            return {self.note: render.problems(error.problems)}
        return self._changed(draft | {"evaluate": sets}) | self._emptied()

    def _chosen(self, data: dict[Any, Any], event: gr.EventData) -> Updates:
        """A button of the list: the set goes."""
        draft, _ = self._state(data)
        sets = [one for number, one in enumerate(draft.get("evaluate", ())) if str(number) != event.choice]
        return self._changed(draft | {"evaluate": sets})

    def _changed(self, draft: Draft) -> Updates:
        return {self._draft: draft} | self.show(draft)

    def _emptied(self) -> Updates:
        """The fields of the next set."""
        values: dict[str, Any] = {"data": "", "file": None, "labels": "", "name": "", "in_domain": []}
        emptied = {self.controls[name]: gr.update(value=value) for name, value in values.items()}
        return emptied | {self.look: "", self.more: gr.Column(visible=False), self.looked: ""}

    def _state(self, data: Mapping[Any, Any]) -> tuple[Draft, dict[str, Parent]]:
        return data[self._draft], data[self._known] or {}

    def _values(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        return {name: data[control] for name, control in self.controls.items()}

    def _looked(self, values: Mapping[str, Any], hub: Hub) -> DataLook:
        columns: dict[str, Any] = {name: values[name] or "" for name in ("text_column", "label_column")}
        if values["source"] == UPLOAD:
            return look_at_rows(uploaded_rows(values["file"]), Path(values["file"]).name, **columns)
        return self._desk.look_at_dataset(source_of(values), hub, **columns)
