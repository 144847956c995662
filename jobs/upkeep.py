"""What must be done now and then, by any worker: jobs of dead workers, leftover tokens, expired jobs."""

import random
import shutil
import time
from collections.abc import Callable, Sequence

from dbos import DBOSClient
from dbos._sys_db import WorkflowStatus

from jobs.job import JobFailed, JobFolder, JobSpec
from jobs.settle import give_up, is_unsettled
from jobs.store import ACTIVE, ENDED, QUEUE, VERSION, WORKFLOW, Store

SWEPT_AT_A_TIME = 200
SETTLED_AT_A_TIME = 3
ELSEWHERE = 300.0  # seconds that the token of a job, cancelled as its worker ended, waits for that machine to come back


def executors(client: DBOSClient) -> set[str]:
    """The workers that have a running job, alive or dead."""
    found = client.list_workflows(status="PENDING", load_input=False, load_output=False)
    return {status.executor_id for status in found if status.executor_id}


def is_stranded(status: WorkflowStatus) -> bool:
    """True for a waiting or running job that no worker of this version can run."""
    return status.status in ACTIVE and (
        status.name != WORKFLOW or status.queue_name != QUEUE or status.app_version not in (None, VERSION)
    )


def stranded(client: DBOSClient) -> tuple[str, ...]:
    """The ids of all such jobs: DBOS leaves them waiting for ever without a word."""
    found = client.list_workflows(status=ACTIVE, load_input=False, load_output=False)
    return tuple(status.workflow_id for status in found if is_stranded(status))


def clean_expired(store: Store, client: DBOSClient, keep_days: int, now: float | None = None) -> int:
    """Delete jobs that ended more than `keep_days` ago, with all their files. Returns how many."""
    before = (time.time() if now is None else now) - keep_days * 86400
    ended = client.list_workflows(status=ENDED, load_input=False, load_output=False)
    expired = [s.workflow_id for s in ended if (s.completed_at or s.updated_at or 0) / 1000 < before]
    for id in expired:
        store.tokens.delete(id)
        JobFolder(store.home, id).remove()
    if expired:
        client.delete_workflows(expired)
    return len(expired)


def sweep_folders(store: Store, client: DBOSClient, older_than: float = 3600.0, now: float | None = None) -> int:
    """Delete the folders of jobs that are in no record, and give back the disk of those that have ended.

    Both are left where a process was killed just then, or where another machine took the job over. Nothing is touched
    that changed within `older_than` seconds. Returns how many folders went.
    """
    before = (time.time() if now is None else now) - older_than
    places = store.home / "jobs"
    old = [one.name for one in places.iterdir() if one.lstat().st_mtime < before] if places.is_dir() else []
    found: dict[str, WorkflowStatus] = {}
    for start in range(0, len(old), SWEPT_AT_A_TIME):
        ids = old[start : start + SWEPT_AT_A_TIME]
        found |= {one.workflow_id: one for one in client.list_workflows(workflow_ids=ids, load_input=False)}
    gone = [id for id in old if id.isalnum() and id not in found]
    for id in gone:
        JobFolder(store.home, id).remove()
    for id, status in found.items():
        if status.status in ENDED:
            kept = isinstance(status.error, JobFailed) and status.error.kept
            folder = JobFolder(store.home, id)
            if status.status == "CANCELLED" and is_unsettled(folder) and store.tokens.get(id) is None:
                give_up(folder)  # nobody can look at the Hub for it any more
            if not kept and not is_unsettled(folder):
                folder.free()
    return len(gone)


def paused(store: Store, client: DBOSClient, user: str | None = None) -> list[str]:
    """Ids of failed jobs that keep models or a result on this machine so as to go on; longest ended first."""
    failed = client.list_workflows(status="ERROR", name=WORKFLOW, user=user, load_input=False)
    found = sorted(failed, key=lambda one: one.completed_at or one.updated_at or 0)
    kept = (one.workflow_id for one in found if isinstance(one.error, JobFailed) and one.error.kept)
    folders = (JobFolder(store.home, id) for id in kept)
    return [folder.id for folder in folders if folder.parents.exists() or folder.output.exists()]


def sweep_tokens(
    store: Store,
    client: DBOSClient,
    settle: Callable[[JobSpec, JobFolder], None],
    older_than: float = 60.0,
) -> int:
    """Delete the tokens and texts of jobs that ended while nobody could (a kill in that moment). Returns how many.

    A text is never there without a token: it is written after it, and deleted before it. A job that was cancelled gives
    its disk back; `settle` looks at what it has left on the Hub, and deletes the token when that is known: a few of
    them, for each may wait for the Hub. Where its files are on another machine, that one has five minutes to look.
    """
    refs = store.tokens.refs(older_than)
    if not refs:
        return 0
    known: Sequence[WorkflowStatus] = client.list_workflows(workflow_ids=refs, load_output=False)
    found = {status.workflow_id: status for status in known}
    gone, unsettled = 0, list[tuple[WorkflowStatus, JobFolder]]()
    for ref in sorted(ref for ref in refs if ref not in found or found[ref].status not in ACTIVE):
        folder, status = JobFolder(store.home, ref), found.get(ref)
        if status is not None and status.status == "CANCELLED":
            folder.free()
            if is_unsettled(folder) and status.input is not None:
                unsettled.append((status, folder))
                continue
            if not folder.path.is_dir() and time.time() - (status.completed_at or 0) / 1000 < ELSEWHERE:
                continue
        shutil.rmtree(folder.text.parent, ignore_errors=True)
        store.tokens.delete(ref)
        gone += 1
    for status, folder in random.sample(unsettled, min(len(unsettled), SETTLED_AT_A_TIME)):  # each has its turn
        assert status.input is not None
        settle(JobSpec.from_dict(status.input["args"][0]), folder)
    return gone
