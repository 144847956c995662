"""The loopback Hub's API of repos: who am I, create, describe, search, list files, branches and tags, Spaces.

Covered: what huggingface_hub 2.4 sends for the calls that this project makes, and their refusals.
Not covered: collections, jobs, webhooks, buckets, likes, squashing, templates, building and running a Space.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from demo.loopback_info import Catalogue, card_data, file_facts, matches, trimmed
from demo.loopback_rules import Caller
from demo.loopback_store import Commit, HubError, Repo, Store, below, check_name, git_blob_id, now
from demo.loopback_web import CallerOf, JsonOf, PathOf, RepoOf, RevisionOf, StoreOf, base_url

router = APIRouter()
REPO = "/api/{kinds:kinds}/{owner}/{name}"
PAGE = 1000  # entries of a listing per answer


@router.get("/api/whoami-v2")
async def whoami(caller: CallerOf) -> dict[str, Any]:
    """The token's user, its organisations and what kind of token it is."""
    name = caller.need_user()
    orgs = caller.orgs if caller.has("read-memberships") else {}
    auth: dict[str, Any] = {"type": "oauth", "expiresAt": caller.token["expires"]}
    if caller.scopes is None:
        auth = {
            "type": "access_token",
            "accessToken": {"displayName": "loopback", "role": caller.token["role"]},
        }
    return {
        "type": "user",
        "id": caller.store.users[name]["id"],
        "name": name,
        "fullname": name,
        "email": f"{name}@example.org",
        "emailVerified": True,
        "isPro": False,
        "canPay": False,
        "avatarUrl": f"/avatars/{name}.svg",
        "orgs": [{"type": "org", "name": org, "fullname": org, "roleInOrg": role} for org, role in orgs.items()],
        "auth": auth,
    }


@router.post("/api/validate-yaml")
async def validate_yaml(body: JsonOf) -> dict[str, Any]:
    """The check of a README's metadata that precedes every commit of one."""
    if not card_data(body["content"]):
        return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
    return {"errors": [], "warnings": []}


@router.get("/api/agent-harnesses")
async def agent_harnesses() -> Response:
    """The client asks; nothing is offered."""
    return JSONResponse({}, 404)


# Creating, changing, deleting


def _named(body: dict[str, Any], caller: Caller) -> tuple[str, str]:
    """Kind and id of the repo that a body speaks of."""
    owner = body.get("organization") or caller.need_user()
    return body.get("type") or "model", f"{owner}/{check_name(body['name'])}"


@router.post("/api/repos/create")
async def create(request: Request, body: JsonOf, caller: CallerOf, store: StoreOf) -> dict[str, Any]:
    """A new repo with its initial commit."""
    kind, repo_id = _named(body, caller)
    url = f"{base_url(request)}/{Repo(kind, repo_id, '').path}"
    old = store.repos.get((kind, repo_id))
    if old is not None and caller.sees(old) and caller.role(old.owner):
        raise HubError(409, f"You already created this {kind} repo", url=url)
    caller.need_create(repo_id.split("/")[0])
    if old is not None:
        raise HubError(409, f"You already created this {kind} repo", url=url)
    repo = Repo(kind, repo_id, caller.need_user(), body.get("visibility") == "private", caller.client)
    if kind == "space":
        repo.space = {"sdk": body["sdk"], "hardware": body.get("hardware") or "cpu-basic"}
        for key in ("secrets", "variables"):
            repo.space[key] = {item["key"]: item for item in body.get(key) or []}
    store.add_repo(repo)
    return {"url": url, "name": repo_id, "id": repo.refs["refs/heads/main"][:24]}


@router.delete("/api/repos/delete")
async def delete(body: JsonOf, caller: CallerOf, store: StoreOf) -> dict[str, Any]:
    """Remove a repo."""
    repo = caller.need_sight(store.repos.get(_named(body, caller)))
    caller.need_manage(repo)
    store.delete_repo(repo)
    return {}


@router.post("/api/repos/move")
async def move(body: JsonOf, caller: CallerOf, store: StoreOf) -> dict[str, Any]:
    """Rename a repo, or hand it to another namespace."""
    kind = body.get("type") or "model"
    repo = caller.need_sight(store.repos.get((kind, body["fromRepo"])))
    caller.need_manage(repo)
    caller.need_create(body["toRepo"].split("/")[0])
    owner, _, name = body["toRepo"].partition("/")
    target = f"{owner}/{check_name(name)}"
    if (kind, target) in store.repos:
        raise HubError(409, f"{target} exists")
    store.move_repo(repo, target)
    return {}


@router.put(f"{REPO}/settings")
async def settings(repo: RepoOf, body: JsonOf, caller: CallerOf, store: StoreOf) -> dict[str, Any]:
    """Visibility and gating."""
    caller.need_manage(repo)
    if "visibility" in body:
        repo.private = body["visibility"] == "private"
    if "gated" in body:
        repo.gated = body["gated"]
    store.save_repo(repo)
    return {"private": repo.private, "gated": repo.gated}


@router.post(f"{REPO}/user-access-request/grant")
async def grant(repo: RepoOf, body: JsonOf, caller: CallerOf, store: StoreOf) -> dict[str, Any]:
    """Let a user read a gated repo."""
    caller.need_manage(repo)
    if body["user"] not in repo.access:
        repo.access.append(body["user"])
        store.save_repo(repo)
    return {}


# Describing and searching


def _wanted(request: Request, key: str) -> list[str]:
    """A repeated query parameter, whichever of the two spellings the client used."""
    query = request.query_params
    values = [*query.getlist(key), *query.getlist(f"{key}[]")]
    return [part for value in values for part in value.split(",")]


def _linked(request: Request, items: list[Any], start: int, size: int) -> Response:
    """A page of a listing, with the link to the next one."""
    headers = {}
    if start + size < len(items):
        link = request.url.include_query_params(cursor=start + size)
        headers["Link"] = f'<{link}>; rel="next"'
    return JSONResponse(items[start : start + size], headers=headers)


@router.get("/api/{kinds:kinds}")
async def search(request: Request, kinds: str, caller: CallerOf, store: StoreOf) -> Response:
    """Search among the repos that the caller sees, newest change first unless sorted otherwise."""
    catalogue: Catalogue = request.app.state.catalogue
    query: dict[str, Any] = {**request.query_params, "filter": _wanted(request, "filter")}
    repos = [repo for repo in store.repos.values() if repo.kind == kinds[:-1] and caller.sees(repo)]
    found = [catalogue.describe(repo, store.resolve(repo, "main")) for repo in repos]
    found = [facts for facts in found if matches(facts, query)]
    found.sort(key=lambda facts: facts["lastModified"], reverse=True)
    order = query.get("sort")
    if order in ("createdAt", "lastModified", "downloads", "likes", "trendingScore"):
        found.sort(key=lambda facts: facts[order], reverse=True)
    expand, full = _wanted(request, "expand"), "full" in query
    left_out = {
        "siblings": full,
        "cardData": full or "cardData" in query,
        "config": full or "config" in query,
        "safetensors": False,
        "baseModels": False,
    }
    if not expand:
        found = [{key: facts[key] for key in facts if left_out.get(key, True)} for facts in found]
    items = [trimmed(facts, expand) for facts in found]
    size = min(int(query.get("limit", PAGE)), PAGE)
    return _linked(request, items, int(query.get("cursor", 0)), size)


@router.get(REPO)
@router.get(f"{REPO}/revision/{{revision}}")
async def info(request: Request, repo: RepoOf, revision: RevisionOf, store: StoreOf) -> dict[str, Any]:
    """All that is known of a repo at one revision; readable although gated."""
    catalogue: Catalogue = request.app.state.catalogue
    blobs = request.query_params.get("blobs", "").lower() in ("true", "1")
    facts = catalogue.describe(repo, store.resolve(repo, revision), blobs=blobs)
    return trimmed(facts, _wanted(request, "expand"))


@router.get(f"{REPO}/auth-check")
async def auth_check(repo: RepoOf, caller: CallerOf) -> dict[str, Any]:
    """Whether the caller may read the files."""
    caller.need_read(repo)
    return {}


@router.get(f"{REPO}/auth-check/write")
async def auth_check_write(repo: RepoOf, caller: CallerOf) -> dict[str, Any]:
    """Whether the caller may commit."""
    caller.need_write(repo)
    return {}


# Files


def _folders(commit: Commit, path: str) -> dict[str, dict[str, Any]]:
    """The folders below a path, as listings show them."""
    found: dict[str, dict[str, Any]] = {}
    for name, entry in commit.files.items():
        parts = name.split("/")[:-1]
        for depth in range(len(parts)):
            folder = "/".join(parts[: depth + 1])
            if below(folder, path):
                oid = git_blob_id((found.get(folder, {}).get("oid", "") + entry.oid).encode())
                found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": oid}
    return found


def _with_commit(facts: dict[str, Any], commit: Commit, expand: bool) -> dict[str, Any]:
    if not expand:
        return facts
    last = {"id": commit.id, "title": commit.title, "date": commit.date}
    scan: dict[str, Any] = {"status": "safe", "avScan": {}, "pickleImportScan": None}
    return {**facts, "lastCommit": last, **({"securityFileStatus": scan} if facts["type"] == "file" else {})}


@router.get(f"{REPO}/tree/{{revision}}")
@router.get(f"{REPO}/tree/{{revision}}/{{path:path}}")
async def tree(
    request: Request, repo: RepoOf, revision: RevisionOf, path: PathOf, store: StoreOf, caller: CallerOf
) -> Response:
    """Files and folders, of one level or of all. `lastCommit` (expand) is the revision's own commit."""
    caller.need_sight(repo)
    commit, query = store.resolve(repo, revision), request.query_params
    recursive, expand = (query.get(key, "").lower() in ("true", "1") for key in ("recursive", "expand"))
    entries = [*_folders(commit, path).values()]
    entries += [file_facts(name, entry) for name, entry in commit.files.items() if below(name, path)]
    if path and not entries:
        raise HubError(404, f"{path} does not exist", "EntryNotFound")
    if not recursive:
        entries = [facts for facts in entries if "/" not in facts["path"][len(path) :].strip("/")]
    listing = [_with_commit(facts, commit, expand) for facts in entries]
    size = min(int(query.get("limit", PAGE)), PAGE)
    return _linked(request, listing, int(query.get("cursor", 0)), size)


@router.post(f"{REPO}/paths-info/{{revision}}")
async def paths_info(request: Request, repo: RepoOf, revision: RevisionOf, store: StoreOf) -> list[dict[str, Any]]:
    """The same entries for named paths; what does not exist is left out."""
    form = await request.form()
    commit = store.resolve(repo, revision)
    folders = _folders(commit, "")
    expand = str(form.get("expand", "")).lower() in ("true", "1")
    found = []
    for path in (str(path).strip("/") for path in form.getlist("paths")):
        if path in commit.files:
            found.append(_with_commit(file_facts(path, commit.files[path]), commit, expand))
        elif path in folders:
            found.append(_with_commit(folders[path], commit, expand))
    return found


# Refs and history


@router.get(f"{REPO}/refs")
async def refs(request: Request, repo: RepoOf) -> dict[str, Any]:
    """Branches, tags and, when asked for, pull requests."""
    found: dict[str, Any] = {"branches": [], "converts": [], "tags": []}
    if request.query_params.get("include_prs"):
        found["pullRequests"] = []
    for ref, commit_id in repo.refs.items():
        group, _, name = ref.removeprefix("refs/").partition("/")
        key = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}[group]
        if key in found:
            name = ref if group == "pr" else name
            found[key].append({"name": name, "ref": ref, "targetCommit": commit_id})
    return found


@router.get(f"{REPO}/commits/{{revision}}")
async def commits(request: Request, repo: RepoOf, revision: RevisionOf, store: StoreOf) -> Response:
    """The history, newest first."""
    history = [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": commit.date,
        }
        for commit in store.history(repo, store.resolve(repo, revision))
    ]
    return _linked(request, history, int(request.query_params.get("cursor", 0)), PAGE)


def _new_ref(store: Store, repo: Repo, ref: str, target: str) -> dict[str, Any]:
    if ref in repo.refs:
        raise HubError(409, f"Reference {ref} already exists")
    repo.refs[ref] = target
    store.save_repo(repo)
    return {}


def _drop_ref(store: Store, repo: Repo, ref: str) -> dict[str, Any]:
    if ref not in repo.refs:
        raise HubError(404, f"Reference {ref} does not exist", "RevisionNotFound")
    del repo.refs[ref]
    store.save_repo(repo)
    return {}


@router.post(f"{REPO}/branch/{{revision}}")
async def add_branch(
    repo: RepoOf, revision: RevisionOf, body: JsonOf, store: StoreOf, caller: CallerOf
) -> dict[str, Any]:
    """A new branch, from main or from a given revision."""
    caller.need_write(repo)
    if revision.startswith("refs/"):
        raise HubError(400, f"Invalid reference for a branch: {revision}")
    start = store.resolve(repo, body.get("startingPoint") or "main")
    return _new_ref(store, repo, f"refs/heads/{revision}", start.id)


@router.delete(f"{REPO}/branch/{{revision}}")
async def drop_branch(repo: RepoOf, revision: RevisionOf, store: StoreOf, caller: CallerOf) -> dict[str, Any]:
    """Remove a branch; main stays."""
    caller.need_write(repo)
    if revision == "main":
        raise HubError(403, "The branch main is protected")
    return _drop_ref(store, repo, f"refs/heads/{revision}")


@router.post(f"{REPO}/tag/{{revision}}")
async def add_tag(repo: RepoOf, revision: RevisionOf, body: JsonOf, store: StoreOf, caller: CallerOf) -> dict[str, Any]:
    """A new tag on a revision."""
    caller.need_write(repo)
    return _new_ref(store, repo, f"refs/tags/{body['tag']}", store.resolve(repo, revision).id)


@router.delete(f"{REPO}/tag/{{revision}}")
async def drop_tag(repo: RepoOf, revision: RevisionOf, store: StoreOf, caller: CallerOf) -> dict[str, Any]:
    """Remove a tag."""
    caller.need_write(repo)
    return _drop_ref(store, repo, f"refs/tags/{revision}")


# Spaces

SPACE = "/api/spaces/{owner}/{name}"


@router.get(f"{SPACE}/runtime")
async def runtime(repo: RepoOf) -> dict[str, Any]:
    """A Space of this Hub is always said to run."""
    hardware = repo.space.get("hardware")
    return {"stage": "RUNNING", "hardware": {"current": hardware, "requested": hardware}, "gcTimeout": None}


@router.get("/api/spaces/{owner}/{name}/{group}")
async def space_values(repo: RepoOf, group: str, caller: CallerOf) -> dict[str, Any]:
    """Variables, or secrets without their values."""
    caller.need_write(repo)
    return _shown(repo, group)


@router.post("/api/spaces/{owner}/{name}/{group}")
async def set_space_value(repo: RepoOf, group: str, body: JsonOf, caller: CallerOf, store: StoreOf) -> dict[str, Any]:
    """Add or change one variable or secret."""
    caller.need_write(repo)
    _shown(repo, group)
    repo.space[group][body["key"]] = {**body, "updatedAt": now()}
    store.save_repo(repo)
    return _shown(repo, group)


@router.delete("/api/spaces/{owner}/{name}/{group}")
async def drop_space_value(repo: RepoOf, group: str, body: JsonOf, caller: CallerOf, store: StoreOf) -> dict[str, Any]:
    """Remove one variable or secret."""
    caller.need_write(repo)
    _shown(repo, group)
    repo.space[group].pop(body["key"], None)
    store.save_repo(repo)
    return _shown(repo, group)


def _shown(repo: Repo, group: str) -> dict[str, Any]:
    """What may be read back of a group of values."""
    if group not in ("secrets", "variables"):
        raise HubError(404, f"the loopback Hub does not speak /{group} of a Space")
    hidden = ("value",) if group == "secrets" else ()
    values: dict[str, dict[str, Any]] = repo.space[group]
    return {key: {name: item[name] for name in item if name not in hidden} for key, item in values.items()}
