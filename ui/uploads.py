"""Uploaded files: how many may lie on the disk at a time, and when those go that nobody used.

Gradio takes an upload from anybody who has the page and forgets, when it is killed, which files were its own. They lie
in one folder that is this service's alone, which is looked after here.

A caller may send the name of a file, or an address, wherever the page sends a value. Gradio would fetch the address and
copy any file of this machine: it looks at that only where it serves by itself. Only what was uploaded is read here.
"""

import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import gradio as gr
from gradio.blocks import Block
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from jobs.limits import room
from ui.shared import SharedLook

ROUTE = "/gradio_api/upload"
SWEEP_EVERY = 600.0  # seconds
LOOK_KEPT = 1.0  # seconds between two looks at the folder
BLOCK = 4096  # bytes that the smallest file takes, and an empty one or a folder
REQUEST = 7_000_000  # bytes of one upload: the framework bounds each of a thousand files, not all of a request
TOO_LARGE = "This upload is too large. At most 5 MB are read."
REFUSAL = "This service keeps too many uploads at the moment. Try again in an hour."


def read_only_uploads(blocks: gr.Blocks) -> None:
    """No file is read that was not uploaded: Gradio looks at that itself once it has been told that it is served."""
    blocks.has_launched = True


_taken = Block.async_move_resource_to_block_cache


async def _no_address(self: Block, place: str | Path | None) -> str | None:
    """What Gradio does with the name of a file, but with no address: nothing is fetched for whoever asks."""
    if "://" in str(place or "")[:20]:
        raise gr.Error(
            "An address is no upload: nothing is fetched for a caller. Upload the file.", print_exception=False
        )
    return await _taken(self, place)


setattr(Block, "async_move_resource_to_block_cache", _no_address)  # noqa: B010


class Uploads:
    """The folder of uploads. `most` bytes may lie there; what is older than `hours` goes."""

    def __init__(self, folder: Path, most: int, hours: float, reserve: int = 0) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._most, self._seconds, self._reserve = folder, most, 3600 * hours, reserve

    @property
    def full(self) -> bool:
        """Whether no more is taken: here, or on the whole disk."""
        nbytes = 0
        for folder, folders, names in os.walk(self._folder):
            for name in (*folders, *names):
                with suppress(OSError):
                    nbytes += max(BLOCK, os.lstat(f"{folder}/{name}").st_size)
        return nbytes >= self._most or room(self._folder, self._reserve) <= 0

    def sweep(self, now: float | None = None) -> int:
        """Delete what is too old. Returns how many entries."""
        before, gone = (time.time() if now is None else now) - self._seconds, 0
        for entry in self._folder.iterdir():
            with suppress(OSError):
                if entry.lstat().st_mtime < before:
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
                    gone += 1
        return gone

    def keep_swept(self) -> None:
        """Sweep now, and every ten minutes as long as this process lives."""

        def run() -> None:
            while True:
                with suppress(OSError):
                    self.sweep()
                time.sleep(SWEEP_EVERY)

        threading.Thread(target=run, daemon=True).start()


class UploadLimit:
    """ASGI middleware: no upload is begun while the folder is full, or that is larger than what is read."""

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self.app = app
        self._full = SharedLook(lambda: uploads.full, LOOK_KEPT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 413 and one sentence, or pass the request on."""
        if scope["type"] == "http" and scope["path"].rstrip("/") == ROUTE and (why := await self._refusal(scope)):
            await PlainTextResponse(why, 413)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _refusal(self, scope: Scope) -> str:
        """Why an upload is not taken, "" when it is. The server reads no more of it than its header says."""
        headers = Headers(scope=scope)
        length = "" if "transfer-encoding" in headers else headers.get("content-length", "")  # pieces go before it
        if scope["method"] == "POST" and not (length.isdecimal() and int(length[:20]) <= REQUEST):
            return TOO_LARGE
        return REFUSAL if await self._full.get() else ""
