"""My jobs: all of them, and one of them as it goes on."""

from typing import Any

import gradio as gr

from jobs.job import Job
from merging.errors import InputError, MergeError
from merging.recipe import recipe_from_yaml
from ui import render, statistics_view
from ui.desk import Desk
from ui.job_view import JobView
from ui.parts import fragment
from ui.security import spoken

Updates = dict[Any, Any]


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
            with gr.Column(scale=3):
                self.view = JobView(self._desk)
                self.links = fragment()
        outputs = [self.list, self.links, *self.view.outputs]
        page.load(self._open, None, outputs, show_progress="hidden", api_visibility="private")
        self.view.wire()

    def _open(self, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        with spoken():
            hub = self._desk.hub(token, request)
            chosen = str(request.query_params.get("id") or "")
            try:
                jobs = self._desk.jobs(hub)
                updates: Updates = {self.list: render.jobs(jobs, chosen)}
                if chosen:
                    job = self._desk.job(chosen, hub)
                    updates[self.links] = _links(job)
                    updates |= self.view.show(job, hub, request)
                return updates
            except InputError as error:
                return {self.list: render.problems(error.problems)}
            except MergeError as error:
                return {self.list: render.problems([error.problem])}


def _links(job: Job) -> str:
    """What can be done with the wish of a job."""
    if job.purpose == "statistics":
        return statistics_view.job_links(job)
    return render.job_links(job, recipe_from_yaml(job.recipe_yaml))
