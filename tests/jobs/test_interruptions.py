"""What comes between a job and its end: another version of the code, a locked database, a cancel while publishing."""

import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from demo.loopback_hub import LoopbackHub
from hub import patience
from hub.client import Hub
from jobs.job import STAGES, JobFailed, JobFolder, JobSpec, write_atomically
from jobs.service import JobService
from jobs.settle import is_unsettled, less_patient, settle, words
from jobs.store import Store, StoreAway
from jobs.workflow import SETTLE_SECONDS, Runner
from merging.recipe import recipe_from_dict
from settings import Settings
from tests.jobs.processes import RECIPE, ROOT, SECRET, TOKEN, Workers, ended, in_merge, queue, trace, wait_for

LOCKED = 7.0  # seconds; a page waits four


def test_a_spec_of_another_version_is_read() -> None:
    """One that lacks what came later, and one that has what came after us."""
    old = {"recipe_yaml": "x", "user": "ann", "token_ref": "job1"}
    assert JobSpec.from_dict(old).stages == ()
    assert JobSpec.from_dict(old | {"stages": ["pin"], "later": 1}).user == "ann"


@pytest.mark.slow
def test_a_job_in_flight_ends_under_a_new_version(workers: Workers, service: JobService) -> None:
    """A new stage is in the jobs that are queued from then on; one that ran, and one that waited, keep to theirs."""
    running, waiting = queue(service, "job1", tenths=20), queue(service, "job2")
    worker = workers.start()
    in_merge(workers, running)
    worker.kill()
    workers.start(version="inspect")
    new = ("pin", "inspect", *STAGES[1:])
    service.enqueue("job3", JobSpec(RECIPE.format(tenths=1), "bob", "job3", stages=new), TOKEN)
    for id, user in ((running, "ann"), (waiting, "ann"), ("job3", "bob")):
        assert ended(service, id, user).error == ""
    before = ["pin", "fetch", "calibrate", "merge", "check", "publish"]
    assert trace(workers.home, running) == [*before[:4], *before[3:]]
    assert trace(workers.home, waiting) == before
    assert trace(workers.home, "job3") == ["pin", "inspect", *before[1:]]
    assert [stage.name for stage in service.get(waiting, "ann").stages] == list(STAGES)
    assert [stage.name for stage in service.get("job3", "bob").stages] == list(new)


def test_a_merge_that_gets_on_is_not_blamed_for_its_workers_end(tmp_path: Path) -> None:
    """A long one may be interrupted as often as it likes, as long as each start finishes another shard."""
    settings = Settings(home=tmp_path)
    runner, folder = Runner(settings, Store(settings), "host:0"), JobFolder(tmp_path, "job1")
    folder.create()
    for shards in range(5):
        write_atomically(folder.journal, json.dumps({"shards": dict.fromkeys(map(str, range(shards)), "")}))
        runner._count_start("merge", folder)
    for _ in range(2):
        runner._count_start("merge", folder)
    with pytest.raises(JobFailed, match="This job ended its worker 3 times: each time in the stage merge"):
        runner._count_start("merge", folder)


def hold_write_lock(path: str, seconds: float) -> None:
    """What a backup or an editor of databases may do."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    time.sleep(seconds)
    connection.execute("ROLLBACK")


@pytest.mark.slow
def test_a_locked_database_stops_nobody(workers: Workers, service: JobService) -> None:
    """The page says so within seconds, the stage goes on, and so do both when the lock is gone; nothing is redone."""
    id = queue(service, "job1", tenths=20)
    worker = workers.start()
    in_merge(workers, id)
    holder = multiprocessing.get_context("fork").Process(
        target=hold_write_lock, args=(str(workers.home / "jobs.sqlite"), LOCKED)
    )
    holder.start()
    time.sleep(0.2)
    began = time.monotonic()
    with pytest.raises(StoreAway, match="The job database does not answer: another process holds its lock"):
        service.get(id, "ann")
    assert time.monotonic() - began < LOCKED - 1
    holder.join()
    assert ended(service, id).status == "done"
    assert trace(workers.home, id) == ["pin", "fetch", "calibrate", "merge", "check", "publish"]
    assert worker.poll() is None
    assert "Traceback" not in workers.log


def average() -> dict[str, Any]:
    """Of both models."""
    models = [{"model": "ann/m0"}, {"model": "ann/m1"}]
    return {"merge_method": "average", "models": models, "output": {"repo_id": "ann/merged"}}


@pytest.mark.slow
def test_a_cancel_tells_that_the_commit_was_made_all_the_same(
    workers: Workers, service: JobService, ann: Hub, hub: LoopbackHub
) -> None:
    """It arrives while the Hub makes the commit: the disk is free at once, and a moment later the link is there."""
    hub.set_fault("/commit/", method="POST", hold=3.0)
    workers.start(fake=False)
    job = service.submit(recipe_from_dict(average()), ann)
    folder = JobFolder(workers.home, job.id)
    wait_for(lambda: ann.api.repo_exists("ann/merged"), 120, 0.02)
    wait_for(lambda: len(ann.api.list_repo_commits("ann/merged")) == 2, 60, 0.02)
    assert not folder.published.exists()
    began = time.monotonic()
    cancelled = service.cancel(job.id, "ann")
    assert (cancelled.status, cancelled.ended, cancelled.url) == ("cancelled", False, "")
    assert cancelled.left.startswith("It was being published: whether ann/merged is there already is being looked at")
    wait_for(lambda: not folder.output.exists(), 2)
    assert time.monotonic() - began < 2
    job = ended(service, job.id, seconds=30)
    assert (job.status, job.url, job.left) == ("cancelled", f"{hub.url}/ann/merged", "")
    assert job.commit == ann.api.model_info("ann/merged").sha
    wait_for(lambda: service._store.tokens.get(job.id) is None, 5)


def cancelled_in_publish(home: Path) -> JobFolder:
    """The folder of a job that had begun to publish."""
    folder = JobFolder(home, "job1")
    folder.create()
    folder.publishing.touch()
    folder.pinned.write_text(recipe_from_dict(average()).to_yaml())
    return folder


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (None, ""),
        ("empty", "ann/merged had been made and is empty."),
        ("somebody's", ""),
    ],
)
def test_what_a_cancelled_job_has_left_is_looked_at(
    there: str | None, sentence: str, ann: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No repo, an empty one, one that somebody has filled."""
    monkeypatch.setattr("jobs.settle.EVERY", 0.01)
    folder = cancelled_in_publish(tmp_path)
    assert words(folder, "ann/merged").endswith("is being looked at.")
    if there:
        ann.api.create_repo("ann/merged")
    if there == "somebody's":
        ann.api.upload_file(repo_id="ann/merged", path_or_fileobj=b"x", path_in_repo="x")
    request = {"token": ann.token, "endpoint": ann.endpoint, "scopes": None, "own_machine": False}
    list(settle(folder.path, request))
    assert words(folder, "ann/merged") == sentence
    assert not folder.published.exists()


def test_a_look_waits_less_than_the_worker_does() -> None:
    """A child that gives up by itself says why; nothing of its impatience is left."""
    before = patience.be(patience.WORK)
    try:
        with less_patient():
            now = patience.be(patience.WORK)
            assert now.trouble + 3 * now.read < SETTLE_SECONDS
            assert patience.TURNS * now.asked < SETTLE_SECONDS
            assert now.say is patience.WORK.say
    finally:
        patience.be(before)


@pytest.mark.slow
def test_the_token_of_a_cancelled_job_goes_whatever_the_hub_does(
    ann: Hub, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Hub that does not answer is asked once; then the token is gone, and the job says where to look."""
    monkeypatch.setattr("jobs.workflow.SETTLE_SECONDS", 4.0)
    hub.set_fault("/api/", delay=30.0, times=None)
    settings = Settings(home=tmp_path / "home")
    store, folder = Store(settings), cancelled_in_publish(tmp_path / "home")
    store.tokens.put(folder.id, str(ann.token))
    spec = JobSpec(recipe_from_dict(average()).to_yaml(), "ann", folder.id, ann.endpoint)
    Runner(settings, store, "host:0").settle(spec, folder)
    hub.clear_faults()
    assert store.tokens.get(folder.id) is None
    assert not is_unsettled(folder)
    assert words(folder, "ann/merged").endswith(
        "the Hub did not say how far it came: look whether ann/merged is there."
    )


@pytest.mark.slow
def test_a_worker_ends_with_its_page(workers: Workers, service: JobService) -> None:
    """However the page ends, the worker that it started sees its stdin close, and leaves nothing undone."""
    environment = os.environ | {"MERGE_HOME": str(workers.home), "MERGE_SECRET_KEY": SECRET}
    with (workers.home / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "cli.py", "worker", "--beside-page"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stderr=log,
        )
    wait_for(service.worker_alive)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(10) == 0
