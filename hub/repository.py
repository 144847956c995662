"""One model repo at one commit, as its reader sees it: files, sizes, hashes, headers. Never a weight byte."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from huggingface_hub import ModelCardData

from hub.client import Hub, explained, read_bytes, safe_path
from hub.digests import damaged, digest_of
from merging.checkpoint import PICKLES, checked_config, missing_shard, no_safetensors
from merging.errors import InputError
from merging.header import (
    INDEX_LIMIT,
    TENSOR_LIMIT,
    WEIGHT_FILE,
    WEIGHT_INDEX,
    check_index,
    header_length,
    parse_header,
    parse_index,
)
from merging.json_text import plain_json
from merging.modules import (
    MODULES_FILE,
    SIDE_LIMIT,
    module_weights,
    modules_of,
    parse_side,
    side_names,
)
from merging.recipe import valid_repo_id
from merging.tensors import Header

FILES_LIMIT = 20_000
CONFIG_LIMIT = 5_000_000  # bytes
THREADS = 8  # requests at a time for the headers of one model
LARGE = 2_000_000  # bytes of a header that is read while no other such one is: parsed it takes 30 times as much
_large = threading.Lock()


@dataclass(frozen=True)
class RemoteFile:
    """What the Hub lists of a file. `sha256` is known of large files alone; `blob_id` is git's."""

    size: int
    sha256: str = ""
    blob_id: str = ""

    @property
    def digest(self) -> str:
        """What its content is checked by: see `hub.digests`."""
        return self.sha256 or self.blob_id


@dataclass(frozen=True)
class RemoteRepo:
    """A model repo pinned to a commit, after the Hub has said that this person may read it."""

    repo_id: str  # as the Hub spells it, also after a rename
    sha: str
    files: Mapping[str, RemoteFile]
    license: str = ""
    fine_tuned_from: str = ""  # the one base that the card names; "" for none, several, and parents of a merge
    private: bool = False
    gated: bool = False
    tags: tuple[str, ...] = ()  # of its card, and what the Hub adds

    @property
    def restricted(self) -> bool:
        """Whether there are people who may not read it."""
        return self.private or self.gated


def open_repo(hub: Hub, repo_id: str, revision: str | None = None, where: str = "") -> RemoteRepo:
    """Ask the Hub, with this person's own token, whether the repo may be read, and what is in it.

    Raises InputError (missing, private, gated, no such revision, hostile paths), SignInNeeded or HubUnavailable.
    """
    with explained(hub, repo_id, where, revision=revision), ThreadPoolExecutor(2) as pool:
        access = pool.submit(hub.api.auth_check, repo_id)  # a gated repo shows its metadata to everybody
        listing = pool.submit(hub.api.model_info, repo_id, revision=revision, files_metadata=True)
        access.result()
        info = listing.result()
    files: dict[str, RemoteFile] = {}
    if len(info.siblings or []) > FILES_LIMIT:
        why = f"at most {FILES_LIMIT:,} of one repo are looked at"
        raise InputError(f"{repo_id} has too many files", why, "Pick another model", where)
    for sibling in info.siblings or []:
        if not safe_path(sibling.rfilename):
            raise InputError(f"{repo_id} has a file name that cannot be used", "", "Pick another model", where)
        sha256 = sibling.lfs.sha256 if sibling.lfs else ""
        files[sibling.rfilename] = RemoteFile(sibling.size or 0, sha256, sibling.blob_id or "")
    assert info.sha is not None
    named = info.card_data.get("license") if info.card_data else None
    licence = named[0] if isinstance(named, list) and named else named
    return RemoteRepo(
        repo_id=info.id,
        sha=info.sha,
        files=files,
        license=licence[:100] if isinstance(licence, str) else "",
        fine_tuned_from=_base_of(info.card_data),
        private=bool(info.private),
        gated=bool(info.gated),
        tags=tuple(str(tag) for tag in info.tags or ()),
    )


def _base_of(card: ModelCardData | None) -> str:
    """The one model that a card names as its base, "" when there is no such one."""
    if card is None:
        return ""
    named = card.get("base_model")
    one = named[0] if isinstance(named, list) and len(named) == 1 else named
    merged = card.get("base_model_relation") == "merge"
    return one if isinstance(one, str) and valid_repo_id(one) and not merged else ""


def read_small(hub: Hub, repo: RemoteRepo, name: str, limit: int, where: str = "") -> bytes:
    """A small file into memory; refused when the listing or the body itself is longer than `limit` bytes.

    Raises HubUnavailable for one that arrives damaged twice.
    """
    size = repo.files[name].size
    if size > limit:
        raise InputError(
            f"{repo.repo_id}: {name} is too large", f"{size:,} bytes, at most {limit:,} are read", "Check it", where
        )
    digest = repo.files[name].digest
    for _ in range(2):
        with explained(hub, repo.repo_id, where):
            body = read_bytes(hub, repo.repo_id, name, repo.sha, limit=limit)
        if not digest or digest_of(BytesIO(body), len(body), digest) == digest:
            return body
    raise damaged(repo.repo_id, name)


def read_config(hub: Hub, repo: RemoteRepo, where: str = "") -> dict[str, Any]:
    """config.json, refused when it is missing, too large or not a JSON object."""
    if "config.json" not in repo.files:
        raise InputError(f"{repo.repo_id} has no config.json", "it says what the tensors are", "Pick another", where)
    try:
        config = plain_json(read_small(hub, repo, "config.json", CONFIG_LIMIT, where))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{repo.repo_id} has a broken config.json", "it is not a JSON object", "Mend it", where)
    try:
        return checked_config(config, repo.repo_id)
    except InputError as error:
        raise InputError(error.problem.what, error.problem.why, error.problem.fix, where) from None


def weight_names(hub: Hub, repo: RemoteRepo, where: str = "") -> tuple[str, ...]:
    """The safetensors files that hold the model, then those of its modules of sentence-transformers.

    Raises InputError for pickles, for missing shards, and for modules that are not known.
    """
    modules = modules_of(_modules_data(hub, repo, where), repo.repo_id)
    index = _read_index(hub, repo, where)
    return (*_root_names(repo, index, where), *module_weights(modules, repo.files, repo.repo_id, where))


def read_sides(hub: Hub, repo: RemoteRepo, where: str = "") -> dict[str, Any]:
    """The small files that say how the model is used, parsed: see `merging.modules.side_names`."""
    data = _modules_data(hub, repo, where)
    names = side_names(repo.files, modules_of(data, repo.repo_id))
    left = [name for name in names if name != MODULES_FILE]
    with ThreadPoolExecutor(THREADS) as pool:
        raw = pool.map(lambda name: read_small(hub, repo, name, SIDE_LIMIT, where), left)
        sides = {name: parse_side(name, body, repo.repo_id) for name, body in zip(left, raw, strict=True)}
    return sides if data is None else {MODULES_FILE: data, **sides}


def _modules_data(hub: Hub, repo: RemoteRepo, where: str) -> Any:
    """modules.json parsed, None where there is none."""
    if MODULES_FILE not in repo.files:
        return None
    return parse_side(MODULES_FILE, read_small(hub, repo, MODULES_FILE, SIDE_LIMIT, where), repo.repo_id)


def read_weights(hub: Hub, repo: RemoteRepo, where: str = "") -> dict[str, Header]:
    """The headers of all weight files, which hold what the index says. Raises InputError as `weight_names` does."""
    modules = modules_of(_modules_data(hub, repo, where), repo.repo_id)
    index = _read_index(hub, repo, where)
    names = (*_root_names(repo, index, where), *module_weights(modules, repo.files, repo.repo_id, where))
    headers = read_headers(hub, repo, names, where)
    check_index(index, headers, repo.repo_id)
    return headers


def _read_index(hub: Hub, repo: RemoteRepo, where: str) -> dict[str, str]:
    """Tensor -> shard of a model that has shards, as its index says."""
    if WEIGHT_FILE in repo.files or WEIGHT_INDEX not in repo.files:
        return {}
    return parse_index(read_small(hub, repo, WEIGHT_INDEX, INDEX_LIMIT, where), repo.repo_id)


def _root_names(repo: RemoteRepo, index: Mapping[str, str], where: str) -> tuple[str, ...]:
    if WEIGHT_FILE in repo.files:
        return (WEIGHT_FILE,)
    if not index:
        raise no_safetensors(repo.repo_id, sorted(n for n in repo.files if n.endswith(PICKLES)), where)
    names = tuple(sorted(set(index.values())))
    for name in names:
        if name not in repo.files:
            raise missing_shard(repo.repo_id, name, where)
    return names


def read_header(hub: Hub, repo: RemoteRepo, name: str, where: str = "") -> Header:
    """The header of a remote safetensors file: 8 bytes, then exactly the header, nothing of the tensors."""
    size = repo.files[name].size
    label = f"{repo.repo_id}: {name}"
    with explained(hub, repo.repo_id, where):
        head = read_bytes(hub, repo.repo_id, name, repo.sha, start=0, stop=min(8, size)) if size else b""
        length = header_length(head, size, label)
        with _large if length > LARGE else nullcontext():
            head += read_bytes(hub, repo.repo_id, name, repo.sha, start=8, stop=8 + length) if length else b""
            return parse_header(head, size, label)


def read_headers(hub: Hub, repo: RemoteRepo, names: tuple[str, ...], where: str = "") -> dict[str, Header]:
    """The headers of several files at once. Raises InputError for more tensors than a model may have."""
    headers, tensors = {}, 0
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: read_header(hub, repo, name, where), names)
        try:
            for name, headers[name] in zip(names, found, strict=True):
                tensors += len(headers[name].specs)
                if tensors > TENSOR_LIMIT:
                    why = f"at most {TENSOR_LIMIT:,} of one model are merged"
                    raise InputError(f"{repo.repo_id} has too many tensors", why, "Pick another model", where)
        finally:
            pool.shutdown(cancel_futures=True)
    return headers
