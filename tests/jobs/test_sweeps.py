"""Folders that a killed process left behind are found: no job's disk is held by nobody."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs.job import JobFailed, JobFolder
from jobs.service import JobService
from jobs.upkeep import ELSEWHERE, SETTLED_AT_A_TIME, sweep_folders, sweep_tokens
from merging.errors import Problem
from settings import Settings
from tests.jobs.processes import TOKEN, queue

HOUR = 3600.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    """The jobs of an empty home without a worker."""
    running = JobService(Settings(home=tmp_path / "home"))
    yield running
    running.close()


def left_by(service: JobService, id: str, *, hours: float = 2) -> JobFolder:
    """The folder of a job with a fetched model and an output in it, as a kill leaves it."""
    folder = JobFolder(service._store.home, id)
    for path in (folder.parent(0), folder.output):
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"x" * 1000)
    folder.append_log("merge", "merge started")
    os.utime(folder.path, (time.time() - hours * HOUR,) * 2)
    return folder


def failed(service: JobService, id: str, *, kept: bool) -> None:
    """Write into the job store that the job failed, and whether it can go on."""
    error = service._store.serializer.serialize(JobFailed(Problem("x"), "publish", kept))
    database = service._client._sys_db
    jobs = database.tables.workflow_status
    with database.engine.begin() as connection:
        found = {"status": "ERROR", "error": error, "serialization": service._store.serializer.name()}
        connection.execute(sa.update(jobs).where(jobs.c.workflow_uuid == id).values(**found))


def test_what_nobody_needs_is_deleted_and_nothing_else(service: JobService) -> None:
    """A folder without a job goes whole; an ended job keeps its log; waiting, kept and fresh ones keep everything."""
    for id in ("waiting", "cancelled", "failed", "kept"):
        queue(service, id)
    service.cancel("cancelled", "ann")
    failed(service, "failed", kept=False)
    failed(service, "kept", kept=True)
    folders = {id: left_by(service, id) for id in ("waiting", "cancelled", "failed", "kept", "nobodys")}
    fresh = left_by(service, "fresh", hours=0.5)
    assert sweep_folders(service._store, service._client) == 1
    assert not folders["nobodys"].path.exists()
    for id in ("cancelled", "failed"):
        assert folders[id].log.exists()
        assert folders[id].size < 1000
    for folder in (folders["waiting"], folders["kept"], fresh):
        assert folder.size > 2000


def test_nobody_waits_for_a_look_that_cannot_be_had(service: JobService) -> None:
    """A job that was cancelled as it published, on a machine that came back when its token was gone."""
    folder = left_by(service, queue(service, "late"))
    folder.publishing.touch()
    service._client.cancel_workflow("late")
    os.utime(folder.path, (time.time() - 2 * HOUR,) * 2)
    sweep_folders(service._store, service._client)
    assert service.get("late", "ann").settling
    service._store.tokens.delete("late")
    os.utime(folder.path, (time.time() - 2 * HOUR,) * 2)
    sweep_folders(service._store, service._client)
    late = service.get("late", "ann")
    assert not late.settling
    assert late.left.endswith("the Hub did not say how far it came: look whether ann/merged is there.")
    assert not folder.output.exists()


def test_the_token_of_a_job_that_was_cancelled_elsewhere_waits_for_its_machine(service: JobService) -> None:
    """For five minutes after the cancel: the worker there looks with it at what was published."""
    store, client = service._store, service._client
    folder = JobFolder(store.home, queue(service, "elsewhere"))
    client.cancel_workflow("elsewhere")
    assert not folder.path.exists()
    assert sweep_tokens(store, client, lambda *_: None, older_than=0.0) == 0
    assert store.tokens.get("elsewhere") == TOKEN
    cancelled_ago(service, "elsewhere", ELSEWHERE + 1)
    assert sweep_tokens(store, client, lambda *_: None, older_than=0.0) == 1
    assert store.tokens.get("elsewhere") is None


def test_a_few_cancelled_jobs_are_looked_at_in_a_round(service: JobService) -> None:
    """Each look may take a minute; chance says which, so that none waits for ever. The disk of all is free at once."""
    store, client, looked = service._store, service._client, list[str]()
    folders = [left_by(service, queue(service, f"job{number}")) for number in range(5)]
    for folder in folders:
        folder.publishing.touch()
        client.cancel_workflow(folder.id)
    for _ in range(15):
        before = len(looked)
        sweep_tokens(store, client, lambda spec, folder: looked.append(spec.token_ref), older_than=0.0)
        assert len(looked) - before == SETTLED_AT_A_TIME
    assert set(looked) == {folder.id for folder in folders}
    assert not any(folder.output.exists() for folder in folders)
    assert store.tokens.get("job0") == TOKEN


def cancelled_ago(service: JobService, id: str, seconds: float) -> None:
    """Have a cancelled job end so many seconds ago."""
    database = service._client._sys_db
    jobs = database.tables.workflow_status
    with database.engine.begin() as connection:
        ended = int((time.time() - seconds) * 1000)
        connection.execute(sa.update(jobs).where(jobs.c.workflow_uuid == id).values(completed_at=ended))
