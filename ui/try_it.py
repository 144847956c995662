"""Try it on the page of a merged model: a text box that runs the merge beside its parents."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from hub.client import Hub
from hub.merged import MergedModel
from jobs.try_it import TEXT_LIMIT, Question, TryIt, person_at
from merging.errors import MergeError
from ui import render, try_it_view
from ui.desk import Desk
from ui.parts import fragment
from ui.security import spoken

Updates = dict[Any, Any]
EVERY = 0.25  # seconds between two looks at a question
AT_ONCE = 40  # people who wait: they hold no thread


class TryItSection:
    """The section's components; it shows nothing where a model cannot be tried."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def build(self, page: gr.Blocks) -> None:
        """Lay the section out where the layout is open, and wire it."""
        self.model = gr.State(("", ""))  # repo id and commit, as this page shows them
        self.head = fragment(elem_id="try-it")
        self.text = gr.Textbox(label="Text", lines=2, max_length=TEXT_LIMIT, visible=False, elem_id="try-text")
        self.other = gr.Textbox(label="Another line", max_length=TEXT_LIMIT, visible=False, elem_id="try-other")
        with gr.Row():
            self.button = gr.Button(
                "Try", variant="primary", size="sm", visible=False, scale=0, min_width=160, elem_id="try"
            )
        self.told = fragment(elem_id="tried")
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        page.load(self._open, None, [self.model, self.head, self.text, self.other, self.button], **quiet)
        asked = [self.model, self.text, self.other]
        for press in (self.button.click, self.other.submit):
            press(self._try, asked, [self.told, self.button], concurrency_limit=AT_ONCE, **quiet)

    def _open(self, token: gr.OAuthToken | None, request: gr.Request) -> Updates:
        with spoken():
            trying = self._desk.trying
            try:
                repo_id = str(request.query_params.get("id") or "")
                merged = self._desk.merged(repo_id, self._desk.hub(token, request)) if repo_id and trying else None
            except MergeError:  # the page itself says so
                merged = None
            kind = kind_of(merged, trying) if merged else ""
            if not kind or merged is None:
                return {self.head: ""}
            pair = kind == "similarity"
            return {
                self.model: (merged.repo_id, merged.revision),
                self.head: try_it_view.section(kind),
                self.text: gr.Textbox(visible=True, label="One line" if pair else "Text", lines=1 if pair else 2),
                self.other: gr.Textbox(visible=pair),
                self.button: gr.Button(visible=True),
            }

    async def _try(
        self, model: tuple[str, str], text: str, other: str, token: gr.OAuthToken | None, request: gr.Request
    ) -> AsyncIterator[Updates]:
        """Ask, tell what is waited for, and answer. Who closes the page leaves the line."""
        with spoken():
            trying = self._desk.trying
            if trying is None or not model[0]:
                return
            hub = self._desk.hub(token, request)
            person = await asyncio.to_thread(self._person, hub, request)
            try:
                question = trying.ask(*model, text or "", other or "", person)
            except MergeError as error:
                yield {self.told: render.problems([error.problem])}
                return
            try:
                async for words in _followed(trying, question):
                    yield {self.told: words, self.button: gr.Button(interactive=False)}
            finally:
                trying.leave(question)
            yield {self.told: try_it_view.ended(question), self.button: gr.Button(interactive=True)}

    def _person(self, hub: Hub, request: gr.Request) -> str:
        """Who asks: by name where somebody is signed in, else by address."""
        identity = self._desk.identity_or_none(hub)
        return identity.name if identity else person_at(address_of(request, self._desk.access.proxies))


def address_of(request: gr.Request, proxies: int = 1) -> str:
    """Whence a request came: what the first of our proxies wrote of it, after all that its sender may have written.

    Each appends one address; where there are fewer, the request came past the first ones, and the furthest counts.
    """
    hops = [hop.strip() for hop in ",".join(request.headers.getlist("x-forwarded-for")).split(",") if hop.strip()]
    return hops[-min(proxies, len(hops))] if hops else (request.client.host if request.client else "")


async def _followed(trying: TryIt, question: Question) -> AsyncIterator[str]:
    """What a question waits for, whenever that is something else, until it has ended."""
    told = ""
    while not question.ended:
        words = try_it_view.waiting(question, trying.ahead(question))
        if words != told:
            told = words
            yield words
        await asyncio.sleep(EVERY)


def kind_of(merged: MergedModel, trying: TryIt | None) -> str:
    """What is asked of a merge, "" for one that cannot be tried here."""
    if trying is None:
        return ""
    open_to_all = merged.made_here and not merged.private and not merged.gated
    kinds = {try_it_view.KINDS.get(one.tag, "") for one in merged.models if one.reads == "text"}
    if not open_to_all or merged.weight_bytes > trying.limit:
        return ""
    return next((kind for kind in ("similarity", "text", "labels") if kind in kinds), "")
