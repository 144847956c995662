"""What a chat or a search engine shows of a link: title and description by the address alone, without a script run."""

import html
import re
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from merging.recipe import valid_repo_id
from ui import shell

TITLE = "Merge My Models"
ABOUT = "Merge fine-tuned models of the Hugging Face Hub, and publish the result there."
PICTURE = "/preview.png"
PAGES = {"/": "Merge", "/jobs": "Jobs", "/statistics": "Statistics", "/methods": "Methods", "/model": "Merged model"}
OTHERS = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>')  # the framework's own, about itself


class LinkPreview:
    """ASGI middleware: our own title and description in the head of every page, and its shell in the body."""

    def __init__(self, app: ASGIApp, public_url: str = "") -> None:
        """`public_url` is the address of this service, "" to use that of the request."""
        self.app, self.public_url = app, public_url.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; a page is held back until it is whole, and its head is rewritten."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] not in PAGES:
            await self.app(scope, receive, send)
            return
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        here = self.public_url or f"{scope['scheme']}://{Headers(scope=scope).get('host', '')}"
        at_once = shell.at_once(scope["path"]).encode()
        head = head_of(scope["path"], scope["query_string"].decode("latin-1"), here).encode()
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
            page = page.replace(b"<gradio-app", at_once + b"<gradio-app", 1)
            MutableHeaders(scope=start)["content-length"] = str(len(page))
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, hold)


def head_of(path: str, query: str, here: str) -> str:
    """The tags of one address of the service at `here`. Of a query only a well-formed model name is repeated."""
    title, about = f"{PAGES[path]} · {TITLE}" if path != "/" else TITLE, ABOUT
    image, words = f"{here}{PICTURE}", ABOUT
    named = parse_qs(query).get("id", [""])[0] if path == "/model" else ""
    if valid_repo_id(named):
        title, about = named, f"What {named} was merged from, how, how well it does, and how to load it. {TITLE}."
        image, words = f"{image}?{urlencode({'id': named})}", f"How {named} was merged, and how well it does"
    tags = {
        "og:title": title,
        "og:description": about,
        "og:type": "website",
        "og:site_name": TITLE,
        "og:image": image,
        "og:image:type": "image/png",
        "og:image:width": "1200",
        "og:image:height": "630",
        "og:image:alt": words,
    }
    metas = "".join(f'<meta property="{key}" content="{html.escape(value)}">' for key, value in tags.items())
    return (
        f'<title>{html.escape(title)}</title><meta name="description" content="{html.escape(about)}">'
        f'<meta name="twitter:card" content="summary_large_image">{metas}'
        f"<style>{shell.STYLE}</style><script>{shell.SCRIPT}</script>"
    )
