"""What the loopback Hub keeps on disk: file bodies, repos with their commits, accounts, secrets.

    root/state.json                    users, tokens, OAuth clients, the signing secret
    root/blobs/ab/ab12...              every file body once, named by its SHA-256
    root/repos/models/owner/name/      repo.json (settings, refs, discussions), commits/<id>.json
    root/tmp/                          uploads in progress

Covered: a restart of the process, real git blob ids, one list of files per commit.
Not covered: git trees and real git commit ids (a commit's id is the SHA-1 of its JSON), two processes on
one root, garbage collection. All calls come from one event loop, so there are no locks.
"""

import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
BIG_FILE = 10_000_000  # the Hub stores larger files as LFS whatever their name
LFS_NAMES = "7z arrow bin bz2 ckpt ftz gz h5 joblib model msgpack npy npz onnx parquet pb pickle pkl pt pth rar"
LFS_NAMES += " safetensors tar tflite tgz wasm xz zip zst"
GIT_ATTRIBUTES = "".join(f"*.{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LFS_NAMES.split())


class HubError(Exception):
    """An answer other than success; `code` is the Hub's X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body
        self.headers: dict[str, str] = {}


def repo_not_found(status: int = 404) -> HubError:
    """What the Hub says of a repo that is not there or that the caller may not see: the two look alike."""
    return HubError(status, "Repository not found", "RepoNotFound")


def check_name(name: str) -> str:
    """A user's, organisation's or repo's name, refused where it is not one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
        raise HubError(400, f"{name!r} is not a valid name: letters, digits, dots, dashes, underscores")
    return name


def now() -> str:
    """This moment in the Hub's spelling."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def below(path: str, folder: str) -> bool:
    """Whether a path lies in a folder; all lie in the root, which is ""."""
    return not folder or path.startswith(folder + "/")


def git_blob_id(body: bytes) -> str:
    """The id that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The text that git keeps in the place of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class Entry:
    """One file of a commit."""

    size: int
    sha256: str  # of the content: where the body lies
    oid: str  # git's blob id: of the content, or of the pointer of an LFS file
    lfs: bool = False

    @property
    def etag(self) -> str:
        """What clients name the file by in their caches."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """One state of a repo."""

    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Entry]


@dataclass
class Repo:
    """All about a repo but its commits. `client` is the OAuth app that created it, if one did."""

    kind: str  # model, dataset, space
    id: str
    author: str
    private: bool = False
    client: str | None = None
    gated: str | bool = False
    access: list[str] = field(default_factory=list)
    created: str = field(default_factory=now)
    refs: dict[str, str] = field(default_factory=dict)  # refs/heads/main -> commit id
    objects: list[str] = field(default_factory=list)  # LFS bodies uploaded to this repo
    discussions: list[dict[str, Any]] = field(default_factory=list)
    space: dict[str, Any] = field(default_factory=dict)  # sdk, hardware, secrets, variables

    @property
    def owner(self) -> str:
        """The user or organisation it belongs to."""
        return self.id.split("/")[0]

    @property
    def path(self) -> str:
        """Its place in web addresses."""
        return PREFIXES[self.kind] + self.id


class BodyWriter:
    """Receives one file body piece by piece and files it under its SHA-256."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._path = store.temporary()
        self._file = self._path.open("wb")
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Take the next piece."""
        self._file.write(piece)
        self._digest.update(piece)
        self.size += len(piece)

    def finish(self, expected: str | None = None) -> str:
        """The SHA-256 of what came; another than the expected one is refused."""
        self._file.close()
        sha256 = self._digest.hexdigest()
        if expected not in (None, sha256):
            self._path.unlink()
            raise HubError(400, f"The uploaded body has SHA-256 {sha256}, not {expected}")
        target = self._store.blob(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._path, target)
        return sha256


class Store:
    """The state of one Hub, in memory and, after every change, on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root / "tmp", ignore_errors=True)
        for name in ("blobs", "repos", "tmp", "xet"):
            (root / name).mkdir(parents=True, exist_ok=True)
        state = self._read(root / "state.json") or {}
        self.users: dict[str, dict[str, Any]] = state.get("users", {})
        self.tokens: dict[str, dict[str, Any]] = state.get("tokens", {})
        self.clients: dict[str, dict[str, Any]] = state.get("clients", {})
        self.keys: dict[str, Any] = state.get("keys", {"sign": secrets.token_hex(32)})
        self.repos: dict[tuple[str, str], Repo] = {}
        self.moved: dict[tuple[str, str], str] = {}  # kind and former id -> id, of repos that were renamed
        for path in sorted(root.glob("repos/*/*/*/repo.json")):
            repo = Repo(**self._read(path))
            self.repos[repo.kind, repo.id] = repo
        self._commits: dict[str, Commit] = {}
        self.save_state()

    # Files

    @staticmethod
    def _read(path: Path) -> Any:
        return json.loads(path.read_text()) if path.exists() else None

    def _write(self, path: Path, value: Any) -> None:
        draft = self.temporary()
        draft.write_text(json.dumps(value))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, path)

    def temporary(self) -> Path:
        """A name for a file in progress."""
        return self.root / "tmp" / secrets.token_hex(8)

    def blob(self, sha256: str) -> Path:
        """Where the body with this SHA-256 lies, if it does."""
        return self.root / "blobs" / sha256[:2] / sha256

    def put_body(self, body: bytes) -> str:
        """Keep a small body; answers its SHA-256."""
        sha256 = hashlib.sha256(body).hexdigest()
        if self.blob(sha256).exists():
            return sha256
        writer = BodyWriter(self)
        writer.write(body)
        return writer.finish()

    def read_text(self, commit: Commit, path: str) -> str | None:
        """A small text file of a commit, or None where it has none (or one of another kind)."""
        entry = commit.files.get(path)
        if entry is None or entry.size > BIG_FILE or not self.blob(entry.sha256).exists():
            return None
        return self.blob(entry.sha256).read_text(errors="replace")

    # Accounts

    def save_state(self) -> None:
        """Write users, tokens, clients and keys."""
        state = {"users": self.users, "tokens": self.tokens, "clients": self.clients, "keys": self.keys}
        self._write(self.root / "state.json", state)

    def add_user(self, name: str, orgs: dict[str, str]) -> None:
        """Create a user, or give an existing one further organisations (name -> role)."""
        for each in (name, *orgs):
            check_name(each)
        user = self.users.setdefault(name, {"id": hashlib.sha1(name.encode()).hexdigest()[:24], "orgs": {}})
        user["orgs"].update(orgs)
        self.save_state()

    def add_token(self, user: str, *, prefix: str = "hf_", seconds: float | None = None, **fields: Any) -> str:
        """A new token of a user; fields: scopes (None = all), role, client, orgs."""
        token = prefix + secrets.token_hex(17)
        expires = None if seconds is None else time.time() + seconds
        self.tokens[token] = {"user": user, "expires": expires, **fields}
        self.save_state()
        return token

    # Repos

    def _folder(self, repo: Repo) -> Path:
        return self.root / "repos" / f"{repo.kind}s" / repo.id

    def save_repo(self, repo: Repo) -> None:
        """Write a repo's settings and refs."""
        self._write(self._folder(repo) / "repo.json", asdict(repo))

    def add_repo(self, repo: Repo) -> None:
        """A new repo with the initial commit that the Hub makes."""
        self.repos[repo.kind, repo.id] = repo
        body = GIT_ATTRIBUTES.encode()
        entry = Entry(len(body), self.put_body(body), git_blob_id(body))
        self.add_commit(repo, "refs/heads/main", {".gitattributes": entry}, "initial commit", "", repo.author)

    def delete_repo(self, repo: Repo) -> None:
        """Remove a repo; bodies stay."""
        del self.repos[repo.kind, repo.id]
        shutil.rmtree(self._folder(repo))

    def move_repo(self, repo: Repo, new_id: str) -> None:
        """Give a repo another id; who asks for the old one is sent there until another repo takes it."""
        before = self._folder(repo)
        del self.repos[repo.kind, repo.id]
        self.moved[repo.kind, repo.id] = new_id
        repo.id = new_id
        self._folder(repo).parent.mkdir(parents=True, exist_ok=True)
        os.replace(before, self._folder(repo))
        self.repos[repo.kind, repo.id] = repo
        self.save_repo(repo)

    # Commits

    def add_commit(
        self, repo: Repo, ref: str, files: dict[str, Entry], title: str, message: str, author: str
    ) -> Commit:
        """Put a new state of the files on a ref."""
        facts: dict[str, Any] = {
            "parent": repo.refs.get(ref),
            "title": title,
            "message": message,
            "author": author,
            "date": now(),
            "files": {path: asdict(files[path]) for path in sorted(files)},
        }
        salt = secrets.token_hex(4)  # two repos created at the same moment have different commits
        facts["id"] = hashlib.sha1((salt + json.dumps(facts)).encode()).hexdigest()
        self._write(self._folder(repo) / "commits" / f"{facts['id']}.json", facts)
        repo.refs[ref] = facts["id"]
        self.save_repo(repo)
        return self.commit(repo, facts["id"])

    def commit(self, repo: Repo, commit_id: str) -> Commit:
        """The commit with this full id, which must be the repo's own."""
        path = self._folder(repo) / "commits" / f"{commit_id}.json"
        if not path.exists():
            raise self._no_revision(commit_id)
        if commit_id not in self._commits:
            facts = self._read(path)
            facts["files"] = {name: Entry(**entry) for name, entry in facts["files"].items()}
            self._commits[commit_id] = Commit(**facts)
        return self._commits[commit_id]

    def ref(self, repo: Repo, revision: str) -> str | None:
        """The full name of a branch, tag or pull request."""
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in repo.refs), None)

    def resolve(self, repo: Repo, revision: str) -> Commit:
        """The commit that a branch, tag, refs/..., full or short id stands for."""
        ref = self.ref(repo, revision)
        if ref is not None:
            return self.commit(repo, repo.refs[ref])
        if 7 <= len(revision) <= 40 and set(revision) <= set("0123456789abcdef"):
            found = sorted((self._folder(repo) / "commits").glob(f"{revision}*.json"))
            if len(found) == 1:
                return self.commit(repo, found[0].stem)
        raise self._no_revision(revision)

    @staticmethod
    def _no_revision(revision: str) -> HubError:
        return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, repo: Repo, commit: Commit) -> Iterator[Commit]:
        """A commit and its ancestors, newest first."""
        while True:
            yield commit
            if commit.parent is None:
                return
            commit = self.commit(repo, commit.parent)

    def wants_lfs(self, commit: Commit, path: str, size: int, sample: bytes) -> bool:
        """Whether the Hub would store this file as LFS: by .gitattributes, by size, or as binary."""
        attributes = self.read_text(commit, ".gitattributes") or ""
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        name = path.rsplit("/", 1)[-1]
        matches = any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        return size > 0 and (matches or size > BIG_FILE or b"\0" in sample)
