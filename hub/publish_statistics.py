"""Publishing statistics by what the token allows: a repo of their own, the model's repo, or a pull request to it.

    own            `owner/<model>-merge-statistics`: made when the files are there; its statistics of the same model
                   are replaced by a new commit, the old ones stay in its history
    model          one commit to the model's repo, for those who may write there; nothing in it is replaced
    pull-request   the same as a pull request, for its owner to decide

Killed at any point and called again it publishes once: the commit carries the job's id (see `hub.publish`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import RepositoryNotFoundError

from hub.card_text import code, front_matter
from hub.client import CLIENT_ERRORS, Hub, SignInNeeded, expired, explain, explained, may_pass, rooted, try_again
from hub.identity import Identity, whoami
from hub.patience import Trial
from hub.publish import JOB_LINE, Published, PublishFailed
from hub.repository import RemoteRepo, open_repo, read_header
from hub.statistics import TAG, path_of
from hub.statistics_place import WHERE, open_statistics_repo, publishing_problems, target_repo
from hub.upload import Upload, UploadMeter, hash_files, sending
from merging.checkpoint import sha256_of
from merging.errors import InputError, MergeError, raise_errors
from merging.statistics import KINDS, Statistics
from merging.wish import Place

COMMITS_SEARCHED = 50  # newest ones, for the commit of an earlier start


def publish_statistics(
    hub: Hub,
    model: str,
    files: Mapping[str, Path],
    *,
    private: bool,
    place: Place = "own",
    job_id: str = "",
    meter: UploadMeter | None = None,
) -> Published:
    """Publish statistics files (kind -> file) of a model of the Hub, in one commit; none when nothing has changed.

    `job_id` is what a second call recognises the work of the first by; by default the same files are the same job.
    `private` is for a repo of one's own, and refuses a public one. Raises InputError before anything is made, and
    SignInNeeded, HubUnavailable and PublishFailed, after which it may be called again. `meter` is told of the bytes
    that are read and sent.
    """
    headers = {kind: _metadata(kind, path) for kind, path in files.items()}
    job_id = job_id or "statistics-" + hashlib.sha256(repr(sorted(map(sha256_of, files.values()))).encode()).hexdigest()
    identity = whoami(hub)
    repo_id = target_repo(identity, model, place)
    done = _done(hub, identity, repo_id, place, job_id)
    if done is not None:
        return done
    found = publishing_problems(hub, model, files, place, private=private, identity=identity)
    raise_errors(found)
    repo = _own_repo(hub, repo_id, private) if place == "own" else open_repo(hub, repo_id, where=WHERE)
    uploads = [Upload(path_of(kind), path) for kind, path in sorted(files.items())]
    operations: list[CommitOperationAdd] = [*uploads]
    if place == "own":
        operations.append(CommitOperationAdd("README.md", _card(model, _with_others(hub, repo, headers)).encode()))
    meter, trial = meter or UploadMeter(), Trial()
    with explained(hub, repo_id, WHERE):
        hash_files(uploads, meter)
    while True:
        try:
            with sending(uploads, meter):
                commit = hub.api.create_commit(
                    repo_id,
                    operations,
                    commit_message=f"Merge statistics of {model}" if place == "own" else "Add merge statistics",
                    commit_description=("" if place == "own" else _about(files)) + JOB_LINE + job_id,
                    parent_commit=repo.sha,
                    create_pr=place == "pull-request",
                )
            return Published(repo_id, commit.pr_url or _page(hub, repo_id, place), commit.oid)
        except (*CLIENT_ERRORS, ValueError, RuntimeError) as error:
            failed = rooted(error)
        if expired(failed):
            raise _failed(hub, failed, repo_id)
        done = _done(hub, identity, repo_id, place, job_id)  # it may be there all the same
        if done is not None:
            return done
        if not may_pass(failed):
            raise _failed(hub, failed, repo_id)
        try_again(hub, trial, failed, repo_id, WHERE)


def published_before(hub: Hub, model: str, place: Place, job_id: str) -> Published | None:
    """What a job that was cut off has published, None when it did not come so far."""
    identity = whoami(hub)
    return _done(hub, identity, target_repo(identity, model, place), place, job_id)


def _own_repo(hub: Hub, repo_id: str, private: bool) -> RemoteRepo:
    """The statistics repo, made when it is missing; after an error that may pass it may be there all the same."""
    trial = Trial()
    while True:
        repo = open_statistics_repo(hub, repo_id)
        if repo is not None:
            return repo
        try:
            hub.api.create_repo(repo_id, private=private, exist_ok=False)
        except CLIENT_ERRORS as error:
            if not may_pass(error):
                raise explain(hub, error, repo_id, WHERE) from None
            try_again(hub, trial, error, repo_id, WHERE)


def _with_others(
    hub: Hub, repo: RemoteRepo, headers: Mapping[str, Mapping[str, str]]
) -> Mapping[str, Mapping[str, str]]:
    """The headers of what is published now, and of the other kind that is there."""
    others = [kind for kind in KINDS if kind not in headers and path_of(kind) in repo.files]
    return {**headers, **{kind: read_header(hub, repo, path_of(kind)).metadata for kind in others}}


def _failed(hub: Hub, error: Exception, repo_id: str) -> MergeError:
    """Why the commit was refused; whoever called keeps the files."""
    found = explain(hub, error, repo_id, WHERE)
    problem, kept = found.problem, "the statistics are kept and wait to be published"
    if isinstance(found, SignInNeeded):
        return SignInNeeded(problem.what, kept, problem.fix, WHERE)
    if type(found) is MergeError:  # such as 412: somebody else has committed meanwhile
        return PublishFailed(problem.what, problem.why, "The statistics are kept: publish again")
    return found


def _done(hub: Hub, identity: Identity, repo_id: str, place: Place, job_id: str) -> Published | None:
    """What an earlier start of the same job has published, None when it did not come so far."""
    if place != "pull-request":
        commit = _commit_of(hub, repo_id, None, job_id)
        return Published(repo_id, _page(hub, repo_id, place), commit) if commit else None
    for number in _requests_of(hub, identity, repo_id):
        commit = _commit_of(hub, repo_id, f"refs/pr/{number}", job_id)
        if commit:
            return Published(repo_id, f"{hub.url}/{repo_id}/discussions/{number}", commit)
    return None


def _requests_of(hub: Hub, identity: Identity, repo_id: str) -> Iterator[int]:
    """This person's pull requests to a repo, the newest first."""
    with explained(hub, repo_id, WHERE):
        for discussion in hub.api.get_repo_discussions(repo_id, author=identity.name, discussion_type="pull_request"):
            yield discussion.num


def _commit_of(hub: Hub, repo_id: str, revision: str | None, job_id: str) -> str:
    """The commit that carries the job's id, "" when there is none."""
    with explained(hub, repo_id, WHERE):
        try:
            commits = hub.api.list_repo_commits(repo_id, revision=revision)
        except RepositoryNotFoundError:
            return ""
    line = f"{JOB_LINE}{job_id}"
    return next((one.commit_id for one in commits[:COMMITS_SEARCHED] if line in one.message.splitlines()), "")


def _page(hub: Hub, repo_id: str, place: Place) -> str:
    return f"{hub.url}/{repo_id}" + (f"/tree/main/{TAG}" if place == "model" else "")


def _metadata(kind: str, path: Path) -> Mapping[str, str]:
    statistics = Statistics(path)
    statistics.close()
    if statistics.fact.kind != kind:
        raise InputError(f"{path} holds {statistics.fact.kind} statistics", f"{kind} is needed", "Name the other file")
    return statistics.metadata


def _about(files: Mapping[str, Path]) -> str:
    """What a commit to a model's repo says to its owner."""
    names = " and ".join(f"`{path_of(kind)}`" for kind in KINDS if kind in files)
    return (
        f"With {names} anybody can merge this model with others without its data. Statistics are second moments of "
        "layer inputs, or of gradients, with the SHA-256 of the weights they belong to; no text and no row of "
        "activations.\n\n"
    )


def _card(model: str, headers: Mapping[str, Mapping[str, str]]) -> str:
    """The README of a statistics repo. Every value in a header is a stranger's text."""
    data = {"tags": [TAG], "base_model": [model]}
    rows = [
        f"| {code(path_of(kind))} | {code(head['dataset']) if head.get('dataset') else 'a text that is not published'} "
        f"| {code(head.get('examples', ''))} | {code(head.get('max_length', ''))} "
        f"| {code(head.get('revision') or 'not named')} |"
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
