"""File bodies on the loopback Hub: `resolve`, the storage that LFS files are redirected to, LFS uploads.

Storage is this same server under its other name: a client that calls 127.0.0.1 is sent to localhost and the
other way round, because clients treat a redirect within one origin differently. Links to storage are signed
and need no token. Bodies are streamed in both directions.

Covered: HEAD, GET, one byte range, basic and multipart LFS uploads, verify.
Not covered: several ranges in one request, expiry of signed links, LFS downloads by git.
"""

import hashlib
import hmac
import json
import math
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from demo.loopback_info import header_size, safetensors_header
from demo.loopback_store import BodyWriter, HubError, Repo, Store
from demo.loopback_traffic import Counters
from demo.loopback_web import CallerOf, JsonOf, PathOf, RepoOf, RevisionOf, StoreOf, base_url, storage_url

PIECE = 1 << 20
WEIGHTS = (".safetensors", ".bin")
router = APIRouter()


def signature(store: Store, *parts: str) -> str:
    """What proves that the Hub itself handed out a link."""
    return hmac.new(store.keys["sign"].encode(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def check_signature(request: Request, store: Store, *parts: str) -> None:
    """Refuse a made-up link, and note a token that was sent along with one."""
    if "authorization" in request.headers:
        request.app.state.traffic.counters.authorized_storage_requests += 1
    if not hmac.compare_digest(request.query_params.get("signature", ""), signature(store, *parts)):
        raise HubError(403, "The signature of this link is not valid")


# Downloads


def byte_range(text: str | None, size: int) -> tuple[int, int] | None:
    """`bytes=a-b`, `a-` or `-n` as a half-open interval; None without Range."""
    if text is None:
        return None
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text.strip())
    start = stop = 0
    if match is not None and match[1]:
        start, stop = int(match[1]), min(int(match[2] or size) + 1, size)
    elif match is not None and match[2]:
        start, stop = max(0, size - int(match[2])), size
    if start >= stop:
        error = HubError(416, f"Cannot serve the range {text} of {size} bytes")
        error.headers = {"Content-Range": f"bytes */{size}"}
        raise error
    return start, stop


Part = tuple[int, int]
Sent = Callable[[int, int], None]


async def _pieces(path: Path, start: int, stop: int, sent: Sent | None) -> AsyncIterator[bytes]:
    """The bytes start..stop of a file; `sent` is told of each piece before it goes."""
    with path.open("rb") as file:
        file.seek(start)
        while start < stop:
            piece = file.read(min(PIECE, stop - start))
            if sent is not None:
                sent(start, start + len(piece))
            start += len(piece)
            yield piece


def body_response(request: Request, path: Path, name: str, etag: str, extra: dict[str, str]) -> Response:
    """A stored body as the answer to HEAD or GET, whole or in part."""
    size, weights = path.stat().st_size, name.endswith(WEIGHTS)
    part = byte_range(request.headers.get("range"), size)
    start, stop = part or (0, size)
    headers = {
        **extra,
        "ETag": f'"{etag}"',
        "Accept-Ranges": "bytes",
        "Content-Length": str(stop - start),
        "Content-Type": "application/octet-stream" if weights else "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
    }
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = 200 if part is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    counters: Counters = request.app.state.traffic.counters
    if part is None:
        counters.body_gets[etag] += 1
        counters.weight_requests += weights
    header = header_size(path, name)
    sent = (lambda first, last: counters.sent(header, first, last, part)) if weights else None
    return StreamingResponse(_pieces(path, start, stop, sent), status, headers)


@router.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
@router.api_route("/{kinds:kinds}/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
async def resolve(
    request: Request, repo: RepoOf, revision: RevisionOf, path: PathOf, store: StoreOf, caller: CallerOf
) -> Response:
    """A file of a repo: the body itself, or for LFS a redirect to storage."""
    caller.need_read(repo)
    commit = store.resolve(repo, revision)
    headers = {"X-Repo-Commit": commit.id}
    entry = commit.files.get(path)
    if entry is None:
        error = HubError(404, f"Entry not found: {path}", "EntryNotFound")
        error.headers = headers
        raise error
    blob = store.blob(entry.sha256)
    if not entry.lfs:
        return body_response(request, blob, path, entry.etag, headers)
    name = path.rsplit("/", 1)[-1]
    link = f"/_storage/{entry.sha256}/{quote(name)}?signature={signature(store, 'read', entry.sha256, name)}"
    headers["Location"] = storage_url(request, link)
    headers["X-Linked-Size"] = str(entry.size)
    headers["X-Linked-Etag"] = headers["ETag"] = f'"{entry.sha256}"'
    return Response(status_code=302, headers=headers)


@router.api_route("/_storage/{sha256}/{file}", methods=["GET", "HEAD"])
async def read_storage(request: Request, sha256: str, file: str, store: StoreOf) -> Response:
    """The body behind an LFS redirect."""
    check_signature(request, store, "read", sha256, unquote(file))
    return body_response(request, store.blob(sha256), unquote(file), sha256, {})


@router.get("/api/models/{owner}/{name}/safetensors-metadata/{path:path}")
async def safetensors_metadata(repo: RepoOf, path: PathOf, store: StoreOf, caller: CallerOf) -> dict[str, Any]:
    """The headers of all shards that an index file names, in one answer."""
    caller.need_read(repo)
    commit = store.resolve(repo, "main")
    index = json.loads(store.read_text(commit, path) or "{}")
    shards = sorted(set(index.get("weight_map", {}).values()))
    if not shards:
        raise HubError(404, f"Entry not found: {path}", "EntryNotFound")
    headers = {shard: safetensors_header(store.blob(commit.files[shard].sha256)) for shard in shards}
    return {"index": {"metadata": index.get("metadata", {})}, "headers": headers}


# Uploads by LFS


@router.post("/{owner}/{name}.git/info/lfs/objects/batch")
@router.post("/{kinds:kinds}/{owner}/{name}.git/info/lfs/objects/batch")
async def batch(request: Request, repo: RepoOf, body: JsonOf, store: StoreOf, caller: CallerOf) -> dict[str, Any]:
    """Where to put each LFS body; one that the repo has already gets no instructions."""
    caller.need_discuss(repo)
    over = request.app.state.settings.multipart_over
    objects, transfer = [], "basic"
    for wanted in body.get("objects", []):
        facts = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in repo.objects:
            multipart = wanted["size"] > over and "multipart" in body.get("transfers", [])
            transfer = "multipart" if multipart else transfer
            facts["actions"] = _actions(request, store, repo, facts, multipart)
        objects.append(facts)
    return {"transfer": transfer, "objects": objects}


def _actions(request: Request, store: Store, repo: Repo, facts: dict[str, Any], multipart: bool) -> dict[str, Any]:
    """Upload and verify instructions for one LFS body."""
    oid, size = facts["oid"], facts["size"]
    place = f"/_upload/{repo.kind}s/{repo.id}/{oid}"
    query = f"?signature={signature(store, 'write', repo.kind, repo.id, oid)}"
    verify = {"href": f"{base_url(request)}/{repo.path}.git/info/lfs/objects/verify"}
    if not multipart:
        return {"upload": {"href": storage_url(request, place + query)}, "verify": verify}
    chunk = request.app.state.settings.multipart_part
    upload = secrets.token_hex(8)
    header = {"chunk_size": str(chunk)}
    for number in range(1, math.ceil(size / chunk) + 1):
        header[str(number)] = storage_url(request, f"{place}/{upload}/{number}{query}")
    return {
        "upload": {"href": f"{base_url(request)}{place}/{upload}{query}", "header": header},
        "verify": verify,
    }


def _received(request: Request, store: Store, repo: Repo, oid: str) -> Response:
    if oid not in repo.objects:
        repo.objects.append(oid)
        store.save_repo(repo)
    request.app.state.traffic.counters.lfs_puts[oid] += 1
    return Response(headers={"ETag": f'"{oid}"'})


def _target(request: Request, store: Store, kinds: str, repo_id: str, oid: str) -> Repo:
    """The repo that a signed upload link leads to."""
    kind = kinds[:-1]
    check_signature(request, store, "write", kind, repo_id, oid)
    return store.repos[kind, repo_id]


@router.put("/_upload/{kinds:kinds}/{owner}/{name}/{oid}")
async def put_body(request: Request, kinds: str, owner: str, name: str, oid: str, store: StoreOf) -> Response:
    """A whole LFS body."""
    repo = _target(request, store, kinds, f"{owner}/{name}", oid)
    writer = BodyWriter(store)
    async for piece in request.stream():
        writer.write(piece)
    writer.finish(oid)
    return _received(request, store, repo, oid)


@router.put("/_upload/{kinds:kinds}/{owner}/{name}/{oid}/{upload}/{number}")
async def put_part(
    request: Request, kinds: str, owner: str, name: str, oid: str, upload: str, number: int, store: StoreOf
) -> Response:
    """One part of a multipart upload."""
    _target(request, store, kinds, f"{owner}/{name}", oid)
    if not upload.isalnum():
        raise HubError(400, "This is no upload")
    folder = store.root / "tmp" / upload
    folder.mkdir(exist_ok=True)
    with (folder / str(number)).open("wb") as file:
        async for piece in request.stream():
            file.write(piece)
    return Response(headers={"ETag": f'"{upload}-{number}"'})


@router.post("/_upload/{kinds:kinds}/{owner}/{name}/{oid}/{upload}")
async def join_parts(
    request: Request, kinds: str, owner: str, name: str, oid: str, upload: str, body: JsonOf, store: StoreOf
) -> Response:
    """The end of a multipart upload: the parts become one body."""
    repo = _target(request, store, kinds, f"{owner}/{name}", oid)
    folder, writer = store.root / "tmp" / upload, BodyWriter(store)
    for part in sorted(int(part["partNumber"]) for part in body["parts"]):
        with (folder / str(part)).open("rb") as file:
            while piece := file.read(PIECE):
                writer.write(piece)
    shutil.rmtree(folder)
    writer.finish(oid)
    return _received(request, store, repo, oid)


@router.post("/{owner}/{name}.git/info/lfs/objects/verify")
@router.post("/{kinds:kinds}/{owner}/{name}.git/info/lfs/objects/verify")
async def verify(repo: RepoOf, body: JsonOf, store: StoreOf) -> dict[str, Any]:
    """Whether an uploaded body is here and has the size announced."""
    blob = store.blob(body["oid"])
    if body["oid"] not in repo.objects or blob.stat().st_size != body["size"]:
        raise HubError(422, f"The LFS object {body['oid']} is not complete")
    return {"oid": body["oid"], "size": body["size"]}
