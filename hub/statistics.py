"""Published statistics: where they are found, and how an owner publishes them.

A model's statistics lie at `merge-statistics/<kind>.safetensors`: in the model's own repo, or in the repo
`owner/<model>-merge-statistics`, which needs no right to write to the model's. Only headers are read here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hub.card import code, front_matter
from hub.client import Hub, explained, safe_path
from hub.identity import raise_unless_writable, whoami
from hub.repository import RemoteRepo, open_repo, read_header
from merging.checkpoint import sha256_of
from merging.errors import InputError, MergeError
from merging.parent import StatisticsFact
from merging.recipe import StatisticsRef, valid_repo_id
from merging.statistics import Statistics, fact_from_header

SUFFIX, TAG = "-merge-statistics", "merge-statistics"
NAME_LIMIT = 96  # characters of a repo's name on the Hub
REFERENCE = re.compile(r"(?P<repo>[^@:]+/[^@:]+)(?:@(?P<revision>[^:]+))?(?::(?P<path>.+))?")


@dataclass(frozen=True)
class FoundStatistics:
    """What the header of a statistics file says, pinned, and whether it came from a private or gated repo."""

    fact: StatisticsFact
    restricted: bool = False


def path_of(kind: str) -> str:
    """Where a repo keeps its statistics of a kind."""
    return f"{TAG}/{kind}.safetensors"


def statistics_repo(owner: str, model: str) -> str:
    """The repo of a model's statistics; `model` is `owner/name` or a name."""
    return f"{owner}/{model.rpartition('/')[2][: NAME_LIMIT - len(SUFFIX)]}{SUFFIX}"


def find_statistics(hub: Hub, kind: str, repo: RemoteRepo, weights: Mapping[str, str]) -> FoundStatistics | None:
    """The published statistics of a model, None when there are none.

    `weights` maps the model's weight files to their SHA-256: statistics of these weights are preferred, and
    where there are only others those are returned, for the plan to refuse. Raises InputError when all that is
    found is broken.
    """
    other: FoundStatistics | None = None
    broken: InputError | None = None
    for place in _places(hub, repo):
        if path_of(kind) not in place.files:
            continue
        try:
            found = _from_repo(hub, kind, place, path_of(kind), "")
        except InputError as error:
            broken = broken or error
            continue
        if belongs(found.fact, weights):
            return found
        other = other or found
    if other is None and broken is not None:
        raise broken
    return other


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
    """Repos that may hold a model's statistics, the model's own first."""
    yield repo
    owner, _, name = repo.repo_id.partition("/")
    names = [statistics_repo(owner, name)]
    if hub.signed_in:
        names.append(statistics_repo(whoami(hub).name, name))
    for repo_id in dict.fromkeys(names):
        try:
            yield open_repo(hub, repo_id)
        except InputError:
            continue  # there is none, or it is not for this person


def _from_repo(hub: Hub, kind: str, repo: RemoteRepo, path: str, where: str) -> FoundStatistics:
    file = repo.files[path]
    header = read_header(hub, repo, path, where)
    source = f"{repo.repo_id}@{repo.sha}:{path}"
    fact = fact_from_header(header, source=source, sha256=file.sha256, nbytes=file.size)
    return FoundStatistics(_of_kind(fact, kind, where), repo.private or repo.gated)


def _from_file(kind: str, path: Path, where: str) -> FoundStatistics:
    if not path.is_file():
        raise InputError(f"{path} does not exist", "the statistics should be there", "Check the path", where)
    statistics = Statistics(path)
    statistics.close()
    return FoundStatistics(_of_kind(replace(statistics.fact, sha256=sha256_of(path)), kind, where))


def _of_kind(fact: StatisticsFact, kind: str, where: str) -> StatisticsFact:
    if fact.kind != kind:
        raise InputError(
            f"{fact.source} holds {fact.kind} statistics", f"{kind} is needed", "Name the other file", where
        )
    return fact


def publish_statistics(hub: Hub, model: str, files: Mapping[str, Path], *, private: bool) -> str:
    """Publish statistics files (kind -> file) of a model; returns `repo@commit`.

    The repo is `owner/<model>-merge-statistics` under the model's owner where the user may write there, else
    under the user's own name. It is made when missing; an existing one must be a statistics repo. One commit,
    none when nothing has changed. Raises InputError before anything is made, also for a public repo that private
    statistics would go into.
    """
    identity = whoami(hub)
    owner = model.partition("/")[0]
    owner = owner if owner in identity.namespaces else identity.name
    raise_unless_writable(identity, owner, "")
    headers = {kind: _metadata(kind, path) for kind, path in files.items()}
    repo_id = statistics_repo(owner, model)
    old = _existing(hub, repo_id)
    if old is None:
        with explained(hub, repo_id):
            hub.api.create_repo(repo_id, private=private)
    else:
        if private and not old.private:
            raise InputError(f"{repo_id} is public", "these statistics are to be private", "Make that repo private")
        others = [kind for kind in ("gram", "fisher") if kind not in headers and path_of(kind) in old.files]
        headers |= {kind: read_header(hub, old, path_of(kind)).metadata for kind in others}
    operations = [CommitOperationAdd(path_of(kind), path) for kind, path in sorted(files.items())]
    operations.append(CommitOperationAdd("README.md", _card(model, headers).encode()))
    with explained(hub, repo_id):
        commit = hub.api.create_commit(
            repo_id,
            operations,
            commit_message=f"Merge statistics of {model}",
            parent_commit=old.sha if old else None,
        )
    return f"{repo_id}@{commit.oid}"


def _metadata(kind: str, path: Path) -> Mapping[str, str]:
    statistics = Statistics(path)
    statistics.close()
    _of_kind(statistics.fact, kind, "")
    return statistics.metadata


def _existing(hub: Hub, repo_id: str) -> RemoteRepo | None:
    """The statistics repo of that name; an InputError when the name is taken by something else."""
    try:
        info = hub.api.model_info(repo_id)
    except RepositoryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise MergeError(f"{repo_id} cannot be looked at", type(error).__name__) from None
    repo = open_repo(hub, repo_id)
    if TAG not in (info.tags or []) and set(repo.files) - {".gitattributes"}:
        raise InputError(f"{repo_id} exists and is no statistics repo", "nothing is overwritten", "Rename that repo")
    return repo


def _card(model: str, headers: Mapping[str, Mapping[str, str]]) -> str:
    """The README of a statistics repo. Every value in a header is a stranger's text."""
    data = {"tags": [TAG], "base_model": [model]}
    rows = [
        f"| {code(path_of(kind))} | {code(head.get('dataset') or 'a local file')} | {code(head.get('examples', ''))} "
        f"| {code(head.get('max_length', ''))} | {code(head.get('revision') or 'not named')} |"
        for kind, head in sorted(headers.items())
    ]
    return "\n".join(
        [
            front_matter(data),
            f"# Merge statistics of {code(model)}",
            "",
            "With these files anybody can merge the model by RegMean (`gram`) or Fisher (`fisher`) without its data.",
            "Each holds second moments of layer inputs, or of gradients, and the SHA-256 of the weights it belongs to;",
            "no text and no row of activations.",
            "",
            "| file | collected from | examples | longest text (tokens) | revision of the model |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
