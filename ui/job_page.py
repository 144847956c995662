"""My jobs: all of them, and one of them as it goes on."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from hub.client import Hub
from jobs.job import Job
from jobs.store import StoreAway
from merging.errors import InputError, MergeError, Problem
from merging.recipe import recipe_from_yaml
from ui import job_words, render, statistics_view, verify_view
from ui.desk import Desk
from ui.job_view import EVERY, JobView
from ui.parts import fragment
from ui.security import spoken

Updates = dict[Any, Any]
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
YOURS = "jobs are shown to whoever made them"
FORGETS = (
    "This service forgets its jobs when it is restarted. What is published stays; a job that was lost comes back by "
    "the link of its recipe: keep the address of Run again."
)


class JobPage:
    """`/jobs`, and `/jobs?id=` for one job."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def build(self, page: gr.Blocks) -> None:
        """Lay the page out inside the `page` that is open, and wire it."""
        fragment("<h2>My jobs</h2>")
        with gr.Row(elem_classes="mm-columns"):
            with gr.Column(scale=2):
                self.list = fragment(elem_id="jobs")
                self.terms = fragment(elem_id="expiry")
            with gr.Column(scale=3):  # a phone shows it in place of the list (`ui.shell`)
                self.view = JobView(self._desk, log_open=True)
                self.links = fragment()
                self.figures = fragment(elem_id="job-figures")
        self.told = gr.State("")  # what the list says, to leave it alone while nothing is new
        self.timer = gr.Timer(2 * EVERY, active=False)  # runs only while a job of the list does
        listed = [self.list, self.told, self.timer, self.figures]
        page.load(self._open, None, [*listed, self.terms, self.links, *self.view.outputs], **QUIET)
        gr.on([self.timer.tick, self.view.status.change], self._follow, [self.told, self.view.id], listed, **QUIET)
        self.view.wire()

    def _open(self, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """All at once, also what never changes: what came before the rest would be moved by it."""
        return {self.terms: self.kept} | self._found(token, request)

    @property
    def kept(self) -> str:
        """How long jobs are kept here."""
        expiry = f'<p class="mm-quiet">{self._desk.service.expiry}</p>'
        return render.notice(FORGETS) * self._desk.forgets + expiry

    def _found(self, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        with spoken():
            hub = self._desk.hub(token, request)
            chosen = str(request.query_params.get("id") or "")
            if not hub.signed_in:
                found = Problem("Not signed in", YOURS, hub.advice("Sign in at the top of this page"))
                return {self.list: render.problems([found])}
            try:
                jobs = self._desk.jobs(hub)
                updates = self._listed(jobs, chosen)
                if chosen:
                    job = self._desk.job(chosen, hub)
                    updates[self.links] = _links(job)
                    updates |= self.view.show(job, hub, request)
                    updates[self.figures] = self._figures(job, jobs, str(request.query_params.get("with") or ""), hub)
                return updates
            except InputError as error:
                return {self.list: render.problems(error.problems)}
            except StoreAway as error:
                return {self.list: render.problems([error.problem]), self.told: "?", self.timer: gr.Timer(active=True)}
            except MergeError as error:
                return {self.list: render.problems([error.problem])}

    def _listed(self, jobs: Sequence[Job], chosen: str) -> Updates:
        going = any(not job.ended for job in jobs)
        return {self.list: job_words.jobs(jobs, chosen), self.told: _state(jobs), self.timer: gr.Timer(active=going)}

    def _follow(self, told: str, chosen: str, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """Look at all jobs; a list that says the same already is left alone."""
        with spoken():
            hub = self._desk.hub(token, request)
            try:
                jobs = self._desk.jobs(hub)
            except StoreAway as error:
                return {self.list: render.problems([error.problem]), self.told: "?"}
            except MergeError:  # not signed in any more, or the Hub is away: the view says so
                return {self.timer: gr.Timer(active=False)}
            if _state(jobs) == told:
                return {self.told: told}
            shown = "".join(self._figures(job, jobs, "", hub) for job in jobs if job.id == chosen)
            return self._listed(jobs, chosen) | ({self.figures: shown} if shown else {})

    def _figures(self, job: Job, jobs: Sequence[Job], beside: str, hub: Hub) -> str:
        """How the merge of a job did, beside another one of the same person's."""
        if not job_words.evaluated(job):
            return ""
        others = [one for one in jobs if job_words.evaluated(one)]
        other = next(((one, self._desk.report(one.id, hub)) for one in others if one.id == beside), None)
        return job_words.figures(job, self._desk.report(job.id, hub), others, other)


def _state(jobs: Sequence[Job]) -> str:
    return " ".join(f"{job.id}:{job.status}" for job in jobs)


def _links(job: Job) -> str:
    """What can be done with the wish of a job."""
    if job.purpose == "statistics":
        return statistics_view.job_links(job)
    if job.purpose == "verify":
        return verify_view.job_links(job)
    return job_words.job_links(job, recipe_from_yaml(job.recipe_yaml))
