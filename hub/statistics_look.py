"""A look at statistics by their headers: those of a model, of a statistics repo, or of one file."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hub.client import Hub, safe_path
from hub.repository import RemoteRepo, open_repo, read_config, weight_names
from hub.statistics import (
    REFERENCE,
    FoundStatistics,
    local_statistics,
    open_statistics,
    path_of,
    published_statistics,
    read_statistics,
)
from merging.architecture import GENERIC, architecture_of
from merging.checkpoint import open_parent
from merging.errors import InputError, Problem
from merging.recipe import valid_repo_id
from merging.roles import Reads
from merging.statistics import KINDS
from merging.summary import Summary, summarise


@dataclass(frozen=True)
class Look:
    """What was found. `model` is `owner/name` or a folder, "" when only statistics of an unknown model were named."""

    model: str
    revision: str = ""
    restricted: bool = False
    weights: Mapping[str, str] = field(default_factory=dict)  # weight file -> SHA-256
    summaries: tuple[Summary, ...] = ()
    problems: tuple[Problem, ...] = ()  # files that cannot be used
    reads: Reads = "text"  # what the model is fed with, as its config.json tells


def look(hub: Hub, name: str, *, files_allowed: bool = False) -> Look:
    """All statistics of `name`: a model or a statistics repo (`owner/name[@revision][:path]`), a file, a folder.

    Only headers are read. Raises InputError when there is nothing of that name, and HubUnavailable.
    """
    if name.startswith(("/", "./", "../", "~")) or (files_allowed and Path(name).exists()):
        if not files_allowed:
            raise InputError(f"{name[:200]} is a file of some machine", "", "Name owner/repo", "model")
        path = Path(name).expanduser()
        return _look_at_file(path) if path.is_file() else _look_at_folder(name, path)
    match = REFERENCE.fullmatch(name.strip())
    path_in_repo = (match["path"] if match else "") or ""
    if match is None or not valid_repo_id(match["repo"]) or (path_in_repo and not safe_path(path_in_repo)):
        raise InputError(f"{name[:200]!r} names no model", "", "Write owner/name or owner/name@revision", "model")
    repo = open_repo(hub, match["repo"], match["revision"], "model")
    if path_in_repo:
        if path_in_repo not in repo.files:
            raise InputError(f"{repo.repo_id} has no file {path_in_repo}", "", "Check the path", "model")
        return _look_at_statistics(hub, repo, [path_in_repo])
    if "config.json" in repo.files:
        return _look_at_model(hub, repo)
    paths = [path_of(kind) for kind in KINDS if path_of(kind) in repo.files]
    if not paths:
        raise InputError(
            f"{repo.repo_id} is no model", "it has neither config.json nor statistics", "Pick another", "model"
        )
    return _look_at_statistics(hub, repo, paths)


def _look_at_model(hub: Hub, repo: RemoteRepo) -> Look:
    weights = weights_of(hub, repo)
    summaries, problems = [], []
    for kind in KINDS:
        for found in published_statistics(hub, kind, repo):
            if isinstance(found, InputError):
                problems += [Problem(p.what, p.why, p.fix, p.where, "warning") for p in found.problems]
            else:
                summaries.append(_summary(found, weights))
    return Look(
        repo.repo_id,
        repo.sha,
        repo.restricted,
        weights,
        tuple(summaries),
        tuple(problems),
        _reads(hub, repo),
    )


def _reads(hub: Hub, repo: RemoteRepo) -> Reads:
    """What the model is fed with; text where its config does not tell, which whoever uses the model is told."""
    with suppress(InputError):
        config = read_config(hub, repo)
        return (architecture_of(config) or GENERIC).reads(config)
    return "text"


def _look_at_statistics(hub: Hub, repo: RemoteRepo, paths: list[str]) -> Look:
    """Files of a statistics repo, compared with the model that they name as it is now."""
    found = [read_statistics(hub, repo, path, "model") for path in paths]
    model = found[0].metadata.get("model", "")
    weights: Mapping[str, str] = {}
    if valid_repo_id(model):
        with suppress(InputError):  # it is gone, or not for this person: nothing to compare with
            weights = weights_of(hub, open_repo(hub, model))
    return Look(
        model if valid_repo_id(model) else "",
        restricted=repo.restricted,
        weights=weights,
        summaries=tuple(_summary(one, weights) for one in found),
    )


def _look_at_file(path: Path) -> Look:
    return Look("", summaries=(_summary(open_statistics(path), {}),))


def _look_at_folder(name: str, folder: Path) -> Look:
    parent = open_parent(name, folder)
    return Look(name, weights=parent.weights, summaries=tuple(_in_folder(folder, parent.weights)))


def _in_folder(folder: Path, weights: Mapping[str, str]) -> Iterator[Summary]:
    for kind in KINDS:
        found = local_statistics(kind, folder)
        if found is not None:
            yield _summary(found, weights)


def weights_of(hub: Hub, repo: RemoteRepo) -> Mapping[str, str]:
    """Weight file -> SHA-256. Raises InputError when there are no safetensors."""
    return {name: repo.files[name].sha256 for name in weight_names(hub, repo, "model")}


def _summary(found: FoundStatistics, weights: Mapping[str, str]) -> Summary:
    return summarise(found.fact, found.metadata, weights)
