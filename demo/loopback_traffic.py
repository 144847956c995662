"""What the loopback Hub counts of its traffic, and the faults that tests switch on.

One ASGI layer around the application: it hands the raw path on (revisions arrive quoted, `refs%2Fpr%2F1`),
counts each request under its route, and where a fault matches answers, delays, alters or cuts in its stead.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("loopback_hub")
PIECE_EVERY = 0.1  # seconds between two pieces of a slow body
HEADER_WINDOW = 100_001  # clients read a safetensors header by `Range: bytes=0-100000`


@dataclass
class Counters:
    """Since the last reset. Bytes of weight files are counted when they are handed to the connection."""

    requests: Counter[str] = field(default_factory=Counter)  # "GET /api/models" -> number
    header_bytes: int = 0  # of weight files: length field and JSON header
    weight_bytes: int = 0  # of weight files: everything after the header
    spilled_bytes: int = 0  # those among weight_bytes that a request for the first 100 kB carried along
    weight_requests: int = 0  # GETs of weight files without Range
    body_gets: Counter[str] = field(default_factory=Counter)  # etag -> GETs without Range
    lfs_puts: Counter[str] = field(default_factory=Counter)  # SHA-256 -> bodies received
    authorized_storage_requests: int = 0  # tokens that leaked to the storage host: must stay 0

    def sent(self, header: int, start: int, stop: int, asked: tuple[int, int] | None) -> None:
        """Bytes start..stop of a weight file go out; `asked` is the Range of the request."""
        inside = max(0, min(stop, header) - start)
        weights = stop - start - inside
        self.header_bytes += inside
        self.weight_bytes += weights
        if asked is not None and asked[0] == 0 and asked[1] <= HEADER_WINDOW:
            self.spilled_bytes += weights


@dataclass
class Fault:
    """What happens to the requests that match. `times` None: to all of them."""

    path: str  # regular expression, searched in the path
    method: str | None = None
    whole: bool = False  # only requests without a Range
    skip: int = 0  # so many matching requests are left alone first
    status: int | None = None  # answer this instead
    done: bool = False  # what was asked is done all the same before `status` is answered
    message: str = "A fault was switched on"
    answer: dict[str, Any] | None = None  # the body of that answer, in place of the message
    page: str = ""  # a web page in place of JSON, as something between us and the Hub may answer
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before anything else
    hold: float = 0.0  # seconds between doing what was asked and answering
    cut_after: int | None = None  # close the connection after so many body bytes
    shorten: int = 0  # bytes that are missing at the end of the body, and in its announced length
    alter: bool = False  # the last byte of the body is another one
    speed: int | None = None  # bytes of the body a second
    times: int | None = 1
    holding: bool = False  # the work of a held request is done, its answer is not sent yet

    def matches(self, scope: Scope) -> bool:
        """Whether it is this request's turn."""
        if self.times == 0 or self.method not in (None, scope["method"]) or not re.search(self.path, scope["path"]):
            return False
        if self.whole and any(name == b"range" for name, _ in scope["headers"]):
            return False
        self.skip -= 1
        return self.skip < 0


def slow_down(seconds: int, *, quota: int = 1000) -> dict[str, Any]:
    """The part of a Fault that is the Hub's own answer to too many requests: 429, and when the window ends."""
    headers = {"RateLimit": f'"api";r=0;t={seconds}', "RateLimit-Policy": f'"fixed window";"api";q={quota};w=300'}
    return {"status": 429, "message": f"We had to rate limit you: {quota} requests in 5 minutes", "headers": headers}


class _Cut(Exception):
    """The connection is to be closed in the middle of the answer."""


class Traffic:
    """The layer itself; the application reaches it as `app.state.traffic`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.counters = Counters()
        self.faults: list[Fault] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        scope["path"] = scope["raw_path"].decode("ascii")
        if scope["path"].startswith("/_admin/"):
            return await self._app(scope, receive, send)
        fault = self._fault(scope)
        if fault is not None:
            await asyncio.sleep(fault.delay)
        app = self._app
        if fault is not None and fault.status is not None:
            if fault.done:
                await app(scope, receive, _unheard)
            app = _refusal(fault)
        try:
            await app(scope, receive, self._watched(scope, send, fault))
        except* _Cut:
            pass  # an answer left unfinished makes uvicorn close the connection
        except* Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])

    def report(self) -> dict[str, Any]:
        """The counters as JSON."""
        return vars(self.counters)

    def _fault(self, scope: Scope) -> Fault | None:
        fault = next((fault for fault in self.faults if fault.matches(scope)), None)
        if fault is not None and fault.times is not None:
            fault.times -= 1
        return fault

    def _watched(self, scope: Scope, send: Send, fault: Fault | None) -> Send:
        """`send`, counting the request when its answer begins, and cutting the body where the fault says."""
        body = _Body(fault) if fault is not None else None

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.counters.requests[_label(scope)] += 1
                if fault is not None and fault.hold:
                    fault.holding = True
                    await asyncio.sleep(fault.hold)
            if body is None:
                return await send(message)
            return await body.send(message, send)

        return watched


class _Body:
    """An answer as a fault spoils it."""

    def __init__(self, fault: Fault) -> None:
        self._fault, self._left, self._sent = fault, fault.cut_after, 0
        self._whole: int | None = None  # bytes of the body, where they are announced

    async def send(self, message: Message, send: Send) -> None:
        """One message on, changed, in pieces, or never."""
        if message["type"] == "http.response.start":
            return await send(self._announced(message))
        body = self._spoiled(message.get("body", b""))
        if self._left is not None:
            if len(body) >= self._left:
                await send({**message, "body": body[: self._left], "more_body": True})
                raise _Cut
            self._left -= len(body)
        for piece, more in _pieces(body, self._fault.speed):
            await send({**message, "body": piece, "more_body": more or message.get("more_body", False)})
            if more:
                await asyncio.sleep(PIECE_EVERY)
        return None

    def _announced(self, message: Message) -> Message:
        headers = dict(message.get("headers", []))
        if b"content-length" not in headers:
            return message
        self._whole = int(headers[b"content-length"])
        headers[b"content-length"] = str(max(0, self._whole - self._fault.shorten)).encode()
        return {**message, "headers": list(headers.items())}

    def _spoiled(self, body: bytes) -> bytes:
        """The next part of the body, without what is missing at its end, and with another last byte."""
        if self._whole is None:
            return body
        begin, self._sent = self._sent, self._sent + len(body)
        body = body[: max(0, self._whole - self._fault.shorten - begin)]
        if self._fault.alter and body and begin + len(body) == self._whole - self._fault.shorten:
            body = body[:-1] + bytes([body[-1] ^ 1])
        return body


def _pieces(body: bytes, speed: int | None) -> Iterator[tuple[bytes, bool]]:
    """A body in parts, and whether there are more."""
    size = len(body) or 1 if speed is None else max(1, int(speed * PIECE_EVERY))
    for start in range(0, len(body) or 1, size):
        yield body[start : start + size], start + size < len(body)


async def _unheard(message: Message) -> None:
    """Where an answer goes that nobody is to get."""


def _label(scope: Scope) -> str:
    """A request's name among the counters: "GET /api/models/{owner}/{name}"."""
    route = getattr(scope.get("route"), "path", scope["path"])
    kinds = scope.get("path_params", {}).get("kinds", "")
    return f"{scope['method']} {str(route).replace('{kinds:kinds}', kinds).replace(':path}', '}')}"


def _refusal(fault: Fault) -> Response:
    if fault.page:
        return HTMLResponse(fault.page, fault.status or 200, fault.headers)
    headers = {"X-Error-Message": fault.message, **fault.headers}
    return JSONResponse(fault.answer or {"error": fault.message}, fault.status or 500, headers)
