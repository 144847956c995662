"""Published statistics: where they are found, and what they say of themselves.

A model's statistics lie at `merge-statistics/<kind>.safetensors`: in the model's own repo, or in the repo
`owner/<model>-merge-statistics`, which needs no right to write to the model's. Only headers are read here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hub.client import Hub, explained, safe_path
from hub.identity import whoami
from hub.repository import RemoteRepo, open_repo, read_header
from merging.checkpoint import sha256_of
from merging.errors import InputError
from merging.parent import StatisticsFact
from merging.recipe import StatisticsRef, valid_repo_id
from merging.statistics import Statistics, fact_from_header

SUFFIX, TAG = "-merge-statistics", "merge-statistics"
NAME_LIMIT = 96  # characters of a repo's name on the Hub
OLDER = 8  # earlier commits of a repo that are searched for statistics of earlier weights
REFERENCE = re.compile(r"(?P<repo>[^@:]+/[^@:]+)(?:@(?P<revision>[^:]+))?(?::(?P<path>.+))?")


@dataclass(frozen=True)
class FoundStatistics:
    """What the header of a statistics file says, pinned, and whether it came from a private or gated repo."""

    fact: StatisticsFact
    restricted: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


def path_of(kind: str) -> str:
    """Where a repo keeps its statistics of a kind."""
    return f"{TAG}/{kind}.safetensors"


def statistics_repo(owner: str, model: str) -> str:
    """The repo of a model's statistics; `model` is `owner/name` or a name."""
    return f"{owner}/{model.rpartition('/')[2][: NAME_LIMIT - len(SUFFIX)]}{SUFFIX}"


def find_statistics(hub: Hub, kind: str, repo: RemoteRepo, weights: Mapping[str, str]) -> FoundStatistics | None:
    """The published statistics of a model, None when there are none.

    `weights` maps the model's weight files to their SHA-256: statistics of these weights are preferred, also in
    an earlier commit; where there are only others those are returned, for the plan to refuse. Raises InputError
    when all that is found is broken.
    """
    others: list[FoundStatistics] = []
    broken: InputError | None = None
    for found in published_statistics(hub, kind, repo):
        if isinstance(found, InputError):
            broken = broken or found
        elif belongs(found.fact, weights):
            return found
        else:
            others.append(found)
    for other in others:
        for earlier in _earlier(hub, kind, other):
            if belongs(earlier.fact, weights):
                return earlier
    if not others and broken is not None:
        raise broken
    return others[0] if others else None


def published_statistics(hub: Hub, kind: str, repo: RemoteRepo) -> Iterator[FoundStatistics | InputError]:
    """The statistics of a kind at every place where a model's may be; an InputError for a file that is broken."""
    for place in _places(hub, repo):
        if path_of(kind) in place.files:
            try:
                yield _from_repo(hub, kind, place, path_of(kind), "")
            except InputError as error:
                yield error


def belongs(fact: StatisticsFact, weights: Mapping[str, str]) -> bool:
    """Whether statistics were collected from these weights, as far as hashes are known."""
    known = {digest for digest in weights.values() if digest}
    return not known or known == set(fact.weights.values())


def local_statistics(kind: str, folder: Path) -> FoundStatistics | None:
    """The statistics that lie in a model's folder, if they do."""
    path = folder / path_of(kind)
    return _from_file(kind, path, "") if path.is_file() else None


def named_statistics(
    hub: Hub, kind: str, ref: StatisticsRef, where: str = "", *, folders_allowed: bool = False
) -> FoundStatistics:
    """The statistics that a recipe names. Raises InputError when they are not there, or not those of the recipe."""
    if ref.source.startswith(("/", "./", "../", "~")):
        if not folders_allowed:
            raise InputError(
                f"{ref.source} is a file of some machine", "only statistics of the Hub can be used here",
                "Publish them, and name owner/repo", where,
            )  # fmt: skip
        found = _from_file(kind, Path(ref.source).expanduser(), where)
    else:
        match = REFERENCE.fullmatch(ref.source)
        path = (match["path"] if match else "") or path_of(kind)
        if match is None or not valid_repo_id(match["repo"]) or not safe_path(path):
            raise InputError(f"{ref.source!r} names no statistics", "", "Write owner/repo[@revision][:path]", where)
        repo = open_repo(hub, match["repo"], match["revision"], where)
        if path not in repo.files:
            raise InputError(f"{repo.repo_id} has no file {path}", f"it holds no {kind} statistics there", "", where)
        found = _from_repo(hub, kind, repo, path, where)
    if ref.sha256 and found.fact.sha256 and ref.sha256 != found.fact.sha256:
        raise InputError(
            f"The statistics at {ref.source} are not those of the recipe",
            f"their SHA-256 is {found.fact.sha256[:12]}..., the recipe says {ref.sha256[:12]}...",
            "Name the revision that the recipe was made with",
            where,
        )
    return found


def _places(hub: Hub, repo: RemoteRepo) -> Iterator[RemoteRepo]:
    """Repos that may hold a model's statistics: the model's own first, last what was added to it since."""
    yield repo
    owner, _, name = repo.repo_id.partition("/")
    names = [statistics_repo(owner, name)]
    if hub.signed_in:
        names.append(statistics_repo(whoami(hub).name, name))
    for repo_id in dict.fromkeys((*names, repo.repo_id)):
        try:
            place = open_repo(hub, repo_id)
        except InputError:
            continue  # there is none, or it is not for this person
        if place.sha != repo.sha:
            yield place


def _earlier(hub: Hub, kind: str, found: FoundStatistics) -> Iterator[FoundStatistics]:
    """What the repo held before: statistics are replaced when a model is trained on, and recipes pin the old one."""
    match = REFERENCE.fullmatch(found.fact.source)
    assert match is not None
    with explained(hub, match["repo"]):
        commits = hub.api.list_repo_commits(match["repo"])
    seen = {found.fact.sha256}
    for commit in commits[1 : 1 + OLDER]:
        place = open_repo(hub, match["repo"], commit.commit_id)
        file = place.files.get(path_of(kind))
        if file is not None and file.sha256 not in seen:
            seen.add(file.sha256)
            try:
                yield _from_repo(hub, kind, place, path_of(kind), "")
            except InputError:
                continue  # a broken one of the past


def _from_repo(hub: Hub, kind: str, repo: RemoteRepo, path: str, where: str) -> FoundStatistics:
    return _of_kind(read_statistics(hub, repo, path, where), kind, where)


def _from_file(kind: str, path: Path, where: str) -> FoundStatistics:
    return _of_kind(open_statistics(path, where), kind, where)


def read_statistics(hub: Hub, repo: RemoteRepo, path: str, where: str = "") -> FoundStatistics:
    """What the header of a published file says. Raises InputError when it is no statistics file."""
    file = repo.files[path]
    header = read_header(hub, repo, path, where)
    source = f"{repo.repo_id}@{repo.sha}:{path}"
    fact = fact_from_header(header, source=source, sha256=file.sha256, nbytes=file.size)
    return FoundStatistics(fact, repo.restricted, header.metadata)


def open_statistics(path: Path, where: str = "") -> FoundStatistics:
    """What the header of a file on this machine says. Raises InputError when it is no statistics file."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", "the statistics should be there", "Check the path", where)
    statistics = Statistics(path)
    statistics.close()
    return FoundStatistics(replace(statistics.fact, sha256=sha256_of(path)), metadata=statistics.metadata)


def _of_kind(found: FoundStatistics, kind: str, where: str) -> FoundStatistics:
    if found.fact.kind != kind:
        raise InputError(
            f"{found.fact.source} holds {found.fact.kind} statistics", f"{kind} is needed", "Name the other file", where
        )
    return found
