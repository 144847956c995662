"""Whose work goes when disk or memory run short, and whose is kept."""

import fcntl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.job import JobFailed, JobFolder, JobSpec
from jobs.room import LOOK_EVERY, ROOM_LOCK
from jobs.service import JobService
from jobs.store import Store
from jobs.upkeep import paused
from jobs.workflow import Runner
from merging.errors import InputError, Problem
from settings import Settings
from tests.jobs.processes import RECIPE, TOKEN, queue, wait_for

ANSWERS = "import sys\nfor line in sys.stdin: print('{\"result\": {}}', flush=True)"  # a child that is always ready
SHORT = Problem("The disk of this service is full")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """The stages of jobs on an empty home, each of which has answered at once and waits for the next."""
    settings = Settings(home=tmp_path / "home")
    running = Runner(settings, Store(settings), "host:0", [sys.executable, "-c", ANSWERS])
    yield running
    for process in running._running.values():
        process.end()


@pytest.fixture
def service(runner: Runner) -> Iterator[JobService]:
    """The page's side of the same home."""
    with closing(JobService(runner._settings)) as running:
        yield running


@pytest.mark.parametrize(
    ("stage", "lives", "kept"),
    [("merge", False, False), ("check", False, True), ("evaluate", False, True), ("publish", True, True)],
)
def test_a_checked_merge_is_kept_and_published(stage: str, lives: bool, kept: bool, runner: Runner) -> None:
    """Room is made where a stage has ended and the next one has not begun; publishing is not told of it."""
    folder = JobFolder(runner._store.home, "job1")
    process = runner._begin(stage, JobSpec(RECIPE.format(tenths=1), "ann", "job1"), folder_with_work(folder), TOKEN)
    assert process.wait(10) == 0
    runner._room.make(SHORT)
    assert (process.alive, folder.output.exists(), folder.parents.exists()) == (lives, kept, lives)
    if not lives:
        with pytest.raises(JobFailed):
            runner._room.raise_if_short("evaluate", "job1")
        runner._room._short["job1"] = SHORT
    runner._room.raise_if_short("publish", "job1")
    assert not runner._room._short


def folder_with_work(folder: JobFolder) -> JobFolder:
    """A job's folder with a model in it and a result."""
    for path in (folder.parent(0), folder.output):
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"x" * 1000)
    return folder


@pytest.mark.slow
def test_one_worker_of_a_machine_makes_room(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another one holds the lock nothing is ended; after that the shortage is looked at again."""
    monkeypatch.setattr(runner._room, "reserve", 1 << 60)
    folder = folder_with_work(JobFolder(runner._store.home, "job1"))
    process = runner._begin("merge", JobSpec(RECIPE.format(tenths=1), "ann", "job1"), folder, TOKEN)
    with (runner._store.home / ROOM_LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runner._room.start(runner._stopping)
        time.sleep(3 * LOOK_EVERY)
        assert process.alive
    wait_for(lambda: not process.alive, 5)
    runner._stopping.set()


@pytest.mark.slow
def test_the_oldest_paused_job_goes_when_nothing_else_helps(
    runner: Runner, service: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time, whole: it then says by itself that it cannot go on. Other failed and waiting jobs stay."""
    for place, (id, stage, kept) in enumerate(
        (("failed", "merge", False), ("old", "check", True), ("new", "publish", True), ("waiting", "", None))
    ):
        folder_with_work(JobFolder(runner._store.home, queue(service, id)))
        if kept is not None:
            fail(service, id, JobFailed(SHORT, stage, kept), completed=1000 + place)
    assert paused(runner._store, runner._client, "ann") == ["old", "new"]
    assert paused(runner._store, runner._client, "bob") == []
    assert service.get("old", "ann").resumable
    monkeypatch.setattr("jobs.room.PAUSED_AFTER", 0.0)
    monkeypatch.setattr(runner._room, "reserve", 1 << 60)
    runner._room.start(runner._stopping)
    wait_for(lambda: not service.get("old", "ann").resumable, 5)
    assert service.get("new", "ann").publishable
    wait_for(lambda: not service.get("new", "ann").publishable, 5)
    time.sleep(2 * LOOK_EVERY)
    runner._stopping.set()
    assert [id for id in ("failed", "waiting") if JobFolder(runner._store.home, id).output.exists()] == [
        "failed",
        "waiting",
    ]


def fail(service: JobService, id: str, failure: JobFailed, completed: int) -> None:
    """Write into the job store that the job failed, and when, in milliseconds."""
    database, serializer = service._client._sys_db, service._store.serializer
    jobs = database.tables.workflow_status
    found = {"status": "ERROR", "error": serializer.serialize(failure), "serialization": serializer.name()}
    with database.engine.begin() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.workflow_uuid == id).values(completed_at=completed, **found))


def test_a_kept_job_is_given_up(runner: Runner, service: JobService) -> None:
    """Cancelling one that failed and could go on deletes what it kept; it is not counted any more."""
    folder = JobFolder(runner._store.home, queue(service, "old"))
    folder_with_work(folder)
    fail(service, "old", JobFailed(SHORT, "check", True), completed=1000)
    assert service.get("old", "ann").resumable
    job = service.cancel("old", "ann")
    assert (job.status, job.resumable, job.publishable) == ("failed", False, False)
    assert not folder.path.exists()
    assert paused(runner._store, runner._client, "ann") == []


def test_two_tabs_go_on_with_one_job_once(runner: Runner, service: JobService, hub: LoopbackHub) -> None:
    """The second one is shown the job that goes on; one that was given up in another tab says so."""
    hub.add_user("ann")
    ann = Hub(hub.url, hub.add_token("ann"))
    for id in ("job1", "job2"):
        folder_with_work(JobFolder(runner._store.home, queue(service, id)))
        fail(service, id, JobFailed(SHORT, "pin", True), completed=1000)
        step = runner._client._sys_db.tables.operation_outputs
        row = {"workflow_uuid": id, "function_id": 1, "function_name": "pin", "output": None, "error": None}
        with runner._client._sys_db.engine.begin() as connection:
            connection.execute(sa.insert(step).values(**row))
    with ThreadPoolExecutor(4) as tabs:
        found = list(tabs.map(lambda _: service.go_on("job1", ann), range(4)))
    assert [job.status for job in found] == ["waiting"] * 4
    service.cancel("job2", "ann")
    with pytest.raises(InputError, match="This job has no result to publish: it is failed"):
        service.go_on("job2", ann)
    assert runner._store.tokens.get("job2") == TOKEN
