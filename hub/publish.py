"""Publishing a finished folder as a new repo: nothing before everything is there, nothing of the user's touched.

    1 look       every file is there, none is code or a pickle; the name is free, or the repo is ours
    2 intend     what is about to be made is written to a file of ours (`intent.json` of a job), and synced
    3 create     the repo, which the Hub gives one initial commit
    4 upload     large bodies, each distinct one once; a repo without a commit of ours still shows nothing
    5 commit     everything at once, on top of the initial commit and of no other

Killed at any point and called again it goes on from there, and publishes once. A repo is ours when a commit in
it carries the job's id, or when the intent was recorded while the name was free and the repo holds nothing but
its initial commit. Nothing is ever deleted or overwritten: an unknown repo is a refusal.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hub.client import (
    CLIENT_ERRORS,
    LOG_IN,
    LOG_IN_AGAIN,
    Hub,
    SignInNeeded,
    expired,
    explain,
    explained,
    may_pass,
    rooted,
    safe_path,
    scope_in,
    server_words,
    try_again,
)
from hub.datasets import is_local
from hub.identity import raise_unless_writable, whoami
from hub.patience import Trial
from hub.resolve import repo_exists, taken
from hub.upload import Upload, UploadMeter, hash_files, sending
from merging.checkpoint import PICKLES
from merging.errors import InputError, MergeError
from merging.modules import MODULES_FILE, modules_of
from merging.recipe import ModelEntry, Recipe, valid_repo_id
from merging.side_files import AS_THEY_ARE, code_key

INTENT = "intent.json"
JOB_LINE = "Merge-Job: "  # in the description of the commit
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".sh", ".exe", ".ipynb", ".zip", ".jar")
JSON_LIMIT = 5_000_000  # bytes of a JSON file that is searched for class paths


@dataclass(frozen=True)
class Published:
    """A result on the Hub."""

    repo_id: str
    url: str
    commit: str  # sha

    def as_dict(self) -> dict[str, str]:
        """Plain data."""
        return asdict(self)


class PublishFailed(MergeError):
    """The result is whole and kept, but the Hub did not take it: publish again later."""


@dataclass(frozen=True)
class _Repo:
    """A repo as it stands before our commit."""

    head: str  # sha
    private: bool
    ours: str  # sha of the commit that carries the job's id, "" when there is none
    pristine: bool  # nothing but the initial commit


def publish(
    hub: Hub,
    folder: Path,
    repo_id: str,
    *,
    private: bool,
    job_id: str,
    message: str = "Merged model",
    intent: Path | None = None,
    meter: UploadMeter | None = None,
) -> Published:
    """Publish every file of `folder` as the new repo `repo_id`, in one commit beyond the initial one.

    `job_id` is what a second call recognises the work of the first by, `intent` the file that notes what is about
    to be made (by default `intent.json` beside a job's folder; it is overwritten). Raises InputError when the
    folder or the name cannot be used (nothing was made then), SignInNeeded when the token has run out,
    HubUnavailable, and PublishFailed when the Hub refuses after the repo was made; all but the first may be tried
    again. `meter` is told of the bytes that are read and sent.
    """
    files = publishable(folder)
    where = "output.repo_id"
    if not valid_repo_id(repo_id):
        raise InputError(f"{repo_id} is not a valid name", "", "Use letters, digits, '-', '_' and '.'", where)
    if "\n" in job_id or not job_id:
        raise ValueError("a job id is one line")
    raise_unless_writable(whoami(hub), repo_id.partition("/")[0], where)
    intent = intent or folder.parent / INTENT
    mine = {"job_id": job_id, "repo_id": repo_id}  # not whether it is private: a parent may be withdrawn meanwhile
    intended = _read_intent(intent) == mine
    repo = _look(hub, repo_id, job_id)
    if repo is None:
        _write_intent(intent, mine)
        _create(hub, repo_id, private, intent)
        repo = _look(hub, repo_id, job_id)
        if repo is None:
            raise PublishFailed(f"{repo_id} cannot be seen", "it was just made", "The result is kept: publish again")
    elif not repo.ours and not (intended and repo.pristine):
        raise _taken(repo_id)
    if repo.ours:
        return _published(hub, repo_id, repo.ours)
    if private and not repo.private:
        raise InputError(f"{repo_id} is public", "this result is to be private", "Make that repo private", where)
    uploads = [Upload(name, folder / name) for name in files]
    commit = _commit(hub, uploads, repo_id, repo, job_id, message, meter or UploadMeter())
    return _published(hub, repo_id, commit)


def standing(hub: Hub, repo_id: str, job_id: str) -> tuple[Published | None, bool]:
    """What a job that was cut off has left: its commit, and whether there is a repo that is still empty."""
    repo = _look(hub, repo_id, job_id)
    if repo is None:
        return None, False
    return (_published(hub, repo_id, repo.ours), False) if repo.ours else (None, repo.pristine)


def without_local_paths(recipe: Recipe) -> Recipe:
    """The recipe for others' eyes: folders by their last name, no files of this machine."""
    base = recipe.base_model
    if base is not None and ModelEntry(model=base).is_folder:
        base = Path(base).name or "folder"
    sets = tuple(one for one in recipe.evaluate if not one.is_handed_over and not is_local(one.data))
    sweep = recipe.sweep if sets else None
    models = tuple(map(portable, recipe.models))
    return recipe.model_copy(update={"models": models, "base_model": base, "evaluate": sets, "sweep": sweep})


def portable(entry: ModelEntry) -> ModelEntry:
    """One model of `without_local_paths`."""
    text = entry.calibration
    return entry.model_copy(
        update={
            "model": (entry.short_name or "folder") if entry.is_folder else entry.model,
            "statistics": {kind: ref for kind, ref in entry.statistics.items() if not is_local(ref.source)},
            "calibration": None if text is not None and is_local(text.data) else text,
        }
    )


def publishable(folder: Path) -> tuple[str, ...]:
    """The files that will be published, as paths in the repo, sorted. Hidden ones are ours and stay here.

    Raises InputError for code, pickles, links, class paths, unfinished shards, and for a folder that is no model.
    """
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or path.is_dir():
            continue
        if path.is_symlink() or not path.is_file() or not safe_path(name):
            raise InputError(f"{name} cannot be published", "it is not a plain file", "Remove it")
        if path.suffix in (*CODE, *PICKLES):
            raise InputError(f"{name} cannot be published", "it is code or can run code when loaded", "Remove it")
        if path.suffix == ".partial":
            raise InputError(f"{name} is not finished", "the merge has not ended", "Merge again")
        if path.suffix == ".json" and path.name not in AS_THEY_ARE:
            _refuse_class_paths(path, name)
        names.append(name)
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise InputError(f"{folder} is no model", "config.json or the weights are missing", "Merge again")
    return tuple(names)


def _refuse_class_paths(path: Path, name: str) -> None:
    try:
        if path.stat().st_size > JSON_LIMIT and not name.endswith(".index.json"):
            raise InputError(f"{name} cannot be published", f"it has more than {JSON_LIMIT:,} bytes", "Remove it")
        data = json.loads(path.read_bytes())
        found = code_key(data)
    except (ValueError, RecursionError):
        raise InputError(f"{name} cannot be published", "it is not JSON", "Remove it") from None
    if found:
        raise InputError(f"{name} cannot be published", f"its {found} names code to run", "Remove that key")
    if path.name == MODULES_FILE:
        modules_of(data, name)  # raises for a class of a stranger


def _look(hub: Hub, repo_id: str, job_id: str) -> _Repo | None:
    """The repo as it is now, None when there is none."""
    with explained(hub, repo_id, "output.repo_id"):
        try:
            info = hub.api.model_info(repo_id)
            commits = hub.api.list_repo_commits(repo_id)
        except RepositoryNotFoundError:
            if repo_exists(hub, repo_id, "output.repo_id"):  # gated: somebody set it up, so it is not ours
                raise _taken(repo_id) from None
            return None
    ours = [commit.commit_id for commit in commits if f"{JOB_LINE}{job_id}" in commit.message.splitlines()]
    files = {sibling.rfilename for sibling in info.siblings or []}
    pristine = len(commits) == 1 and files <= {".gitattributes"}
    assert info.sha is not None
    return _Repo(info.sha, bool(info.private), ours[-1] if ours else "", pristine)


def _create(hub: Hub, repo_id: str, private: bool, intent: Path) -> None:
    """Make the repo. After an error that may pass it may be there all the same: then it is ours, being empty."""
    trial = Trial()
    while True:
        try:
            hub.api.create_repo(repo_id, private=private, exist_ok=False)
            return
        except CLIENT_ERRORS as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code == 409:
                intent.unlink()  # somebody else was first: this repo is not ours
                raise _taken(repo_id) from None
            if not may_pass(error):
                raise explain(hub, error, repo_id, "output.repo_id") from None
            failed = error
        found = _look(hub, repo_id, "")
        if found is not None and found.pristine:
            return
        try_again(hub, trial, failed, repo_id)


def _taken(repo_id: str) -> InputError:
    return InputError.of([replace(taken(repo_id), fix="Pick another name, or rename that repo")])


def _commit(
    hub: Hub, uploads: Sequence[Upload], repo_id: str, repo: _Repo, job_id: str, message: str, meter: UploadMeter
) -> str:
    """Upload and commit; the sha. After an error the commit may be there all the same: then it is ours.

    It is tried again while the repo stands as before: two commits on the same parent cannot both be made.
    """
    with explained(hub, repo_id, "output.repo_id"):
        hash_files(uploads, meter)
    distinct = list({upload.upload_info.sha256: upload for upload in uploads}.values())
    trial = Trial()
    while True:
        try:
            with sending(distinct, meter):
                hub.api.preupload_lfs_files(repo_id, distinct, free_memory=False)
            meter.begin("making the commit")
            return hub.api.create_commit(
                repo_id,
                uploads,
                commit_message=message,
                commit_description=f"{JOB_LINE}{job_id}",
                parent_commit=repo.head,
            ).oid
        except (*CLIENT_ERRORS, ValueError, RuntimeError) as error:
            failed = rooted(error)
        if expired(failed):
            raise _sign_in_again(hub)
        again, state = _seen(hub, repo_id, job_id)
        if again is not None and again.ours:
            return again.ours
        if not may_pass(failed) or again is None or again.head != repo.head:
            raise _failed(hub, failed, repo_id, state)
        try:
            try_again(hub, trial, failed, repo_id)
        except MergeError:
            raise _failed(hub, failed, repo_id, state) from None


def _seen(hub: Hub, repo_id: str, job_id: str) -> tuple[_Repo | None, str]:
    """The repo after a failure, and how it stands, in words."""
    try:
        repo = _look(hub, repo_id, job_id)
    except MergeError:
        return None, f"{repo_id} was made and may be empty"
    if repo is None:
        return None, f"{repo_id} is gone"
    return repo, f"{repo_id} exists and is empty" if repo.pristine else f"{repo_id} has been changed since"


def _sign_in_again(hub: Hub) -> SignInNeeded:
    what = hub.advice("Your sign-in has run out", "Your token is not valid")
    fix = hub.advice("Sign in again and publish", f"{LOG_IN_AGAIN}, and publish again")
    return SignInNeeded(what, "the result is kept and waits to be published", fix)


def _failed(hub: Hub, error: Exception, repo_id: str, state: str) -> PublishFailed:
    """Why publishing ended, how things stand, and the way on."""
    scope = scope_in(server_words(error)) if isinstance(error, HfHubHTTPError) else ""
    if scope:
        reason = f"the scope {scope} was not granted"
        way = hub.advice(f"sign in again, grant {scope} and publish", f"{LOG_IN} to a token that has it, publish again")
    else:
        reason, way = _reason(hub, error, repo_id), "publish again"
    return PublishFailed(f"{repo_id} could not be published", reason, f"The result is kept and {state}: {way}")


def _reason(hub: Hub, error: Exception, repo_id: str) -> str:
    """What the Hub said, in one bounded line."""
    if isinstance(error, HfHubHTTPError):
        return server_words(error)
    said = re.findall(r"file with OID \w+: `(.*)", str(error))
    if said:  # of single files
        return " ".join(said[0].split())[:300]
    problem = explain(hub, error, repo_id).problem
    return f"{problem.what[0].lower()}{problem.what[1:]}, {problem.why}" if problem.why else problem.what


def _published(hub: Hub, repo_id: str, commit: str) -> Published:
    return Published(repo_id, f"{hub.url}/{repo_id}", commit)


def _read_intent(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _write_intent(path: Path, intent: dict[str, Any]) -> None:
    """On disk before anything is made, whole or not at all."""
    draft = path.with_suffix(".draft")
    with draft.open("w") as file:
        json.dump(intent, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
