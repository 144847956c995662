"""What a chat or a search engine shows of a link: title and description by the address alone, without a script run."""

import html
import re
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from merging.recipe import valid_repo_id

TITLE = "Merge My Models"
ABOUT = "Merge fine-tuned models of the Hugging Face Hub, and publish the result there."
PAGES = {"/": "Merge", "/jobs": "Jobs", "/statistics": "Statistics", "/methods": "Methods", "/model": "Merged model"}
OTHERS = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>')  # the framework's own, about itself
LEAVING = "addEventListener('beforeunload', (event) => event.stopImmediatePropagation())"
"""A script before Gradio's own, which closes its streams as soon as a link is clicked, takes what then breaks for a
lost connection, and reloads the page two seconds later: in the middle of a slow sign-in."""


class LinkPreview:
    """ASGI middleware: our own title and description in the head of every page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; a page is held back until it is whole, and its head is rewritten."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] not in PAGES:
            await self.app(scope, receive, send)
            return
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        head = head_of(scope["path"], scope["query_string"].decode("latin-1")).encode()
        start: Message = {}
        body = bytearray()

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            page = OTHERS.sub(b"", bytes(body)).replace(b"<head>", b"<head>" + head, 1)
            MutableHeaders(scope=start)["content-length"] = str(len(page))
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, hold)


def head_of(path: str, query: str) -> str:
    """The tags of one address. Of a query only a well-formed model name is repeated."""
    title, about = f"{PAGES[path]} · {TITLE}" if path != "/" else TITLE, ABOUT
    named = parse_qs(query).get("id", [""])[0] if path == "/model" else ""
    if valid_repo_id(named):
        title, about = named, f"What {named} was merged from, how, and how to load it. {TITLE}."
    tags = {"og:title": title, "og:description": about, "og:type": "website", "og:site_name": TITLE}
    metas = "".join(f'<meta property="{key}" content="{html.escape(value)}">' for key, value in tags.items())
    return (
        f'<title>{html.escape(title)}</title><meta name="description" content="{html.escape(about)}">'
        f'<meta name="twitter:card" content="summary">{metas}<script>{LEAVING}</script>'
    )
