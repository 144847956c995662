"""The public API: five named calls, for scripts and other programs. All else of the page is private.

A caller acts with a token of its own (`Client(url, oauth_token=...)`); without one it can only look.
"""

from functools import partial
from typing import Any

import gradio as gr
from gradio.events import api

from jobs.job import Job
from merging.errors import InputError
from merging.method import METHODS
from merging.recipe import recipe_from_yaml
from ui.desk import Desk
from ui.forms import methods as all_methods
from ui.security import spoken

CALLS = ("preview", "submit", "status", "cancel", "methods")


def add_calls(desk: Desk) -> None:
    """Register the calls on the page that is open."""

    def preview(recipe: str, token: gr.OAuthToken | None, request: gr.Request) -> dict[str, Any]:
        """What a recipe (YAML) would do, without fetching a weight: problems, outputs, sizes."""
        with spoken():
            hub = desk.hub(token, request)
            found = desk.preview(desk.recipe(partial(recipe_from_yaml, text_of(recipe)), hub), hub)
            problems = [problem.as_dict() for problem in found.problems]
            return found.plan.as_dict() | {"problems": problems, "possible": not found.errors}

    def submit(recipe: str, token: gr.OAuthToken | None, request: gr.Request) -> dict[str, Any]:
        """Queue the merge of a recipe (YAML) that names its `output.repo_id`; answers with the job."""
        with spoken():
            hub = desk.hub(token, request)
            return job_data(desk.submit(desk.recipe(partial(recipe_from_yaml, text_of(recipe)), hub), hub))

    def status(job_id: str, token: gr.OAuthToken | None, request: gr.Request) -> dict[str, Any]:
        """One of your jobs: its stages, progress, and at the end its link or the reason."""
        with spoken():
            return job_data(desk.job(text_of(job_id), desk.hub(token, request)))

    def cancel(job_id: str, token: gr.OAuthToken | None, request: gr.Request) -> dict[str, Any]:
        """Stop one of your jobs."""
        with spoken():
            return job_data(desk.cancel(text_of(job_id), desk.hub(token, request)))

    def methods() -> dict[str, Any]:
        """Every merge method with its parameters and needs."""
        return {method.name: method_data(method.name) for method in all_methods()}

    for call in (preview, submit, status, cancel, methods):
        api(call, api_name=call.__name__, concurrency_limit=8)


def text_of(value: Any) -> str:
    """What a caller sends, who may send anything. Raises InputError for what is no text."""
    if not isinstance(value, str):
        raise InputError("That is no text", "a recipe is YAML, and a job's id a word", "Send it as a string")
    return value


def job_data(job: Job) -> dict[str, Any]:
    """A job as plain data."""
    return job.as_dict()


def method_data(name: str) -> dict[str, Any]:
    """A method's declaration as plain data."""
    method = METHODS[name]
    return {
        "title": method.title,
        "summary": method.summary,
        "paper": method.paper,
        "needs": sorted(method.needs),
        "aliases": list(method.aliases),
        "models": [method.minimum_models, method.maximum_models],
        "parameters": [
            {
                "name": one.name,
                "kind": one.kind,
                "default": one.default,
                "help": one.option.help,
                "values": one.range,
                "per_model": one.per_model,
            }
            for one in method.parameters
        ],
    }
