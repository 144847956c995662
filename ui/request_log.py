"""One line of log for each request that is more than a look at a file: no query, for it may hold a recipe."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SILENT = ("/assets", "/static", "/theme.css", "/favicon.ico", "/health", "/ready")
log = logging.getLogger("request")


class RequestLog:
    """ASGI middleware: method, route, status and seconds, to the logger `request`; what failed as a warning."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, then log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = route_of(scope["path"])
            if status >= 500 or (route not in SILENT and log.isEnabledFor(logging.INFO)):
                fields = {"method": scope["method"], "path": route, "status": status}
                fields["seconds"] = round(time.monotonic() - began, 3)
                level = logging.WARNING if status >= 500 else logging.INFO
                log.log(level, "%s %s %s", scope["method"], route, status, extra=fields)


def route_of(path: str) -> str:
    """The beginning of a path: what follows may be the id of a session or the name of a file."""
    parts = [part.partition("=")[0][:40] for part in path.split("/")[1:]]
    return "/" + "/".join(parts[:2] if parts[0] == "gradio_api" else parts[:1])
