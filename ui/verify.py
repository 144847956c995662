"""Verify on the page of a merged model: what was found for its commit, and a button for whoever is signed in."""

import uuid
from typing import Any

import gradio as gr

from hub.client import Hub
from merging.errors import InputError, MergeError
from ui import render, verify_view
from ui.desk import Desk
from ui.job_view import JobView
from ui.parts import fragment
from ui.security import spoken

Updates = dict[Any, Any]
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class VerifySection:
    """The section's components, and what happens when its button is pressed."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def build(self, page: gr.Blocks) -> None:
        """Lay the section out where the layout is open, and wire it."""
        self.repo_id, self.nonce = gr.State(""), gr.State("")
        self.told = fragment(elem_id="verified")
        with gr.Row():
            self.button = gr.Button("Verify", visible=False, size="sm", scale=0, min_width=160, elem_id="verify")
        self.note = fragment(elem_id="verify-note")
        self.view = JobView(self._desk)
        opened = [self.repo_id, self.nonce, self.told, self.button]
        page.load(self._open, None, opened, **QUIET)
        pressed = [self.nonce, self.note, self.button, *self.view.outputs]
        self.button.click(self._verify, [self.repo_id, self.nonce], pressed, **QUIET)
        ended = [self.told, self.note, self.button, self.view.status, self.view.log_box]
        self.view.status.change(self._ended, [self.repo_id, self.view.id], ended, **QUIET)
        self.view.wire()

    def _open(self, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        with spoken():
            repo_id, hub = str(request.query_params.get("id") or ""), self._desk.hub(token, request)
            try:
                return self._shown(repo_id, hub) | {self.repo_id: repo_id, self.nonce: uuid.uuid4().hex}
            except MergeError:  # the page itself says so
                return {self.told: ""}

    def _shown(self, repo_id: str, hub: Hub) -> Updates:
        """What is known of the commit that the repo stands at, for somebody who may see it."""
        merged = self._desk.merged(repo_id, hub)
        found, signed_in = self._desk.verification(merged), self._desk.identity_or_none(hub) is not None
        words = "Verify again" if found else "Verify"
        return {
            self.told: verify_view.section(found, signed_in=signed_in),
            self.button: gr.Button(words, visible=signed_in, interactive=True),
        }

    def _verify(self, repo_id: str, nonce: str, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        with spoken():
            hub = self._desk.hub(token, request)
            try:
                job = self._desk.verify(repo_id, hub, nonce)
            except InputError as error:
                return {self.note: render.problems(error.problems)}
            except MergeError as error:
                return {self.note: render.problems([error.problem])}
            said = self._desk.log(job.id, hub)  # at first, what it will take
            shown: Updates = {
                self.note: render.notice(f"{said[0]['message']}.") if said else "",
                self.nonce: uuid.uuid4().hex,
                self.button: gr.Button(interactive=False),
            }
            return shown | self.view.show(job, hub, request)

    def _ended(self, repo_id: str, id: str, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        """Once the job has ended, what it has found is told in its place."""
        if not id:
            return {self.told: gr.skip()}
        with spoken():
            hub = self._desk.hub(token, request)
            try:
                job = self._desk.job(id, hub)
                shown = self._shown(repo_id, hub) if job.ended else {self.told: gr.skip()}
            except MergeError:
                return {self.told: gr.skip()}  # the view says so
            if job.status == "done":
                shown |= {self.note: "", self.view.status: "", self.view.log_box: gr.Accordion(visible=False)}
            return shown
