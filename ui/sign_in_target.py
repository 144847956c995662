"""Where a sign-in leads back to: the whole address that somebody was at.

The framework's button asks for `/login/huggingface?_target_url=/jobs?id=one&with=two` and quotes nothing, so that all
behind the first `&` would be parameters of the sign-in, and lost.
"""

from urllib.parse import quote_from_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

PLACES = frozenset({"/login/huggingface", "/logout"})
START = b"_target_url="


class SignInTarget:
    """ASGI middleware: the address of the page is one parameter of a sign-in or sign-out, as it is meant."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; a target that was not quoted is."""
        if scope["type"] == "http" and scope["path"].rstrip("/") in PLACES:
            scope["query_string"] = quoted(scope["query_string"])
        await self.app(scope, receive, send)


def quoted(query: bytes) -> bytes:
    """The query with its target quoted; a target that has a query of its own can only have been plain."""
    target = query.removeprefix(START)
    if target == query or b"?" not in target:
        return query
    return START + quote_from_bytes(target, safe="").encode()
