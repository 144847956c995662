"""What callers send, looked at before the framework takes it apart.

It reads a body of any length, and walks through every list in it while everybody else waits: 60 MB of empty lists took
3 GB and kept the page away for a minute. A form of ours is a few hundred values, and at most one long text.
"""

import re
from collections.abc import Awaitable, Callable
from itertools import islice

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = 12_000_000  # bytes of one request: a text of 5 MB as JSON, and one that is too long gets its own sentence
PIECES = 40_000  # texts, brackets and commas of one request: what it costs once it is parsed
PIECE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.DOTALL)  # in linear time, whatever it is
TOO_LARGE = "This request is too large. At most 5 MB of text are read."
TOO_MANY = "This request holds too many values."


class BodyLimit:
    """ASGI middleware: a body is passed on in one piece, unless it is too long or holds too many values."""

    def __init__(self, app: ASGIApp, besides: str = "") -> None:
        """`besides` is the one path whose bodies are looked at elsewhere."""
        self.app, self._besides = app, besides

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 413 and one sentence, or pass the request on."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD") or scope["path"].rstrip("/") == self._besides:
            await self.app(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > BODY:
                await JSONResponse({"detail": TOO_LARGE}, 413)(scope, receive, send)
                return
        if next(islice(PIECE.finditer(body), PIECES, None), None) is not None:
            await JSONResponse({"detail": TOO_MANY}, 413)(scope, receive, send)
            return
        await self.app(scope, _replayed(bytes(body), receive), send)


def _replayed(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """The body, then whatever else comes."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again
