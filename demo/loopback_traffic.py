"""What the loopback Hub counts of its traffic, and the faults that tests switch on.

One ASGI layer around the application: it hands the raw path on (revisions arrive quoted, `refs%2Fpr%2F1`),
counts each request under its route, and where a fault matches answers, delays or cuts in its stead.
"""

import asyncio
import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("loopback_hub")
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
    status: int | None = None  # answer this instead
    message: str = "A fault was switched on"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before anything else
    hold: float = 0.0  # seconds between doing what was asked and answering
    cut_after: int | None = None  # close the connection after so many body bytes
    times: int | None = 1
    holding: bool = False  # the work of a held request is done, its answer is not sent yet

    def matches(self, scope: Scope) -> bool:
        """Whether it is this request's turn."""
        return self.times != 0 and self.method in (None, scope["method"]) and bool(re.search(self.path, scope["path"]))


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
        app = self._app if fault is None or fault.status is None else _refusal(fault)
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
        left = None if fault is None else fault.cut_after

        async def watched(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start":
                self.counters.requests[_label(scope)] += 1
                if fault is not None and fault.hold:
                    fault.holding = True
                    await asyncio.sleep(fault.hold)
            elif left is not None:
                body = message.get("body", b"")
                if len(body) >= left:
                    await send({**message, "body": body[:left], "more_body": True})
                    raise _Cut
                left -= len(body)
            await send(message)

        return watched


def _label(scope: Scope) -> str:
    """A request's name among the counters: "GET /api/models/{owner}/{name}"."""
    route = getattr(scope.get("route"), "path", scope["path"])
    kinds = scope.get("path_params", {}).get("kinds", "")
    return f"{scope['method']} {str(route).replace('{kinds:kinds}', kinds).replace(':path}', '}')}"


def _refusal(fault: Fault) -> JSONResponse:
    headers = {"X-Error-Message": fault.message, **fault.headers}
    return JSONResponse({"error": fault.message}, fault.status or 500, headers)
