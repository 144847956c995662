"""The pages' HTML, made once: it holds half a megabyte of layout and is the same for everybody at one address.

Who is signed in, what a link holds and how jobs stand is asked for by the page itself, once it is open.
"""

import threading
from collections import OrderedDict
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.previews import PAGES

MOST = 32  # pages, of some addresses: a stranger can name any
NAMED_BY = ("host", "x-forwarded-host", "x-forwarded-proto")  # what the addresses in a page are made of
OTHER_PAGE = frozenset({"page", "deep_link"})  # queries by which the framework makes another page


class KeptPages:
    """ASGI middleware right around the framework: its pages are kept as it made them first."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what is kept; else pass on, and keep a page that is whole and sets no cookie."""
        key = self._key(scope)
        if key is None:
            await self.app(scope, receive, send)
            return
        with self._lock:
            page = self._kept.get(key)
        if page is not None:
            await Response(page, media_type="text/html")(scope, receive, send)
            return
        body, plain = bytearray(), False

        async def watched(message: Message) -> None:
            nonlocal plain
            if message["type"] == "http.response.start":
                headers = Headers(raw=message["headers"])
                html = headers.get("content-type", "").startswith("text/html")
                plain = message["status"] == 200 and html and "set-cookie" not in headers
            elif plain:
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    self._keep(key, bytes(body))
            await send(message)

        await self.app(scope, receive, watched)

    def _key(self, scope: Scope) -> tuple[str, ...] | None:
        """What a page depends on, None for what is not kept."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] not in PAGES:
            return None
        if OTHER_PAGE & parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).keys():
            return None
        headers = Headers(scope=scope)
        return (scope["path"], scope["scheme"], *(headers.get(name, "")[:200] for name in NAMED_BY))

    def _keep(self, key: tuple[str, ...], page: bytes) -> None:
        with self._lock:
            self._kept[key] = page
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
