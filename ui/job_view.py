"""One job as it goes on: stages, bar, log, cancel. The merge page and the jobs page show the same view."""

from typing import Any

import gradio as gr

from hub.client import Hub
from jobs.job import Job
from jobs.store import StoreAway
from merging.errors import InputError, MergeError
from ui import job_words, render, statistics_view, verify_view
from ui.desk import Desk
from ui.parts import fragment
from ui.security import spoken

Updates = dict[Any, Any]
EVERY = 1.5  # seconds between two looks


class JobView:
    """The view's components. Its one timer runs only while a job does; a look touches nothing else of the page."""

    def __init__(self, desk: Desk, *, log_open: bool = False) -> None:
        """Make the components where the layout is open."""
        self._desk = desk
        self.id = gr.State("")
        self.seen = gr.State("")
        self.status = fragment(elem_id="job")
        with gr.Row():
            self.cancel = gr.Button("Cancel this job", visible=False, size="sm", elem_id="cancel")
            self.publish = gr.Button("Publish the result again", visible=False, size="sm", elem_id="publish-again")
        with gr.Accordion("Log", open=log_open, visible=False) as self.log_box:
            self.log = fragment()
        self.timer = gr.Timer(EVERY, active=False)

    @property
    def outputs(self) -> list[Any]:
        """Everything that a look may change."""
        return [self.id, self.seen, self.status, self.cancel, self.publish, self.log_box, self.log, self.timer]

    def wire(self, *shown: Any) -> None:
        """Connect timer and buttons. `shown` are events of the page that may show a job (for readers only)."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.timer.tick(self._tick, [self.id, self.seen], self.outputs, concurrency_limit=None, **quiet)
        self.cancel.click(self._cancel, self.id, self.outputs, **quiet)
        self.publish.click(self._publish_again, self.id, self.outputs, **quiet)

    def going(self, id: str, hub: Hub) -> bool:
        """Whether this job is there and has not ended."""
        try:
            return bool(id) and not self._desk.job(id, hub).ended
        except MergeError:
            return False

    def show(self, job: Job, hub: Hub, request: gr.Request | None) -> Updates:
        """The updates that show this job."""
        kept = job.publishable or job.resumable
        return {
            self.id: job.id,
            self.seen: _fingerprint(job),
            self.status: self._html(job, hub, request),
            self.cancel: gr.Button("Give it up" if job.ended else "Cancel this job", visible=not job.ended or kept),
            self.publish: gr.Button(
                "Publish the result again" if job.publishable else "Go on with this job",
                visible=kept,
            ),
            self.log_box: gr.Accordion(visible=True),
            self.log: job_words.log(self._desk.log(job.id, hub)),
            self.timer: gr.Timer(active=not job.ended),
        }

    def _html(self, job: Job, hub: Hub, request: gr.Request | None) -> str:
        base_url = self._desk.base_url(request)
        if job.purpose == "statistics":
            return statistics_view.job(job, hub.url, base_url=base_url)
        if job.purpose == "verify":
            return verify_view.job(job, base_url=base_url)
        return job_words.job(job, base_url=base_url)

    def _tick(self, id: str, seen: str, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """Look at the job; nothing new changes nothing."""
        if not id:
            return {self.timer: gr.Timer(active=False)}
        with spoken():
            hub = self._desk.hub(token, request)
            try:
                job = self._desk.job(id, hub)
            except StoreAway as error:  # ask again, and then show all of it
                return {self.status: render.problems([error.problem]), self.seen: ""}
            except MergeError as error:
                return {self.status: render.problems([error.problem]), self.timer: gr.Timer(active=False)}
            if _fingerprint(job) == seen:
                return {self.seen: seen}
            return self.show(job, hub, request)

    def _cancel(self, id: str, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        with spoken():
            hub = self._desk.hub(token, request)
            return self.show(self._desk.cancel(id, hub), hub, request)

    def _publish_again(self, id: str, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        with spoken():
            hub = self._desk.hub(token, request)
            try:
                return self.show(self._desk.go_on(id, hub), hub, request)
            except InputError as error:
                return {self.status: render.problems(error.problems)}


def _fingerprint(job: Job) -> str:
    return f"{job.id} {job.status} {job.updated} {job.progress} {[stage.status for stage in job.stages]}"
