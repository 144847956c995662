"""Commits on the loopback Hub, and discussions and pull requests, which are refs to commit to.

Covered: preupload, the ndjson commit with its operations, parentCommit (412 when stale), create_pr, Xet write
tokens, opening, listing, commenting, closing and merging pull requests.
Not covered: three-way merges (a pull request's changed files win), diffs, reviews, the repo's .gitignore.
"""

import base64
import json
from typing import Any

from fastapi import APIRouter, Request

from demo.loopback_info import card_data
from demo.loopback_repos import REPO
from demo.loopback_rules import Caller
from demo.loopback_store import Commit, Entry, HubError, Repo, Store, below, git_blob_id, lfs_pointer, now
from demo.loopback_web import CallerOf, JsonOf, RepoOf, RevisionOf, StoreOf, base_url
from demo.loopback_xet import restore, write_token

router = APIRouter()
DISCUSSION = f"{REPO}/discussions/{{number}}"


@router.post(f"{REPO}/preupload/{{revision}}")
async def preupload(
    request: Request, repo: RepoOf, revision: RevisionOf, body: JsonOf, store: StoreOf, caller: CallerOf
) -> dict[str, Any]:
    """How each file is to be sent, and what the repo has under its name now."""
    _need_ref(caller, repo, store.ref(repo, revision), bool(request.query_params.get("create_pr")))
    commit = store.resolve(repo, revision)
    files = []
    for wanted in body["files"]:
        path, sample = wanted["path"], base64.b64decode(wanted.get("sample", ""))
        lfs = store.wants_lfs(commit, path, wanted["size"], sample)
        old = commit.files.get(path)
        mode = "lfs" if lfs else "regular"
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": old and old.etag})
    return {"files": files, "commitOid": commit.id}


async def _receive_xet(store: Store, repo: Repo, operations: list[dict[str, Any]]) -> None:
    """Bring in the bodies that a commit names and that no LFS upload brought."""
    named = [operation["value"]["oid"] for operation in operations if operation["key"] == "lfsFile"]
    for oid in dict.fromkeys(oid for oid in named if oid not in repo.objects):
        if await restore(store, oid):
            repo.objects.append(oid)


def _lfs_entry(store: Store, repo: Repo, path: str, oid: str) -> Entry:
    """An LFS file of a commit; its body must have been uploaded to this repo before."""
    if oid not in repo.objects:
        raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
    size = store.blob(oid).stat().st_size
    return Entry(size, oid, git_blob_id(lfs_pointer(oid, size)), lfs=True)


def _applied(store: Store, repo: Repo, commit: Commit, operations: list[dict[str, Any]]) -> dict[str, Entry]:
    """The files of a commit after the operations."""
    files = dict(commit.files)
    for operation in operations:
        key, value = operation["key"], operation["value"]
        path = value["path"]
        if key == "file":
            body = base64.b64decode(value["content"])
            if path == "README.md":
                card_data(body.decode(errors="replace"))
            files[path] = Entry(len(body), store.put_body(body), git_blob_id(body))
        elif key == "lfsFile":
            files[path] = _lfs_entry(store, repo, path, value["oid"])
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or below(name, path.rstrip("/"))]
            if not gone:
                raise HubError(404, f"A file to delete does not exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"the loopback Hub does not know the operation {key}")
    return files


@router.post(f"{REPO}/commit/{{revision}}")
async def commit_files(
    request: Request, repo: RepoOf, revision: RevisionOf, store: StoreOf, caller: CallerOf
) -> dict[str, Any]:
    """Apply the operations of one commit, on a branch, on a pull request or as a new pull request."""
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    caller.need_discuss(repo)
    await _receive_xet(store, repo, lines)  # the last pause: from here on no other request comes between
    base = store.resolve(repo, revision)
    if header.get("parentCommit") not in (None, base.id):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    new_request = bool(request.query_params.get("create_pr"))
    ref = store.ref(repo, revision)
    _need_ref(caller, repo, ref, new_request)
    files = _applied(store, repo, base, [line for line in lines if line["key"] != "header"])
    author, title = caller.need_user(), header["summary"]
    answer: dict[str, Any] = {"success": True, "hookOutput": ""}
    if new_request:
        discussion = open_discussion(store, repo, author, title, header.get("description", ""), base)
        ref = f"refs/pr/{discussion['num']}"
        answer["pullRequestUrl"] = f"{base_url(request)}/{repo.path}/discussions/{discussion['num']}"
    assert ref is not None
    commit = store.add_commit(repo, ref, files, title, header.get("description", ""), author)
    if ref.startswith("refs/pr/"):
        data = {"subject": title, "oid": commit.id}
        _add_event(store, repo, _request_of(repo, ref), author, "commit", data)
    return {
        **answer,
        "commitOid": commit.id,
        "commitUrl": f"{base_url(request)}/{repo.path}/commit/{commit.id}",
    }


def _need_ref(caller: Caller, repo: Repo, ref: str | None, new_request: bool) -> None:
    """The right to commit to a ref: one's own pull request needs no right to write to the repo."""
    if new_request:
        return caller.need_discuss(repo)
    if ref is None or ref.startswith("refs/tags/"):
        raise HubError(400, "Commits go to a branch or a pull request, not to a fixed revision")
    if ref.startswith("refs/pr/"):
        return _need_own(caller, repo, _request_of(repo, ref))
    caller.need_write(repo)
    return None


@router.get(f"{REPO}/xet-write-token/{{revision}}")
async def xet_write_token(repo: RepoOf, caller: CallerOf, store: StoreOf) -> dict[str, Any]:
    """Sends Xet clients to the content store in this Hub's folder."""
    caller.need_discuss(repo)
    return write_token(store)


# Discussions and pull requests


def open_discussion(
    store: Store, repo: Repo, author: str, title: str, text: str, base: Commit | None
) -> dict[str, Any]:
    """A new discussion; with a base commit it is a pull request."""
    discussion: dict[str, Any] = {
        "num": len(repo.discussions) + 1,
        "title": title,
        "author": {"name": author},
        "createdAt": now(),
        "status": "open",
        "isPullRequest": base is not None,
        "repo": {"name": repo.id, "type": repo.kind},
        "events": [],
    }
    repo.discussions.append(discussion)
    if base is not None:
        repo.refs[f"refs/pr/{discussion['num']}"] = base.id
        discussion.update(changes={"base": "refs/heads/main"}, filesWithConflicts=[], base=base.id)
    _add_event(store, repo, discussion, author, "comment", _comment(text))
    return discussion


def _comment(text: str) -> dict[str, Any]:
    return {"edited": False, "hidden": False, "latest": {"raw": text}}


def _add_event(
    store: Store, repo: Repo, discussion: dict[str, Any], author: str, kind: str, data: dict[str, Any]
) -> dict[str, Any]:
    """Append to a discussion's history and save the repo."""
    number = f"{discussion['num']}-{len(discussion['events'])}"
    event = {"id": number, "type": kind, "createdAt": now(), "author": {"name": author}, "data": data}
    discussion["events"].append(event)
    store.save_repo(repo)
    return event


def _discussion(repo: Repo, number: int) -> dict[str, Any]:
    if not 1 <= number <= len(repo.discussions):
        raise HubError(404, f"Discussion {number} does not exist")
    return repo.discussions[number - 1]


def _request_of(repo: Repo, ref: str) -> dict[str, Any]:
    """The pull request that refs/pr/N belongs to."""
    return _discussion(repo, int(ref.rsplit("/", 1)[1]))


@router.get(f"{REPO}/discussions")
async def discussions(request: Request, repo: RepoOf) -> dict[str, Any]:
    """The discussions asked for (author, type, status) on one page, newest first."""
    query = request.query_params
    found = [
        one
        for one in repo.discussions[::-1]
        if query.get("author") in (None, one["author"]["name"])
        and query.get("type") in (None, "all", "pull_request" if one["isPullRequest"] else "discussion")
        and query.get("status") in (None, "all", "open" if one["status"] in ("open", "draft") else "closed")
    ]
    return {"count": len(found), "start": 0, "discussions": found}


@router.post(f"{REPO}/discussions")
async def add_discussion(repo: RepoOf, body: JsonOf, store: StoreOf, caller: CallerOf) -> dict[str, Any]:
    """Open a discussion or an empty pull request."""
    caller.need_discuss(repo)
    base = store.resolve(repo, "main") if body.get("pullRequest") else None
    author = caller.need_user()
    return open_discussion(store, repo, author, body["title"], body.get("description", ""), base)


@router.get(DISCUSSION)
async def discussion(repo: RepoOf, number: int) -> dict[str, Any]:
    """One discussion with its events."""
    return _discussion(repo, number)


@router.post(f"{DISCUSSION}/comment")
async def comment(repo: RepoOf, number: int, body: JsonOf, store: StoreOf, caller: CallerOf) -> dict[str, Any]:
    """Say something."""
    caller.need_discuss(repo)
    data = _comment(body["comment"])
    event = _add_event(store, repo, _discussion(repo, number), caller.need_user(), "comment", data)
    return {"newMessage": event}


@router.post(f"{DISCUSSION}/status")
async def status(repo: RepoOf, number: int, body: JsonOf, store: StoreOf, caller: CallerOf) -> dict[str, Any]:
    """Close or reopen."""
    found = _discussion(repo, number)
    _need_own(caller, repo, found)
    found["status"] = body["status"]
    event = _add_event(store, repo, found, caller.need_user(), "status-change", {"status": body["status"]})
    return {"newStatus": event}


@router.post(f"{DISCUSSION}/merge")
async def merge(repo: RepoOf, number: int, store: StoreOf, caller: CallerOf) -> dict[str, Any]:
    """Put the files that a pull request changed onto main."""
    caller.need_write(repo)
    found = _discussion(repo, number)
    if not found["isPullRequest"] or found["status"] in ("merged", "closed"):
        raise HubError(409, f"Discussion {number} cannot be merged")
    base, wanted = store.commit(repo, found["base"]), store.resolve(repo, f"refs/pr/{number}")
    files = dict(store.resolve(repo, "main").files)
    for path in base.files.keys() | wanted.files.keys():
        if wanted.files.get(path) == base.files.get(path):
            continue
        if path in wanted.files:
            files[path] = wanted.files[path]
        else:
            files.pop(path, None)
    title = f"{found['title']} (#{number})"
    commit = store.add_commit(repo, "refs/heads/main", files, title, "", caller.need_user())
    found["status"] = "merged"
    found["changes"]["mergeCommitId"] = commit.id
    _add_event(store, repo, found, caller.need_user(), "status-change", {"status": "merged"})
    return {}


def _need_own(caller: Caller, repo: Repo, found: dict[str, Any]) -> None:
    """What one has opened is one's own; else it takes the right to write to the repo."""
    if found["author"]["name"] == caller.user:
        return caller.need_discuss(repo)
    caller.need_write(repo)
    return None
