"""A Hugging Face Hub on this machine, for the demonstration and the tests.

    python -m demo.loopback_hub --root DIR --port 8765        in a process of its own
    with LoopbackHub(tmp_path) as hub: HfApi(endpoint=hub.url) in a thread of this process, on a free port

It speaks to the real huggingface_hub client, transformers, datasets and Gradio's LoginButton, from nothing
but a folder, which survives restarts. A route it does not know answers 404 and says so.

    loopback_store    the state on disk               loopback_rules    who may do what
    loopback_repos    create, describe, search, list  loopback_commits  commits and pull requests
    loopback_files    downloads and LFS uploads       loopback_xet      uploads through Xet
    loopback_info     cards, tags, parameter counts   loopback_oauth    sign-in
    loopback_traffic  counters and faults             loopback_pages    HTML for people

Covered and not covered is said at the top of each file. It is no place for secrets: tokens lie in plain text.
"""

import argparse
import asyncio
import json
import logging
import os
import secrets
import socket
import threading
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.exceptions import HTTPException

from demo import loopback_commits, loopback_files, loopback_oauth, loopback_pages, loopback_repos
from demo.loopback_info import Catalogue
from demo.loopback_store import HubError, Store
from demo.loopback_traffic import Counters, Fault, Traffic
from demo.loopback_web import JsonOf, StoreOf, no_such_route, refused

log = logging.getLogger("loopback_hub")
DEFAULT_SCOPES = "openid profile gated-repos contribute-repos"


@dataclass
class Settings:
    """What may be set per Hub: LFS bodies above `multipart_over` bytes are sent in parts."""

    multipart_over: int = 1 << 30
    multipart_part: int = 64 << 20


# The administrator's routes


async def _admin(request: Request) -> None:
    if not secrets.compare_digest(request.headers.get("x-admin-key", ""), request.app.state.admin_key):
        raise HubError(403, "The admin key is wrong")
    if request.client is None or request.client.host not in ("127.0.0.1", "::1"):
        raise HubError(403, "The admin routes answer on loopback only")


admin = APIRouter(prefix="/_admin", dependencies=[Depends(_admin)])


@admin.post("/users")
async def add_user(body: JsonOf, store: StoreOf) -> dict[str, Any]:
    """`{name, orgs: {org: role}}`, and a classic token with `{token: true}`."""
    store.add_user(body["name"], body.get("orgs", {}))
    return {"token": store.add_token(body["name"], scopes=None, role="write")} if body.get("token") else {}


@admin.post("/tokens")
async def add_token(body: JsonOf, store: StoreOf) -> dict[str, Any]:
    """`{user, scopes: null|[...], expires_in, role, client}`."""
    if body["user"] not in store.users:
        raise HubError(400, f"No user {body['user']} on this Hub")
    fields: dict[str, Any] = {key: body.get(key) for key in ("scopes", "client")}
    token = store.add_token(body["user"], seconds=body.get("expires_in"), role=body.get("role", "write"), **fields)
    return {"token": token}


@admin.post("/tokens/expire")
async def expire_token(body: JsonOf, store: StoreOf) -> dict[str, Any]:
    """`{token}`: from now on it is not valid."""
    store.tokens[body["token"]]["expires"] = time.time() - 1
    store.save_state()
    return {}


@admin.post("/access")
async def grant_access(body: JsonOf, store: StoreOf) -> dict[str, Any]:
    """`{repo_id, type, user}`: let a user read a gated repo."""
    repo = store.repos[body.get("type", "model"), body["repo_id"]]
    repo.access.append(body["user"])
    store.save_repo(repo)
    return {}


@admin.post("/oauth-clients")
async def add_client(body: JsonOf, store: StoreOf) -> dict[str, Any]:
    """`{scopes, expires_in}` -> `{id, secret}`: an app that may ask users to sign in."""
    return loopback_oauth.add_client(store, body["scopes"], body["expires_in"])


@admin.get("/counters")
async def counters(request: Request) -> dict[str, Any]:
    """What was counted since the last reset."""
    traffic: Traffic = request.app.state.traffic
    return traffic.report()


@admin.delete("/counters")
async def reset_counters(request: Request) -> dict[str, Any]:
    """Count from zero."""
    request.app.state.traffic.counters = Counters()
    return {}


@admin.post("/faults")
async def add_fault(request: Request, body: JsonOf) -> dict[str, Any]:
    """A Fault's fields."""
    request.app.state.traffic.faults.append(Fault(**body))
    return {}


@admin.delete("/faults")
async def clear_faults(request: Request) -> dict[str, Any]:
    """All well again."""
    request.app.state.traffic.faults.clear()
    return {}


@admin.post("/root")
async def move_to(request: Request, body: JsonOf) -> dict[str, Any]:
    """`{path}`: serve that folder from now on, as a Hub that has just been started on it."""
    _open(request.app, Path(body["path"]))
    return {}


# The application


async def _unknown(request: Request, error: Exception) -> Any:
    """No route, or no such method on it."""
    assert isinstance(error, HTTPException)
    answer = no_such_route(request)
    log.warning("%s", answer.message)
    return await refused(request, answer)


def make_app(root: Path, admin_key: str, settings: Settings | None = None) -> Traffic:
    """The Hub over a folder, as an ASGI application."""
    app = FastAPI(title="loopback Hub", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    traffic = Traffic(app)
    app.state.settings = settings or Settings()
    app.state.traffic, app.state.admin_key = traffic, admin_key
    _open(app, root)
    for module in (loopback_oauth, loopback_repos, loopback_commits, loopback_files):
        app.include_router(module.router)
    app.include_router(admin)
    app.include_router(loopback_pages.router)
    app.add_exception_handler(HubError, refused)
    app.add_exception_handler(HTTPException, _unknown)
    return traffic


def _open(app: FastAPI, root: Path) -> None:
    """Put the application on a folder; it keeps nothing of another one."""
    app.state.store = Store(root)
    app.state.catalogue = Catalogue(app.state.store)
    app.state.codes = {}
    app.state.traffic.counters, app.state.traffic.faults = Counters(), []


class HubAdmin:
    """The administrator's side of a running Hub, in this process or in another one."""

    def __init__(self, url: str, admin_key: str) -> None:
        self.url = self.endpoint = url
        self.admin_key = admin_key

    def add_user(self, name: str, *, orgs: Iterable[str] = (), role: str = "admin") -> None:
        """A user; called again it adds organisations, with the role admin, write, contributor or read."""
        self._call("POST", "users", {"name": name, "orgs": dict.fromkeys(orgs, role)})

    def add_token(
        self,
        user: str,
        scopes: Iterable[str] | None = None,
        expires_in: float | None = None,
        *,
        role: str = "write",
        client: str | None = None,
    ) -> str:
        """A token: without scopes a classic one (role write or read), with scopes as OAuth gives them.

        `client` names the OAuth app; contribute-repos reaches only the repos that the same app created.
        """
        if scopes is not None:
            scopes, client = list(scopes), client or "test-app"
        body = {"user": user, "scopes": scopes, "expires_in": expires_in, "role": role, "client": client}
        return str(self._call("POST", "tokens", body)["token"])

    def expire_token(self, token: str) -> None:
        """Make a token invalid as if its time had run out."""
        self._call("POST", "tokens/expire", {"token": token})

    def grant_access(self, repo_id: str, user: str, *, repo_type: str = "model") -> None:
        """Let a user read a gated repo."""
        self._call("POST", "access", {"repo_id": repo_id, "type": repo_type, "user": user})

    def counters(self) -> dict[str, Any]:
        """See loopback_traffic.Counters; maps lack what was never counted."""
        return self._call("GET", "counters")

    def reset_counters(self) -> None:
        """Count from zero."""
        self._call("DELETE", "counters")

    def set_fault(self, path: str, **fault: Any) -> None:
        """Misbehave for requests whose path the regular expression finds; see loopback_traffic.Fault."""
        self._call("POST", "faults", {"path": path, **fault})

    def clear_faults(self) -> None:
        """All well again."""
        self._call("DELETE", "faults")

    def oauth_environment(self, scopes: str = DEFAULT_SCOPES, *, expires_in: float = 8 * 3600) -> dict[str, str]:
        """Environment variables of an app that signs users in with this Hub. SPACE_HOST must stay unset."""
        client = self._call("POST", "oauth-clients", {"scopes": scopes, "expires_in": expires_in})
        return {
            "SYSTEM": "spaces",
            "SPACE_ID": "demo/merge-my-models",
            "OAUTH_CLIENT_ID": client["id"],
            "OAUTH_CLIENT_SECRET": client["secret"],
            "OAUTH_SCOPES": scopes,
            "OPENID_PROVIDER_URL": self.url,
            "HF_ENDPOINT": self.url,
        }

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"X-Admin-Key": self.admin_key, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_admin/{path}", data, headers, method=method)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=30) as answer:
            return dict(json.load(answer))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: who connects before the server runs waits. Port 0 is any free one.

    The protocol is named: else asyncio leaves Nagle's algorithm on, which costs 40 ms a request.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(128)
    return listener


def server_of(app: Traffic) -> uvicorn.Server:
    """A uvicorn server that does not talk: a cut connection would be an error to it."""
    config = uvicorn.Config(app, log_level="critical", lifespan="off", access_log=False, timeout_graceful_shutdown=1)
    return uvicorn.Server(config)


class LoopbackHub(HubAdmin):
    """A Hub in a thread of this process, from `with` until the end of the block."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        port: int = 0,
        *,
        multipart_over: int = Settings.multipart_over,
        multipart_part: int = Settings.multipart_part,
    ) -> None:
        self.root = Path(root)
        self._socket = listen("127.0.0.1", port)
        super().__init__(f"http://127.0.0.1:{self._socket.getsockname()[1]}", secrets.token_hex(16))
        app = make_app(self.root, self.admin_key, Settings(multipart_over, multipart_part))
        self._server = server_of(app)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def move_to(self, root: Path) -> None:
        """Serve another folder from now on, at the same address: cheaper than a new Hub."""
        self._call("POST", "root", {"path": str(root)})
        self.root = root

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("The loopback Hub did not start")
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True  # nobody waits for connections kept alive
        self._thread.join(timeout=10)


# In a process of its own


async def _serve(server: uvicorn.Server, listener: socket.socket, parent: int | None) -> None:
    """Serve until told to stop, or until the parent process is gone."""
    serving = asyncio.create_task(server.serve([listener]))
    while not serving.done():
        await asyncio.wait([serving], timeout=0.5)
        if parent is not None and os.getppid() != parent:
            server.should_exit = True
    await serving


def main() -> None:
    """The command; prints its address and key as one JSON line once it listens."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the state; made if it is not there")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--admin-key", default=secrets.token_hex(16), help="guards /_admin; made up if not given")
    parser.add_argument("--with-parent", action="store_true", help="end when the starting process ends")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    listener = listen(options.host, options.port)
    url = f"http://{options.host}:{listener.getsockname()[1]}"
    app = make_app(options.root, options.admin_key)
    print(json.dumps({"url": url, "admin_key": options.admin_key}), flush=True)
    parent = os.getppid() if options.with_parent else None
    asyncio.run(_serve(server_of(app), listener, parent))


if __name__ == "__main__":
    main()
