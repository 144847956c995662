"""What a chat or a search engine shows of a link: title and description by the address alone, without a script run."""

import html
import re
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from merging.recipe import valid_repo_id

TITLE = "Merge My Models"
ABOUT = "Merge fine-tuned models of the Hugging Face Hub, and publish the result there."
PICTURE = "/preview.png"
PAGES = {"/": "Merge", "/jobs": "Jobs", "/statistics": "Statistics", "/methods": "Methods", "/model": "Merged model"}
OTHERS = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>')  # the framework's own, about itself
HEAD = """
addEventListener('beforeunload', (event) => event.stopImmediatePropagation())
if (self !== top) document.documentElement.classList.add('mm-framed')
if (location.pathname === '/' && /[?&](recipe|model)=/.test(location.search)) {
    document.documentElement.classList.add('mm-filling')
    setTimeout(() => document.documentElement.classList.remove('mm-filling'), 8000)
}
addEventListener('click', async (event) => {
    const alone = event.target.closest?.('.mm-alone')
    if (alone) alone.href = location.href
    const button = event.target.closest?.('.mm-copy')
    if (!button) return
    const pre = button.parentElement.querySelector('pre'), words = button.textContent
    try {
        await navigator.clipboard.writeText(pre ? pre.textContent : location.href)
        button.textContent = 'Copied'
    } catch {
        if (pre) getSelection().selectAllChildren(pre)
        button.textContent = pre ? 'Selected: copy it with your keys' : location.href
    }
    setTimeout(() => { button.textContent = words }, 2500)
})
"""
"""A script before Gradio's own. That one closes its streams as soon as a link is clicked, takes what then breaks for a
lost connection, and reloads the page two seconds later: in the middle of a slow sign-in. Then: a page in a frame, where
browsers may block the cookie of the sign-in, shows the way out of it; a form that a link fills is shown when it is full
(`ui.browser.SETTLE`), so that nothing jumps; and buttons copy."""
STYLE = """
.mm-alone { display: none } .mm-framed .mm-alone { display: inline }
.mm-filling #about, .mm-filling .mm-columns { visibility: hidden }
.mm-filling .mm-header::after { content: 'Filling in the form from the link …'; flex-basis: 100% }
"""


class LinkPreview:
    """ASGI middleware: our own title and description in the head of every page."""

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
        f'<meta name="twitter:card" content="summary_large_image">{metas}<style>{STYLE}</style><script>{HEAD}</script>'
    )
