"""The page of an address that has none: a person reads a sentence and finds home, a program gets the plain answer."""

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.previews import TITLE

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Not found · {TITLE}</title>
<style>:root {{ color-scheme: light dark; }} body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 15vh auto 0;
max-width: 30rem; padding: 0 1rem; }}</style>
</head>
<body>
<h1>There is no page here</h1>
<p>The address may have a typing error, or the link is old.</p>
<p><a href="/">Go to {TITLE}</a></p>
</body>
</html>
"""


class NotFoundPage:
    """ASGI middleware: who asks for a page (`Accept: text/html`) and meets a 404 gets one that is a page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; the answer to a page that is not there is replaced."""
        asked = scope["type"] == "http" and scope["method"] == "GET"
        if not asked or "text/html" not in Headers(scope=scope).get("accept", ""):
            await self.app(scope, receive, send)
            return
        replaced = False

        async def replace(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 404:
                replaced = True
                await HTMLResponse(PAGE, 404)(scope, receive, send)
            elif not replaced:
                await send(message)

        await self.app(scope, receive, replace)
