"""Who may ask what of the page: the guard before every request, and the Hub as the asking person sees it.

The session cookie of the sign-in is SameSite=None (the page lives in a frame on a Space) and Gradio answers
other origins, so a browser's word counts only when it comes from our own pages.
"""

import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import gradio as gr
from huggingface_hub import get_token
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.client import TOKEN, Hub, SignInNeeded
from merging.errors import InputError, MergeError

EMBEDDED = frozenset({"/preview.png"})  # the picture of a shared link: nothing that is not public, asked as nobody
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self'; frame-ancestors 'self' {site}; object-src 'none'; base-uri 'self'"
)
FRAMEWORK = re.compile(
    r"/gradio_api/(info|startup-events|theme\.css|upload|upload_progress|queue/(join|data)|run/predict|heartbeat/\w+|"
    r"cancel|reset|call/\w+(/\w+)?)/?"
    r"|/gradio_api/file=/.*"  # what somebody uploaded, by its hash: never an address that is fetched for whoever asks
)  # of the framework's own routes those that the page and its clients use
UNUSED = re.compile(r"/(gradio_api|monitoring|svelte|pwa_icon)(/.*)?|/login/?")
NOT_OURS = "Another site's page may not ask this service."
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")  # in an address: the routes below end before a line break, ours after it
STRANGE = (b"x-gradio-server",)  # headers by which the framework writes another's address into a page that is kept
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware: own origin only, known hosts only on one's own machine, no cookie without an origin, no route
    of the framework that the page does not use."""

    def __init__(self, app: ASGIApp, *, loopback_only: bool, origins: frozenset[str], site: str = "") -> None:
        """`origins` are addresses of this service beside the one that a request names as its host.

        `site` may show the page in a frame: the Hub, on a Space.
        """
        self.app, self.loopback_only, self.origins = app, loopback_only, origins
        self.headers = {
            "content-security-policy": POLICY.format(site=site),
            "x-content-type-options": "nosniff",
            "referrer-policy": "strict-origin-when-cross-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 403 or 404 and one sentence, or pass the request on."""
        if scope["type"] == "websocket":  # the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self.refusal(headers, scope["path"])
        if refusal:
            await PlainTextResponse(refusal, 403)(scope, receive, send)
            return
        path = scope["path"]
        if UNPRINTABLE.search(path) or (UNUSED.fullmatch(path) and not FRAMEWORK.fullmatch(path)):
            await PlainTextResponse("There is nothing here.", 404)(scope, receive, send)
            return
        nameless = scope["method"] not in ("GET", "HEAD") and "origin" not in headers
        dropped = (*STRANGE, b"cookie") if nameless else STRANGE
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in dropped]

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in self.headers.items():
                    MutableHeaders(scope=message).setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers)

    def refusal(self, headers: Headers, path: str = "/") -> str:
        """Why a request with these headers is not served, "" when it is."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.loopback_only and not OWN_HOST.fullmatch(host):
            return "This page answers only as 127.0.0.1 or localhost."
        if origin is not None and not self._ours(origin, host):
            return NOT_OURS
        if path in EMBEDDED:
            return ""
        site = headers.get("sec-fetch-site")
        if site in ("cross-site", "same-site") and headers.get("sec-fetch-mode", "navigate") != "navigate":
            return NOT_OURS
        if path.rstrip("/") == "/logout":  # a GET that changes something: only from our own page, or typed by hand
            asks = site in ("same-origin", "none") if site else self._ours(headers.get("referer", ""), host)
            return "" if asks else "Another site's page may not sign anybody out."
        return ""

    def _ours(self, url: str, host: str) -> bool:
        """Whether an address is one of this service, which was asked as `host`."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        return f"{parts.scheme}://{parts.netloc}" in self.origins or (bool(host) and parts.netloc == host)


@dataclass(frozen=True)
class Access:
    """How people are known: by the sign-in of a Space, or as the one user of this machine. Never both."""

    endpoint: str | None  # of the Hub, None is the library's own
    single_user: bool
    proxies: int = 1  # in front of this service; what the first of them wrote of a request is whence it came

    def hub(self, token: gr.OAuthToken | None, request: gr.Request | None) -> Hub:
        """The Hub as the asking person sees it: by the token of the sign-in or of an API caller, else anonymous.

        The machine's own token serves our own page alone (the guard has compared the origin with ours). Raises
        SignInNeeded for a token that cannot be sent.
        """
        if token is not None and token.token:
            if not TOKEN.fullmatch(token.token):
                raise SignInNeeded("Your token is not valid", "it holds characters that no token has", "Sign in again")
            return Hub(self.endpoint, token.token, frozenset(token.scope.split()) if token.scope else None)
        if self.single_user and request is not None and request.headers.get("origin"):
            return Hub(self.endpoint, get_token() or False, own_machine=True)
        return Hub.anonymous(self.endpoint)


@contextmanager
def spoken() -> Iterator[None]:
    """What goes wrong inside is said in one sentence: our own errors as they are, all else with a reference.

    The traceback of the unexpected stands in the server's log beside that reference, and nowhere else.
    """
    try:
        yield
    except InputError as error:
        raise gr.Error("\n".join(str(one) for one in error.problems), print_exception=False) from None
    except MergeError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except gr.Error:
        raise
    except Exception:
        reference = secrets.token_hex(4)
        log.exception("unexpected error %s", reference)
        sentence = f"Something went wrong here, not with your input. Try again, and tell us {reference} if it stays."
        raise gr.Error(sentence, print_exception=False) from None
