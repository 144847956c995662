"""The Statistics page: what is published for a model, and collecting what is not, as a job."""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio.components import Component

from hub.client import Hub
from jobs.text import TEXT_LIMIT
from merging.errors import InputError, MergeError, Problem, errors_of
from merging.recipe import recipe_from_link
from merging.roles import Reads
from ui import browser, job_words, render, statistics_view
from ui.desk import Desk, Turns
from ui.forms import hub_id
from ui.job_view import JobView
from ui.merge_page import NO_WORKER
from ui.parts import found_models, fragment, search_field
from ui.security import spoken
from ui.statistics_form import (
    DATASET,
    KINDS,
    PASTE,
    PLACES,
    SOURCES,
    UPLOAD,
    VARIANTS,
    by_field,
    from_query,
    has_text,
    read_text,
    read_wish,
    shown_columns,
    to_query,
)

Updates = dict[Any, Any]
COLUMNS = ("text_column", "target_column", "image_column", "variant", "label_column")  # shown where they mean something
ENDINGS = [".jsonl", ".csv", ".tsv", ".txt"]
PRIVACY = (
    "Statistics are sums over all tokens of the text: with many more tokens than a layer has inputs they say "
    "little about any single one. The summary of a file says where there are fewer."
)


class StatisticsPage:
    """The components of the page by name, and what happens when one is touched."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turns = Turns()
        self.controls: dict[str, Component] = {}

    def build(self, page: gr.Blocks) -> None:
        """Lay the page out inside the `page` that is open, and wire it."""
        self.turn = gr.Number(0, visible=False)  # a preview's number; made first: `browser.COUNTED` wants so
        self.nonce = gr.State("")
        self.asked = gr.Textbox(visible=False)  # what the search looked for last
        self.recipe = gr.State("")  # of the merge that statistics are collected for, as its link has it
        self.address = gr.JSON(visible=False)  # where the form stands, see `browser.ADDRESS`
        self.submitted = gr.JSON(visible=False)
        self.collected = gr.State(None)  # the form as it was when the job was queued
        self.merge = fragment(elem_id="for-merge")
        self.worker = fragment(elem_id="worker")
        with gr.Row(elem_classes="mm-columns"):
            with gr.Column(scale=3, elem_classes="mm-form"):
                self._model()
                self._data()
                self._place()
            with gr.Column(scale=2, elem_classes="mm-side"):
                self.preview = fragment(statistics_view.preview_wait("Pick a model."), elem_id="preview")
                self.note = fragment(elem_id="note")
                self.button = gr.Button("Collect", variant="primary", size="lg", elem_id="collect")
                self.view = JobView(self._desk)
        self._wire(page)

    def _model(self) -> None:
        fragment('<h2 id="model"><span>1</span> Model</h2>')
        self.controls["model"] = search_field("A model of the Hub, or a repo of statistics", "search")
        self.model_note = fragment(elem_id="model-note")
        self.found = fragment(elem_id="found")
        self.controls["collect"] = gr.CheckboxGroup(
            list(KINDS), value=["gram"], label="What to collect", elem_id="kinds"
        )

    def _data(self) -> None:
        fragment('<h2 id="text"><span>2</span> Text</h2>')
        fragment(f'<p class="mm-quiet">{render.text(PRIVACY)}</p>')
        self.controls["source"] = gr.Radio(
            list(SOURCES), value=DATASET, label="Where the text comes from", elem_id="source"
        )
        with gr.Group() as dataset:
            self.controls["dataset"] = gr.Textbox(
                label="Dataset", info="id[:config][:split], such as owner/texts:train", elem_id="dataset"
            )
        with gr.Group(visible=False) as upload:
            self.controls["upload"] = gr.File(
                label=f"A {', '.join(ENDINGS)} of at most {TEXT_LIMIT // 1_000_000} MB",
                file_types=ENDINGS,
                type="filepath",
                elem_id="upload",
            )
        with gr.Group(visible=False) as paste:
            self.controls["paste"] = gr.Textbox(label="One example a line", lines=6, max_lines=12, elem_id="paste")
        self.groups = {DATASET: dataset, UPLOAD: upload, PASTE: paste}
        self.data_note = fragment(elem_id="data-note")
        with gr.Accordion("More", open=False):
            self.controls["text_column"] = gr.Textbox(label="Column of the texts", placeholder="by its name")
            self.controls["target_column"] = gr.Textbox(
                label="Column of the answers",
                info="Without one the model writes its own",
                placeholder="by its name",
                visible=False,
            )
            self.controls["image_column"] = gr.Textbox(
                label="Column of the images", placeholder="by its name", visible=False
            )
            self.controls["variant"] = gr.Dropdown(
                list(VARIANTS), value="auto", label="Which Fisher", visible=False, elem_id="variant"
            )
            self.controls["label_column"] = gr.Textbox(label="Column of the labels", visible=False)
            with gr.Row(elem_classes="mm-level"):
                self.controls["examples"] = gr.Number(600, label="Examples", precision=0, min_width=110)
                self.controls["max_length"] = gr.Number(128, label="Longest, in tokens", precision=0, min_width=110)
                self.controls["seed"] = gr.Number(0, label="Seed", precision=0, min_width=110)

    def _place(self) -> None:
        fragment('<h2 id="place"><span>3</span> Publish to</h2>')
        self.controls["publish"] = gr.Radio(
            list(PLACES), value="own", label="Where the statistics go", elem_id="publish"
        )
        self.controls["private"] = gr.Checkbox(
            label="Private", info="Statistics of a private or gated model are private in any case"
        )
        self.place_note = fragment(elem_id="place-note")

    # What happens

    def _wire(self, page: gr.Blocks) -> None:
        inputs: set[Any] = {self.turn, self.nonce, self.recipe, *self.controls.values()}
        notes = [self.model_note, self.data_note, self.place_note, self.note]
        shown: list[Any] = [self.preview, self.found, self.worker, self.address, *notes, *self.groups.values()]
        shown += [self.controls[name] for name in COLUMNS]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        asked: dict[str, Any] = {"js": browser.COUNTED, "concurrency_limit": 8, **quiet}
        search = self.controls["model"]
        asking: dict[str, Any] = {"js": browser.TYPED, "queue": False, "trigger_mode": "once"}
        listed = search.key_up(self._search, self.asked, [search, self.asked], **asking, **quiet)  # type: ignore[attr-defined]
        listed.then(None, self.asked, None, js=browser.ASK_AGAIN, api_visibility="private")
        opened = page.load(None, None, None, js=browser.OPEN, api_visibility="private")
        filled: list[Any] = [*self.controls.values(), self.nonce, self.merge, self.recipe]

        def placed(event: Any) -> None:
            event.then(None, self.address, None, js=browser.ADDRESS, api_visibility="private")

        placed(opened.then(self._open, None, filled, **quiet).then(self._preview, inputs, shown, **asked))
        for name, control in self.controls.items():
            touched = [control.upload, control.clear] if name == "upload" else [control.input]  # type: ignore[attr-defined]
            touched += [control.blur] if isinstance(control, gr.Textbox | gr.Number) else []
            for event in touched:
                placed(event(self._preview, inputs, shown, trigger_mode="always_last", **asked))
        collecting = [self.preview, self.nonce, self.controls["upload"], *notes, *self.view.outputs]
        collecting += [self.submitted, self.collected]
        pressed = self.button.click(self._collect, inputs | {self.collected, self.view.id}, collecting, **quiet)
        pressed.then(None, self.submitted, None, js=browser.SUBMITTED, api_visibility="private")
        refreshed: list[Any] = [search, self.view.id]
        self.view.status.change(self._published, refreshed, self.found, **quiet)
        self.view.wire()

    def _search(self, typed: str, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """Models whose name holds what was typed so far, and what that was."""
        return {self.controls["model"]: found_models(self._desk.hub(token, request), typed), self.asked: typed}

    def _open(self, request: gr.Request) -> Updates:
        """The page is opened, perhaps with a model in its address, and for a merge. A link never submits."""
        query = {name: str(value) for name, value in request.query_params.items()}
        query["model"] = hub_id(query.get("model", ""))
        values = from_query(query)
        filled: Updates = {self.controls[name]: gr.update(value=value) for name, value in values.items()}
        with suppress(InputError):  # a link that was cut leads to the page all the same
            if query.get("recipe"):
                wanted, kinds = recipe_from_link(query["recipe"]), values.get("collect", [""])
                filled[self.merge] = statistics_view.for_a_merge(wanted, kinds[0], values.get("model", ""))
                filled[self.recipe] = query["recipe"]
        return filled | {self.nonce: uuid.uuid4().hex}

    def _preview(self, data: dict[Component, Any], token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """Everything that follows from the form, unless a newer form has been asked about meanwhile."""
        session, turn = request.session_hash or "", int(data[self.turn])
        self._turns.take(session, turn)
        with spoken():
            updates = self._follows(self._values(data), self._desk.hub(token, request))
        updates[self.address] = {"link": self._link(data), "nonce": data[self.nonce]}
        return updates if self._turns.newest(session, turn) else {self.preview: gr.skip()}

    def _follows(self, values: dict[str, Any], hub: Hub) -> Updates:
        updates: Updates = {group: gr.Group(visible=name == values["source"]) for name, group in self.groups.items()}
        updates |= self._columns(values, "text")
        updates[self.worker] = render.notice(NO_WORKER, "warning") if self._desk.worker_missing() else ""
        problems: list[Problem] = []
        updates |= {self.found: "", self.note: ""}
        if not values["model"]:
            return updates | {self.preview: statistics_view.preview_wait("Pick a model.")} | self._notes([])
        try:
            look = self._desk.look(hub_id(values["model"]), hub)
            updates[self.found] = statistics_view.found(look, hub.url)
            updates |= self._columns(values, look.reads)
            if not has_text(values):
                words = "Name the text to collect from. What will happen then stands here."
                return updates | {self.preview: statistics_view.preview_wait(words)} | self._notes([])
            wish, texts = read_wish(values), read_text(values)
            preview = self._desk.preview_statistics(wish, hub)
            problems = list(preview.problems)
            count = None if texts is None else len(texts)
            updates[self.preview] = statistics_view.preview(preview, problems, count)
        except InputError as error:
            problems = list(error.problems)
            updates[self.preview] = render.impossible(problems)
        except MergeError as error:
            problems = [error.problem]
            updates[self.preview] = render.impossible(problems)
        return updates | self._notes(problems)

    def _collect(self, data: dict[Component, Any], token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """The button: the job is queued, or what stands in its way is said beside its field.

        Pressed twice for the same form, it does nothing while the job goes on.
        """
        with spoken():
            hub, values = self._desk.hub(token, request), self._values(data)
            if values == data[self.collected] and self.view.going(data[self.view.id], hub):
                return {self.note: gr.skip()}
            try:
                wish, texts = read_wish(values), read_text(values)
                job = self._desk.submit_statistics(wish, hub, texts, data[self.nonce])
            except InputError as error:
                shown = {self.note: "", self.preview: render.impossible(error.problems)}
                return self._notes(error.problems) | shown
            except MergeError as error:
                return {self.note: render.problems([error.problem])}
            if values["upload"]:
                with suppress(OSError):
                    Path(values["upload"]).unlink()  # the job has it now
            nonce = uuid.uuid4().hex
            updates: Updates = {self.nonce: nonce, self.controls["upload"]: None, self.note: ""}
            updates[self.submitted] = {"nonce": nonce, "link": self._link(data), "job": job_words.job_link(job)}
            updates[self.collected] = values | {"upload": None}
            return updates | self._notes([]) | self.view.show(job, hub, request)

    def _published(self, model: str | None, id: str, token: gr.OAuthToken | None, request: gr.Request) -> Any:
        """Once the job is done, what is published for the model is told anew."""
        if not model or not id:
            return gr.skip()
        with spoken():
            hub = self._desk.hub(token, request)
            try:
                if self._desk.job(id, hub).status != "done":
                    return gr.skip()
                return statistics_view.found(self._desk.look(hub_id(model), hub, anew=True), hub.url)
            except MergeError:
                return gr.skip()  # the view and the model's note say so

    def _link(self, data: dict[Component, Any]) -> str:
        """The address of the form as it is, and of the merge that it is for."""
        query = to_query(self._values(data), {name: control.value for name, control in self.controls.items()})  # type: ignore[attr-defined]
        query |= {"recipe": data[self.recipe]} if data[self.recipe] else {}
        return f"/statistics{'?' * bool(query)}{urlencode(query)}"

    def _columns(self, values: dict[str, Any], reads: Reads) -> Updates:
        """The fields of columns that mean something for such a model are there, the others are not."""
        shown = shown_columns(values, reads)
        return {self.controls[name]: gr.update(visible=visible) for name, visible in shown.items()}

    def _values(self, data: dict[Component, Any]) -> dict[str, Any]:
        return {name: data[control] for name, control in self.controls.items()}

    def _notes(self, problems: Sequence[Problem]) -> Updates:
        """What is wrong, beside the fields."""
        beside = by_field(errors_of(problems))
        fields = {"model": self.model_note, "data": self.data_note, "place": self.place_note}
        return {note: render.problems(beside.get(name, ())) for name, note in fields.items()}
