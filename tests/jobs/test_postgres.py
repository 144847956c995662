"""The job store on a real Postgres: what SQLite's tests show, and what only a server can do to us."""

import multiprocessing
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.client import Hub
from jobs.job import JobFolder, JobSpec
from jobs.limits import Needs
from jobs.service import JobService
from jobs.store import Store, StoreAway, a_worker_lives
from merging.errors import InputError
from settings import Settings
from tests.jobs.processes import RECIPE, TOKEN, Workers, ended, in_merge, queue, trace, wait_for
from tests.postgres import Postgres

pytestmark = pytest.mark.slow  # a server, and workers as real processes

STAGES = ["pin", "fetch", "calibrate", "merge", "check", "publish"]
ROUNDS = 8  # in which two pages submit at the same moment
TAKEN_OVER_IN = 6.0  # seconds, where workers look every second (in production every five)


def everything_stored(store: Store) -> str:
    """Every value of every table."""
    found = []
    with store.engine.connect() as connection:
        for schema in ("dbos", "public"):
            for table in sa.inspect(connection).get_table_names(schema):
                found += [str(row) for row in connection.execute(sa.text(f'SELECT * FROM {schema}."{table}"'))]
    return "\n".join(found)


def test_a_lock_ends_with_its_session(postgres_workers: Workers) -> None:
    """One holder, seen by others; free when its holder lets go."""
    store = Store(postgres_workers.settings)
    first, second = store.executor_lock("host:0"), store.executor_lock("host:0")
    assert not a_worker_lives(store)
    assert first.acquire()
    assert not second.acquire()
    assert (first.is_held(), second.is_held(), a_worker_lives(store)) == (True, False, True)
    first.release()
    assert not first.is_held()
    wait_for(second.acquire, 5)  # the server ends a session a moment later
    second.release()
    wait_for(lambda: not a_worker_lives(store), 5)


def test_tokens_and_recipes_are_stored_encrypted(postgres_workers: Workers, postgres_service: JobService) -> None:
    """Neither the token nor the recipe stands in any table while a job waits, nor the token after it has ended."""
    queue(postgres_service, "job1")
    store = postgres_service._store
    assert "job1" in everything_stored(store)
    assert TOKEN not in everything_stored(store)
    assert "merge_method" not in everything_stored(store)
    assert store.tokens.get("job1") == TOKEN
    postgres_workers.start()
    assert ended(postgres_service, "job1").status == "done"
    assert store.tokens.get("job1") is None
    assert TOKEN not in everything_stored(store)


def test_a_killed_workers_job_is_taken_over(postgres_workers: Workers, postgres_service: JobService) -> None:
    """By the other worker, within seconds, at the stage that was interrupted; the other's own job runs once."""
    first, second = (queue(postgres_service, f"job{n}", user=f"user{n}", tenths=80) for n in (1, 2))
    processes = {slot: postgres_workers.start(slot) for slot in (0, 1)}
    for id in (first, second):
        in_merge(postgres_workers, id)
    slot = int(postgres_service.log(first, "user1")[0]["message"].rpartition(":")[2])
    processes[slot].kill()
    killed = time.monotonic()
    wait_for(lambda: trace(postgres_workers.home, first).count("merge") == 2 or None, 60)
    waited_for_the_slot = postgres_service.get(second, "user2").ended
    assert waited_for_the_slot or time.monotonic() - killed < TAKEN_OVER_IN
    assert ended(postgres_service, first, "user1").status == "done"
    assert ended(postgres_service, second, "user2").status == "done"
    assert trace(postgres_workers.home, first) == [*STAGES[:4], *STAGES[3:]]
    assert trace(postgres_workers.home, second) == STAGES


def test_a_job_on_another_machine_begins_again(
    postgres_workers: Workers, postgres_service: JobService, tmp_path: Path
) -> None:
    """Its files are on the disk of the machine that died: the earlier stages are done once more, and it ends well."""
    id = queue(postgres_service, "job1", tenths=30)
    worker = postgres_workers.start(0)
    in_merge(postgres_workers, id)
    worker.kill()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    postgres_workers.start(1, home=elsewhere)
    job = ended(postgres_service, id)
    assert (job.status, job.error) == ("done", "")
    assert trace(elsewhere, id) == STAGES
    said = [line["message"] for line in JobFolder(elsewhere, id).read_log()]
    assert "the files of this job are not here: what was done before is done again" in said


def test_a_user_runs_one_job_at_a_time_on_two_workers(postgres_workers: Workers, postgres_service: JobService) -> None:
    """The limit is the database's, not a worker's."""
    ids = [queue(postgres_service, f"job{number}", tenths=5) for number in range(3)]
    for slot in (0, 1):
        postgres_workers.start(slot)
    most = 0
    while not all(job.ended for job in postgres_service.list("ann")):
        most = max(most, sum(job.status == "running" for job in postgres_service.list("ann")))
    assert most == 1
    assert [trace(postgres_workers.home, id) for id in ids] == [STAGES] * 3


def test_a_server_that_is_away_for_a_while_loses_nothing(
    postgres_workers: Workers, postgres_service: JobService, server: Postgres
) -> None:
    """The stage goes on meanwhile and is not redone, nobody takes the job from its living worker, the page says why."""
    id = queue(postgres_service, "job1", tenths=40)
    workers = [postgres_workers.start(slot) for slot in (0, 1)]
    in_merge(postgres_workers, id)
    server.stop()
    try:
        with pytest.raises(StoreAway, match="The job database does not answer: it cannot be reached"):
            postgres_service.get(id, "ann")
        time.sleep(2)
    finally:
        server.start()
    assert ended(postgres_service, id).status == "done"
    assert trace(postgres_workers.home, id) == STAGES
    assert ended(postgres_service, queue(postgres_service, "job2")).status == "done"
    assert [worker.poll() for worker in workers] == [None, None]
    assert wait_for(lambda: a_worker_lives(postgres_service._store), 5)
    assert "Traceback" not in postgres_workers.log


def test_a_job_that_nobody_runs_is_queued_again(postgres_workers: Workers, postgres_service: JobService) -> None:
    """Claimed in the moment in which the database went away, it is recorded as this worker's, which knows nothing."""
    postgres_workers.start()
    assert ended(postgres_service, queue(postgres_service, "job1")).status == "done"
    store = postgres_service._store
    with store.engine.begin() as connection:
        ours = "SELECT executor_id FROM dbos.workflow_status WHERE workflow_uuid = 'job1'"
        executor = connection.execute(sa.text(ours)).scalar()
    options = {"workflow_name": "merge", "queue_name": "elsewhere", "authenticated_user": "ann"}
    spec = JobSpec(RECIPE.format(tenths=1), "ann", "job2")
    store.tokens.put("job2", TOKEN)
    postgres_service._client.enqueue(options | {"workflow_id": "job2"}, spec.as_dict())
    with store.engine.begin() as connection:
        claimed = (
            "UPDATE dbos.workflow_status SET status = 'PENDING', queue_name = 'merges', executor_id = :executor,"
            " queue_partition_key = 'ann' WHERE workflow_uuid = 'job2'"
        )
        connection.execute(sa.text(claimed), {"executor": executor})
    wait_for(lambda: "job job2 was ours and nobody ran it" in postgres_workers.log, 30)
    assert ended(postgres_service, "job2").status == "done"


def submit_at_once(settings: Settings, ready: Barrier, told: "Queue[bool]") -> None:
    """What the page of one machine does: for each of some users one job, at the same moment as the other one."""
    service, hub = JobService(settings), Hub("http://127.0.0.1:9", TOKEN)
    for number in range(ROUNDS):
        ready.wait(60)
        recipe = f"merge_method: average\nmodels: [a/one, a/two]\noutput: {{repo_id: u/{settings.home.name}}}\n"
        try:
            service._queue(hub, f"user{number}", f"{settings.home.name}{number}", recipe, Needs(1, 1))
            told.put(True)
        except InputError:
            told.put(False)
    service.close()


def test_pages_on_two_machines_keep_one_limit(postgres_workers: Workers, tmp_path: Path) -> None:
    """Each has a home of its own and submits a job of the same user at the same moment: one is queued."""
    several = multiprocessing.get_context("fork")
    ready, told = several.Barrier(2), several.Queue()
    pages = []
    for name in ("first", "second"):
        settings = postgres_workers.settings.model_copy(update={"home": tmp_path / name, "jobs_per_user": 1})
        JobService(settings).close()
        pages.append(several.Process(target=submit_at_once, args=(settings, ready, told)))
    for page in pages:
        page.start()
    answers = [told.get(timeout=60) for _ in range(2 * ROUNDS)]
    for page in pages:
        page.join(30)
    assert sum(answers) == ROUNDS
    with Store(postgres_workers.settings).engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM dbos.workflow_status")).scalar() == ROUNDS


def test_limits_of_a_user_hold(postgres_workers: Workers, postgres_service: JobService) -> None:
    """Waiting jobs count on Postgres as on SQLite."""
    few = JobService(postgres_workers.settings.model_copy(update={"jobs_per_user": 2}))
    for number in (1, 2):
        queue(few, f"job{number}")
    with pytest.raises(InputError, match="You have 2 jobs waiting or running"):
        few._check_limit("ann", "ann/other")
    few._check_limit("bob", "bob/other")
    few.close()
