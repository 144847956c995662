"""What all routes of the loopback Hub share: who asks, for which repo, and how a refusal is worded."""

import re
from typing import Annotated, Any, cast
from urllib.parse import unquote

from fastapi import Depends, Request
from fastapi.responses import JSONResponse
from starlette.convertors import StringConvertor, register_url_convertor

from demo.loopback_rules import Caller, caller_of
from demo.loopback_store import KINDS, HubError, Repo, Store, repo_not_found


class KindConvertor(StringConvertor):
    """`{kinds:kinds}` in a route matches models, datasets and spaces, and nothing else."""

    regex = "|".join(KINDS)


register_url_convertor("kinds", KindConvertor())


async def _store(request: Request) -> Store:
    return cast(Store, request.app.state.store)


async def _caller(request: Request) -> Caller:
    return caller_of(request.app.state.store, request.headers.get("authorization"))


async def _repo(request: Request) -> Repo:
    caller, parameters = await _caller(request), request.path_params
    default = "spaces" if request.scope["path"].startswith("/api/spaces/") else "models"
    kind = KINDS[parameters.get("kinds", default)]
    repo_id = f"{parameters['owner']}/{parameters['name']}"
    repo = caller.store.repos.get((kind, repo_id))
    if repo is None and (kind, repo_id) in caller.store.moved:
        raise _sent_on(request, repo_id, caller.store.moved[kind, repo_id])
    return caller.need_sight(repo)


def _sent_on(request: Request, former: str, repo_id: str) -> HubError:
    """The answer to who asks for a repo by the name that it had: the same address with its name."""
    answer = HubError(307, f"Temporary Redirect. Redirecting to {repo_id}")
    query = f"?{request.url.query}" if request.url.query else ""
    answer.headers["Location"] = request.scope["path"].replace(former, repo_id, 1) + query
    return answer


async def _revision(request: Request) -> str:
    return unquote(request.path_params.get("revision", "main"))


async def _path(request: Request) -> str:
    return unquote(request.path_params.get("path", "")).strip("/")


StoreOf = Annotated[Store, Depends(_store)]
CallerOf = Annotated[Caller, Depends(_caller)]
RepoOf = Annotated[Repo, Depends(_repo)]  # one that the caller sees
RevisionOf = Annotated[str, Depends(_revision)]
PathOf = Annotated[str, Depends(_path)]


def base_url(request: Request) -> str:
    """The Hub's address as the client wrote it, without the final slash."""
    return f"{request.url.scheme}://{request.url.netloc}"


def storage_url(request: Request, path: str) -> str:
    """A path on the host name that the client did not use: storage is another origin."""
    host = "127.0.0.1" if request.url.hostname == "localhost" else "localhost"
    return f"{request.url.scheme}://{host}:{request.url.port}{path}"


async def json_body(request: Request) -> dict[str, Any]:
    """The request's JSON object; no body is an empty one."""
    if not await request.body():
        return {}
    try:
        body = await request.json()
    except ValueError as error:
        raise HubError(400, "The request body is not JSON") from error
    return cast(dict[str, Any], body)


JsonOf = Annotated[dict[str, Any], Depends(json_body)]


async def refused(_: Request, error: Exception) -> JSONResponse:
    """A HubError as the Hub answers it."""
    assert isinstance(error, HubError)
    line = " ".join(error.message.split())
    headers = {**error.headers, "X-Error-Message": line.encode("ascii", "replace").decode()}
    if error.code is not None:
        headers["X-Error-Code"] = error.code
    return JSONResponse({"error": error.message, **error.body}, error.status, headers)


NO_NAMESPACE = re.compile(
    r"/api/(models|datasets|spaces)/[^/]+(/revision/[^/]+)?|(/datasets|/spaces)?/[^/]+/resolve/.+"
)


def no_such_route(request: Request) -> HubError:
    """A path that no route takes: an id without namespace is a missing repo, all else is not spoken here."""
    path = request.scope["path"]
    if NO_NAMESPACE.fullmatch(path):
        return repo_not_found()
    return HubError(404, f"the loopback Hub does not speak {request.method} {path}")
