"""People take turns: one user's many jobs do not keep another's one waiting."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from dbos._queue import _INTERNAL_QUEUE_CONSTRUCTION, Queue

from jobs.job import JobSpec
from jobs.service import JobService
from jobs.store import QUEUE, VERSION
from jobs.turns import _claim, line
from settings import Settings
from tests.jobs.processes import RECIPE, TOKEN, Workers, ended, queue


class Worker:
    """Claims jobs as a worker does, on the real job store, and ends them at once."""

    def __init__(self, service: JobService, slots: int = 1) -> None:
        self._db = service._client._sys_db
        self._queue = Queue(
            QUEUE, worker_concurrency=slots, partition_concurrency=1, token=_INTERNAL_QUEUE_CONSTRUCTION
        )

    def claim(self, most: int = 1) -> list[str]:
        """The next jobs."""
        return _claim(self._db, self._queue, "here:0", VERSION, most, owner_xid="x", is_latest_version=True)

    def set(self, id: str, **columns: object) -> None:
        """Write what DBOS would have written, at a time of the test's own."""
        jobs = self._db.tables.workflow_status
        with self._db.engine.begin() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.workflow_uuid == id).values(**columns))

    def end(self, id: str, at: int) -> None:
        """The job is done."""
        self.set(id, status="SUCCESS", completed_at=at, started_at_epoch_ms=at - 1)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    """The jobs of an empty home without a worker."""
    running = JobService(Settings(home=tmp_path / "home", jobs_per_user=100))
    yield running
    running.close()


def submit(service: JobService, worker: Worker, *ids: str, at: int = 1_000_000) -> None:
    """Queue jobs of the users whose names they begin with, a second after each other."""
    for place, id in enumerate(ids):
        user = id.rstrip("0123456789")
        service.enqueue(id, JobSpec(RECIPE.format(tenths=1), user, id), TOKEN)
        worker.set(id, created_at=at + 1000 * place)


def test_fifty_jobs_of_one_user_let_another_s_one_pass(service: JobService) -> None:
    """The line says so beforehand, and that is the order in which a worker takes them."""
    worker = Worker(service)
    submit(service, worker, *(f"ann{number:02}" for number in range(50)), "bob1", "cyd1", "bob2")
    foretold = [one.workflow_id for one in line(service._client.list_workflows)]
    assert foretold[:7] == ["ann00", "bob1", "cyd1", "ann01", "bob2", "ann02", "ann03"]
    assert [service.get(id, id.rstrip("0123456789")).ahead for id in ("ann00", "bob1", "ann01")] == [0, 1, 3]
    taken = []
    for place in range(7):
        [id] = worker.claim()
        worker.end(id, 2_000_000 + 1000 * place)
        taken.append(id)
    assert taken == foretold[:7]


def test_who_comes_later_waits_for_one_job_of_the_others_at_most(service: JobService) -> None:
    """A stream of new users does not starve one who has been waiting either: waiting counts from one's own last end."""
    worker = Worker(service)
    submit(service, worker, "ann1", "ann2", "ann3")
    assert worker.claim() == ["ann1"]
    submit(service, worker, "bob1", at=1_500_000)
    worker.end("ann1", 2_000_000)
    assert worker.claim() == ["bob1"]
    submit(service, worker, "cyd1", "dan1", "eve1", at=2_500_000)
    worker.end("bob1", 3_000_000)
    assert worker.claim() == ["ann2"]
    worker.end("ann2", 4_000_000)
    assert worker.claim() == ["cyd1"]


def test_a_user_runs_one_job_at_a_time_and_the_free_slots_are_others(service: JobService) -> None:
    """With three slots too; a job that was cancelled before it began costs its owner no turn."""
    worker = Worker(service, slots=3)
    submit(service, worker, "ann1", "ann2", "ann3", "bob1", "bob2")
    assert worker.claim(3) == ["ann1", "bob1"]
    assert worker.claim(1) == []
    service.cancel("ann2", "ann")
    worker.end("ann1", 2_000_000)
    worker.end("bob1", 3_000_000)
    assert worker.claim(3) == ["ann3", "bob2"]
    assert service.get("ann3", "ann").ahead == 0


STAGE = ["sh", "-c", """while read line; do echo '{"result": {}}'; done"""]  # a stage that does nothing


@pytest.mark.slow
def test_a_real_worker_takes_turns(workers: Workers) -> None:
    """Six jobs of ann's and two of bob's, one at a time."""
    service = JobService(workers.settings)
    ids = [*(f"ann{number}" for number in range(6)), "bob0", "bob1"]
    for id in ids:
        queue(service, id, user=id[:3])
    workers.start(command=STAGE)
    began = {id: ended(service, id, id[:3]).stages[0].started for id in ids}
    service.close()
    assert [id[:3] for id in sorted(ids, key=began.__getitem__)] == ["ann", "bob", "ann", "bob", *["ann"] * 4]
