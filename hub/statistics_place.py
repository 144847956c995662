"""Where statistics of a model can be published, by what the token allows and what is there already."""

import re
from collections.abc import Iterable

from huggingface_hub.errors import RepositoryNotFoundError

from hub.client import Hub, SignInNeeded, explained
from hub.identity import Identity, whoami, writing_problem
from hub.repository import RemoteRepo, open_repo, read_header
from hub.statistics import TAG, path_of, statistics_repo
from merging.errors import InputError, Problem
from merging.wish import Place

DISCUSS_SCOPE = "write-discussions"
OWN = "publish to a repo of your own"
WHERE = "publish"  # the field of the wish


def target_repo(identity: Identity, model: str, place: Place) -> str:
    """The repo that statistics of a model go to; one's own is under the model's owner where one may make repos."""
    if place != "own":
        return model
    owner = model.partition("/")[0]
    return statistics_repo(owner if owner in identity.namespaces else identity.name, model)


def publishing_problems(
    hub: Hub, model: str, kinds: Iterable[str], place: Place, *, private: bool, identity: Identity | None = None
) -> list[Problem]:
    """Why statistics cannot be published there, and (a warning) what would be replaced: asked before the work.

    `model` is `owner/name`, `identity` the owner of the token where the caller has just asked. Raises HubUnavailable.
    """
    if not hub.signed_in:
        why = "statistics are published under your own name"
        return [Problem("Not signed in", why, hub.advice("Sign in at the top of this page"), WHERE)]
    try:
        identity = identity or whoami(hub)
        if place == "own":
            return _in_own_repo(hub, identity, model, kinds, private)
        if place == "model":
            problem = _refused(hub, identity, model, f"{OWN}, or open a pull request")
        else:
            problem = _as_request(hub, identity, model)
        present = open_repo(hub, model).files
    except InputError as error:
        return [Problem(p.what, p.why, p.fix, p.where or WHERE, p.severity) for p in error.problems]
    taken = [
        Problem(
            f"{model} has {kind} statistics already",
            "nothing in a model's repo is replaced",
            f"Use them, or {OWN}",
            WHERE,
        )
        for kind in kinds
        if path_of(kind) in present
    ]
    return [*([problem] if problem else []), *taken]


def open_statistics_repo(hub: Hub, repo_id: str) -> RemoteRepo | None:
    """The statistics repo of that name, None when there is none. Raises InputError for a repo of another sort."""
    with explained(hub, repo_id, WHERE):
        try:
            info = hub.api.model_info(repo_id)
        except RepositoryNotFoundError:
            return None
    repo = open_repo(hub, repo_id, where=WHERE)
    if TAG not in (info.tags or []) and set(repo.files) - {".gitattributes"}:
        raise InputError(
            f"{repo_id} exists and is no statistics repo", "nothing is overwritten", "Rename that repo", WHERE
        )
    return repo


def _in_own_repo(hub: Hub, identity: Identity, model: str, kinds: Iterable[str], private: bool) -> list[Problem]:
    repo_id = target_repo(identity, model, "own")
    problem = writing_problem(identity, repo_id.partition("/")[0], WHERE)
    if problem is not None and problem.severity == "error":
        return [problem]
    problems = [problem] if problem else []
    repo = open_statistics_repo(hub, repo_id)
    if repo is None:
        return problems
    if private and not repo.private:
        why = "these statistics are to be private"
        return [Problem(f"{repo_id} is public", why, "Make that repo private", WHERE)]
    for kind in kinds:
        if path_of(kind) in repo.files:
            problems.append(_replaced(hub, repo, model, kind))
    refused = _refused(hub, identity, repo_id, "rename that repo")
    return [*problems, *([refused] if refused else [])]


def _replaced(hub: Hub, repo: RemoteRepo, model: str, kind: str) -> Problem:
    """A file is there: a warning when it belongs to the same model, an error when to another of that name."""
    try:
        other = read_header(hub, repo, path_of(kind)).metadata.get("model", "")
    except InputError:
        other = ""  # broken: nobody can use it
    if other not in ("", model):
        what, why = f"{repo.repo_id} holds statistics of {other[:100]}", "another model's are never overwritten"
        return Problem(what, why, "Rename that repo", WHERE)
    what, why = f"{repo.repo_id} has {kind} statistics already", "a new commit replaces them"
    return Problem(what, why, "The old ones stay in its history", WHERE, "warning")


def _refused(hub: Hub, identity: Identity, repo_id: str, otherwise: str) -> Problem | None:
    """Why this token may not commit to a repo, asked of the Hub. Raises SignInNeeded and HubUnavailable."""
    if identity.read_only:
        return writing_problem(identity, identity.name, WHERE)
    try:
        with explained(hub, repo_id, WHERE):
            hub.api.auth_check(repo_id, write=True)
        return None
    except SignInNeeded:
        raise
    except InputError as error:
        scope = re.search(r"the scope (\S+) was not granted", error.problem.why)
        what, owner = f"You may not write to {repo_id}", repo_id.partition("/")[0]
        if scope is not None:
            return Problem(what, scope[0], f"{error.problem.fix}, or {otherwise}", WHERE)
        whose = "it is yours" if owner == identity.name else f"it is {owner}'s"
        return Problem(what, f"you are {identity.name}, {whose}", f"{otherwise[0].upper()}{otherwise[1:]}", WHERE)


def _as_request(hub: Hub, identity: Identity, model: str) -> Problem | None:
    """Why this person may not open a pull request to the model's repo."""
    refused = _refused(hub, identity, model, OWN) if identity.read_only or hub.lacks(DISCUSS_SCOPE) else None
    if refused is None or identity.read_only:
        return refused  # who may write there may also ask
    return Problem(
        "You may not open pull requests with this sign-in",
        f"the scope {DISCUSS_SCOPE} was not granted",
        f"Sign in again and grant {DISCUSS_SCOPE}, or {OWN}",
        WHERE,
    )
