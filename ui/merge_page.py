"""The page of a merge that is not yet: pick models, pick a method, read what will happen, press the button."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from hub.client import Hub
from hub.resolve import result_is_private
from jobs.preview import LookedUp, Preview
from merging.errors import InputError, MergeError, Problem
from merging.method import find_method
from merging.parent import Parent
from merging.recipe import Recipe, recipe_from_link, recipe_from_yaml
from ui import browser, job_words, render
from ui.base_picker import BasePicker
from ui.desk import Desk, Turns
from ui.evaluation_form import EvaluationForm
from ui.evaluation_sets import handed_over
from ui.forms import (
    ROWS,
    Draft,
    Values,
    add_model,
    base_of,
    fill_form,
    hub_id,
    merged_rows,
    methods,
    problems_by_field,
    read_form,
    remove_model,
    row_fields,
    share,
)
from ui.job_view import JobView
from ui.method_fields import MethodFields
from ui.model_rows import ModelRows
from ui.offers import Offers
from ui.parts import NOTHING, SEARCH_HELP, found_models, fragment, search_field
from ui.result_fields import ResultFields
from ui.security import spoken

Updates = dict[Any, Any]
UNDER_YOUR_NAME = "a merge is published under your own name"
NO_WORKER = "No worker is running at the moment: merges wait until there is one."


class MergePage:
    """The components of the form by the keys of `ui.forms`, and what happens when one is touched."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turns = Turns()
        self._base = BasePicker(desk)
        self._evaluation = EvaluationForm(desk)
        self._offers = Offers(desk)
        self._method = MethodFields()
        self._result = ResultFields(desk)
        self._rows = ModelRows(Hub.anonymous(desk.access.endpoint).url)
        self.controls: dict[str, Component] = {}

    def build(self, page: gr.Blocks) -> None:
        """Lay the page out inside the `page` that is open, and wire it."""
        self.turn = gr.Number(0, visible=False)  # a preview's number; made first: `browser.COUNTED` wants so
        self.draft = gr.State({"models": []})
        self.known = gr.State({})  # model -> Parent, as last resolved
        self.shown = gr.State(methods()[0].name)  # the method that the rows' fields are of
        self.nonce = gr.State("")
        self.offer = gr.JSON(visible=False)  # what the server would write where people write, see `ui.browser`
        self.named = gr.Textbox(visible=False)  # the name that the form wrote by itself
        self.submitted = gr.JSON(visible=False)
        self.picks = gr.Number(0, visible=False)  # how often something was chosen in the search
        self.asked = gr.Textbox(visible=False)  # what the search looked for last
        self.about = fragment(render.about(), elem_id="about")
        self.opening = fragment(elem_id="opening")
        self.worker = fragment(elem_id="worker")
        with gr.Row(elem_classes="mm-columns"):
            with gr.Column(scale=3, elem_classes="mm-form"):
                self._models()
                self._method.build(self._base)
                self._evaluation.build()
                self._result.build()
            with gr.Column(scale=2, elem_classes="mm-side"):
                self.preview = fragment(render.preview_wait(0), elem_id="preview")
                self.note = fragment(elem_id="note")
                self.button = gr.Button("Merge", variant="primary", size="lg", elem_id="merge")
                self.view = JobView(self._desk)
        self.controls = {**self._rows.controls, **self._method.controls, **self._result.controls}
        self.controls |= self._evaluation.sweep
        self._wire(page)

    def _models(self) -> None:
        fragment('<h2 id="models"><span>1</span> Models</h2>')
        self.search = search_field("Add a model of the Hub", "search")
        self.picked = fragment()
        self._offers.build()
        self._rows.build()

    # What happens

    def _wire(self, page: gr.Blocks) -> None:
        inputs: set[Any] = {
            self.draft,
            self.known,
            self.shown,
            self.named,
            self._base.written,
            self.nonce,
            self._result.yaml,
            self.search,
            self.picks,
            self.turn,
            *self.controls.values(),
        }
        notes = [self.preview, self.note, self._base.note, self._method.note, self._result.note]
        shown: list[Any] = [*notes, self.about, self.worker, self.offer]
        shown += [self.known, self.shown, self._base.group, self._base.why, *self._method.outputs, *self._rows.texts]
        shown += [self.controls["output.root"], *self._rows.parameters.values(), *self._evaluation.outputs]
        form: list[Any] = [self.draft, *self.controls.values(), *self._rows.rows, *self._rows.texts, self.offer]
        form += [self.picked, self.search, self._result.yaml_note, self.opening, self.nonce]
        written = [self.named, *(self.controls[f"output.{one}"] for one in ("name", "owner", "root"))]
        written += [self._result.yaml, self._base.written, self._base.field]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

        asked: dict[str, Any] = {"js": browser.COUNTED, "concurrency_limit": 8, **quiet}

        def settle(event: Any) -> Any:
            offered = [self.offer, self.controls["output.root"]]
            return event.then(None, offered, written, js=browser.SETTLE, api_visibility="private")

        every: dict[str, Any] = {"trigger_mode": "multiple"}  # else Gradio drops a second one while the first is away

        def refresh(event: Any) -> None:
            seen = settle(settle(event).then(self._preview, inputs, shown, **every, **asked))
            seen.then(self._offers.of, [self.draft, self.known], self._offers.line, **every, **quiet)

        asking: dict[str, Any] = {"js": browser.TYPED, "queue": False, "trigger_mode": "once"}
        found = self.search.key_up(self._search, self.asked, [self.search, self.asked], **asking, **quiet)
        found.then(None, self.asked, None, js=browser.ASK_AGAIN, api_visibility="private")
        self._base.wire(**quiet)
        chosen = self.search.input(None, None, self.picks, js=browser.PICKS, api_visibility="private")
        refresh(chosen.then(self._pick, inputs, form, queue=False, **every, **quiet))
        for index, button in enumerate(self._rows.removes):
            refresh(button.click(self._remover(index), inputs, form, queue=False, **every, **quiet))
        refresh(self._result.load.click(self._load_yaml, inputs, form, **quiet))
        refresh(self._offers.line.click(self._take, inputs, form, queue=False, **every, **quiet))
        for changed in self._evaluation.wire(self.draft, self.known, **quiet):
            refresh(changed)
        opened = page.load(None, None, None, js=browser.OPEN, api_visibility="private")
        refresh(opened.then(self._open, inputs, form, **quiet))
        for touched in self._touched():
            settle(touched(self._preview, inputs, shown, trigger_mode="always_last", **asked))
        merging = [*notes, self.nonce, self.submitted, *self.view.outputs]
        merged = self.button.click(self._merge, inputs, merging, **quiet)
        merged.then(None, self.submitted, None, js=browser.SUBMITTED, api_visibility="private")
        self.view.wire(merged)

    def _touched(self) -> Iterator[Callable[..., Any]]:
        """The events of a person's hand; leaving a text field counts, since Gradio may swallow a single paste."""
        for control in self.controls.values():
            yield control.input  # type: ignore[attr-defined]
            if isinstance(control, gr.Textbox | gr.Number):
                yield control.blur  # type: ignore[union-attr]

    def _search(self, typed: str, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """Models whose name holds what was typed so far, and what that was."""
        return {self.search: found_models(self._desk.hub(token, request), typed), self.asked: typed}

    def _pick(self, data: dict[Component, Any]) -> Updates:
        """A model was picked or pasted: it becomes a row."""
        model = data[self.search]
        if not isinstance(model, str) or "/" not in model:
            return {self.picked: ""}
        draft: Draft = data[self.draft]
        done: Updates = {self.picked: "", self.search: gr.Dropdown(value=None, choices=NOTHING, info=SEARCH_HELP)}
        pick = [data[self.picks], hub_id(model)]
        if draft.get("pick") == pick:
            return done  # Gradio tells of one pick twice
        try:
            draft = add_model(draft, model) | {"pick": pick}
        except InputError as error:
            return done | {self.picked: render.problems(error.problems)}
        return done | self._picked(draft)

    def _take(self, data: dict[Component, Any], event: gr.EventData) -> Updates:
        """A suggested model was pressed: it becomes a row."""
        try:
            return {self.picked: ""} | self._picked(add_model(data[self.draft], str(event.choice)))
        except InputError as error:
            return {self.picked: render.problems(error.problems)}

    def _remover(self, index: int) -> Callable[[dict[Component, Any]], Updates]:
        moved = [field.key for place in range(index, ROWS) for field in row_fields(place)]

        def remove(data: dict[Component, Any]) -> Updates:
            draft, values = remove_model(*self._read(data), index)
            return self._picked(draft) | {self.controls[key]: values[key] for key in moved} | {self.picked: ""}

        return remove

    def _load_yaml(self, data: dict[Component, Any]) -> Updates:
        """The recipe in the text box becomes the form."""
        try:
            draft, values = fill_form(recipe_from_yaml(data[self._result.yaml] or ""))
        except InputError as error:
            return {self._result.yaml_note: render.problems(error.problems)}
        return self._form(draft, values, data) | {self._result.yaml_note: ""}

    def _open(self, data: dict[Component, Any], token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """The page is opened: who is here, and which recipe the link holds. A link never submits."""
        with spoken():
            hub = self._desk.hub(token, request)
            identity = self._desk.identity_or_none(hub)
            owner = identity.name if identity else None
            updates: Updates = {self.opening: "", self.nonce: uuid.uuid4().hex, self.offer: {"owner": {"value": owner}}}
            try:
                recipe = self._linked(dict(request.query_params), hub)
                if recipe is not None:
                    draft, values = fill_form(recipe)
                    updates |= self._form(draft, values | {"output.owner": owner}, data)
            except InputError as error:
                updates[self.opening] = render.problems(error.problems)
            except MergeError as error:
                updates[self.opening] = render.problems([error.problem])
            choices = list(identity.namespaces) if identity else []
            return updates | {self.controls["output.owner"]: gr.Dropdown(choices=choices)}

    def _linked(self, query: Mapping[str, str], hub: Hub) -> Recipe | None:
        if query.get("recipe"):
            return recipe_from_link(query["recipe"])
        if query.get("model"):
            return self._desk.merged(query["model"], hub).recipe
        return None

    def _preview(self, data: dict[Component, Any], token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """Everything that follows from the form, shown anew."""
        session, turn = request.session_hash or "", int(data[self.turn])
        self._turns.take(session, turn)
        updates = self._follows(data, token, request)
        return updates if self._turns.newest(session, turn) else {self.preview: gr.skip()}

    def _follows(self, data: dict[Component, Any], token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        with spoken():
            draft, values = self._read(data)
            method = find_method(values["merge_method"])
            updates: Updates = self._method.show(method) | {self.note: ""}
            updates |= self._rows.fields_of(method, data[self.shown]) | {self.shown: method.name}
            updates |= self._evaluation.numbers_of(method, data[self.shown], values["sweep.parameter"])
            updates[self.about] = "" if draft["models"] else render.about()
            updates[self.worker] = render.notice(NO_WORKER, "warning") if self._desk.worker_missing() else ""
            hub = self._desk.hub(token, request)
            offer: dict[str, Any] = {"nonce": data[self.nonce]}
            known: dict[str, Parent] = data[self.known] or {}
            suggest = partial(self._base.suggest, offer, draft, values, data[self._base.written] or "", hub)
            suggest(known)
            self._result.choose_name(offer, draft, values, data[self.named], hub)
            recipe, preview, problems = self._look(draft, values, hub)
            known = known | self._found(draft, values, preview)
            if preview is not None and suggest(known):
                recipe, preview, problems = self._look(draft, values, hub)
            rows = merged_rows(draft, values)
            if recipe is not None and preview is not None:
                updates |= self._seen(recipe, preview, hub)
                offer["roots"] = list(recipe.tasks) if preview.plan.head_rule == "apart" else []
            else:
                least = method.minimum_models
                waiting = render.preview_wait(len(rows), least)
                updates[self.preview] = render.impossible(problems) if len(rows) >= least else waiting
            if recipe is not None:
                offer |= {"link": render.recipe_link("", recipe), "yaml": recipe.to_yaml()}
            elif not draft["models"]:
                offer |= {"link": "", "yaml": ""}
            if "yaml" in offer:
                offer["yaml"] = {"value": offer["yaml"], "over": data[self._result.yaml] or ""}
            beside = problems_by_field(problems, method)
            updates[self.offer] = offer
            updates[self.known] = known
            updates |= (
                self._evaluation.show(draft, beside.get("evaluate", ()))
                | self._notes(beside)
                | self._base.show(method, beside.get("base_model", ()), self._base.reason(draft, values, hub, known))
            )
            shares = [share(recipe, weight) for weight in preview.weights] if recipe and preview else []
            return updates | self._rows.describe(draft, rows, known, shares, method, beside, recipe)

    def _found(self, draft: Draft, values: Values, preview: Preview | None) -> dict[str, Parent]:
        """What a preview has learnt of the models in the rows, and of the base."""
        if preview is None:
            return {}
        names = [draft["models"][row]["model"] for row in merged_rows(draft, values)]
        found = {name: parent.outline for name, parent in zip(names, preview.found, strict=True) if parent is not None}
        return found | ({base_of(values): preview.base.outline} if preview.base else {})

    def _notes(self, beside: Mapping[str, Sequence[Problem]]) -> Updates:
        """What is wrong, beside the fields that are no model's."""
        notes = {"parameters": self._method.note, "output": self._result.note}
        return {note: render.problems(beside.get(name, ())) for name, note in notes.items()}

    def _look(self, draft: Draft, values: Values, hub: Hub) -> tuple[Recipe | None, Preview | None, list[Problem]]:
        """The form's recipe and its preview, or what keeps the form from being the one or having the other."""
        if not draft["models"]:
            return None, None, []
        recipe: Recipe | None = None
        try:
            recipe = self._recipe(draft, values, hub)
            preview = self._desk.preview(recipe, hub)
        except LookedUp as error:
            return None, error.seen, list(error.problems)
        except InputError as error:
            return recipe, None, list(error.problems)
        except MergeError as error:
            return recipe, None, [error.problem]
        enough = len(recipe.models) >= recipe.method.minimum_models
        problems = [problem for problem in preview.problems if problem.where != "models" or enough]
        return recipe, preview, problems

    def _recipe(self, draft: Draft, values: Values, hub: Hub) -> Recipe:
        """The form's recipe; a root task of a model that is gone is forgotten. Raises InputError with all problems."""
        recipe = self._desk.recipe(partial(read_form, draft, values), hub)
        if recipe.output.root is not None and recipe.output.root not in recipe.tasks:
            return read_form(draft, values | {"output.root": None})
        return recipe

    def _seen(self, recipe: Recipe, preview: Preview, hub: Hub) -> Updates:
        """What a preview says beside the rows."""
        apart = preview.plan.head_rule == "apart"
        private = result_is_private(recipe, preview.parents, preview.base)
        least = recipe.method.minimum_models
        shown = render.preview(
            preview.plan, preview.parents, preview.problems, private=private, signed_in=hub.signed_in
        )
        return {
            self.preview: shown if len(recipe.models) >= least else render.preview_wait(len(recipe.models), least),
            self.controls["output.root"]: gr.Dropdown(choices=list(recipe.tasks), visible=apart),
        }

    def _merge(self, data: dict[Component, Any], token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """The button: the job is queued, or what stands in its way is said in the preview and beside its field."""
        with spoken():
            hub = self._desk.hub(token, request)
            draft, values = self._read(data)
            if not hub.signed_in:
                fix = hub.advice("Sign in at the top of this page")
                return {self.note: render.problems([Problem("Not signed in", UNDER_YOUR_NAME, fix)])}
            try:
                recipe = self._recipe(draft, values, hub)
                rows = handed_over(draft.get("evaluate", ()))
                job = self._desk.submit(recipe, hub, data[self.nonce], rows)
            except InputError as error:
                method = find_method(values["merge_method"])
                beside = problems_by_field(error.problems, method)
                beside_base = {self._base.note: render.problems(beside.get("base_model", ()))}
                shown = {self.note: "", self.preview: render.impossible(error.problems)}
                return shown | beside_base | self._notes(beside)
            except MergeError as error:
                return {self.note: render.problems([error.problem])}
            nonce = uuid.uuid4().hex
            submitted = {"nonce": nonce, "link": render.recipe_link("", recipe), "job": job_words.job_link(job)}
            updates: Updates = {self.note: "", self.nonce: nonce, self.submitted: submitted}
            return updates | self.view.show(job, hub, request)

    def _read(self, data: Mapping[Component, Any]) -> tuple[Draft, Values]:
        return data[self.draft], {key: data[control] for key, control in self.controls.items()}

    def _form(self, draft: Draft, values: Values, data: Mapping[Component, Any]) -> Updates:
        """The form with these values. Name and owner are offered: somebody may be typing one."""
        typed = ("output.name", "output.owner")
        updates: Updates = {control: values[key] for key, control in self.controls.items() if key not in typed}
        offer = {
            key.partition(".")[2]: {"value": values[key], "over": data[self.controls[key]] or "", "theirs": True}
            for key in typed
            if key == "output.name" or values[key]
        }
        root = self.controls["output.root"]
        if values["output.root"]:
            updates[root] = gr.Dropdown(choices=[values["output.root"]], value=values["output.root"])
        return updates | self._picked(draft) | {self.offer: offer}

    def _picked(self, draft: Draft) -> Updates:
        return {self.draft: draft} | self._rows.show(draft)
