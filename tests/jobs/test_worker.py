"""Workers as real processes: killed, stopped, doubled, cancelled."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from jobs.job import EVALUATED_STAGES, JobFolder, read_json
from jobs.service import JobService
from jobs.store import QUEUE, executor_id
from jobs.worker import run_worker
from merging.errors import InputError
from settings import Settings
from tests.jobs.processes import Workers, alive, ended, in_merge, queue, trace, wait_for

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test


def test_a_killed_worker_goes_on_where_it_was(workers: Workers, service: JobService) -> None:
    """After kill -9 in merge the finished stages are not redone, merge starts again."""
    id = queue(service, "job1", tenths=30)
    worker = workers.start()
    helper = in_merge(workers, id)
    worker.kill()
    wait_for(lambda: not alive(helper), 2)
    (JobFolder(workers.home, id).path / "helper").unlink()
    workers.start()
    in_merge(workers, id)
    job = ended(service, id)
    assert job.status == "done"
    assert trace(workers.home, id) == ["pin", "fetch", "calibrate", "merge", "merge", "check", "publish"]


def test_what_is_done_once_more_is_done_to_its_end(workers: Workers, service: JobService) -> None:
    """On a new disk the earlier stages are done again, all of them also when the worker is killed in these.

    An evaluation that fails then costs the merge no more than it does the first time.
    """
    id = queue(service, "job1", tenths=12, fail_in="evaluate, slow publish", stages=EVALUATED_STAGES)
    folder = JobFolder(workers.home, id)
    worker = workers.start()
    wait_for(lambda: "publish" in trace(workers.home, id))
    worker.kill()
    worker.wait()
    shutil.rmtree(folder.path)
    worker = workers.start()
    in_merge(workers, id)
    worker.kill()
    worker.wait()
    workers.start()
    job = ended(service, id)
    assert (job.status, job.error) == ("done", "")
    stages = list(EVALUATED_STAGES[:-1])
    assert trace(workers.home, id) == [*stages[:4], *stages]
    assert not folder.again.exists()
    assert "evaluate went wrong" in str(read_json(folder.report)["evaluation"]["notes"])


def test_a_running_job_tells_its_speed_and_its_log_a_line_now_and_then(workers: Workers, service: JobService) -> None:
    """Ten steps a second: the owner reads speed and time left, and the log a line for each tenth of the way."""
    id = queue(service, "job1", tenths=60)
    workers.start()
    in_merge(workers, id)
    wait_for(lambda: (job := service.get(id, "ann")).progress and job.progress.speed)
    progress = service.get(id, "ann").progress
    assert progress is not None
    assert 5 < (progress.speed or 0) < 15
    assert 0 < (progress.left or 0) < 6
    assert ended(service, id).status == "done"
    lines = [line["message"] for line in service.log(id, "ann") if " of 60 steps" in line["message"]]
    assert 4 <= len(lines) <= 10
    assert lines[0].startswith("secret ***: ")
    assert "steps/s, about" in lines[-1] or "steps/s, a few seconds left" in lines[-1]


def test_children_die_with_their_worker(workers: Workers, service: JobService) -> None:
    """kill -9 of the worker ends the stage's process and what that one started."""
    id = queue(service, "job1", tenths=600)
    worker = workers.start()
    helper = in_merge(workers, id)
    group = os.getpgid(helper)
    worker.kill()
    wait_for(lambda: not alive(helper) and not alive(group), 2)


def test_a_second_worker_of_the_same_id_is_refused(workers: Workers, service: JobService) -> None:
    """It says so and ends; the first one stays."""
    first = workers.start()
    wait_for(service.worker_alive)
    second = workers.start()
    assert second.wait(30) == 1
    assert f"A worker {executor_id(0)} is already running" in (workers.home / "worker.log").read_text()
    assert first.poll() is None


def test_a_living_worker_takes_over_from_a_dead_one(workers: Workers, service: JobService) -> None:
    """With two workers alive the job of the killed one is run by the other, the other's own job once."""
    first, second = queue(service, "job1", user="ann", tenths=40), queue(service, "job2", user="bob", tenths=60)
    processes = {0: workers.start(0), 1: workers.start(1)}
    for id in (first, second):
        in_merge(workers, id)
    began = service.log(first, "ann")[0]["message"]
    slot = int(began.rpartition(":")[2])
    processes[slot].kill()
    assert ended(service, first).status == "done"
    assert ended(service, second, "bob").status == "done"
    assert trace(workers.home, first).count("merge") == 2
    assert trace(workers.home, second).count("merge") == 1
    last = [line["message"] for line in service.log(first, "ann") if "started on" in line["message"]][-1]
    assert last.endswith(f":{1 - slot}")


def test_cancel_of_a_running_job_stops_it_within_two_seconds(workers: Workers, service: JobService) -> None:
    """The children are gone, so are the token and the output; the job says cancelled."""
    id = queue(service, "job1", tenths=600)
    workers.start()
    helper = in_merge(workers, id)
    began = time.monotonic()
    assert service.cancel(id, "ann").status == "cancelled"
    wait_for(lambda: not alive(helper), 2)
    assert time.monotonic() - began < 2
    wait_for(lambda: not JobFolder(workers.home, id).output.exists(), 2)
    wait_for(lambda: service._store.tokens.get(id) is None, 2)
    assert service.get(id, "ann").status == "cancelled"
    queue(service, "job2")
    assert ended(service, "job2").status == "done"
    [about] = [line for line in workers.log.splitlines() if id in line and not line.startswith("INFO")]
    assert "WARNING" in about
    assert about.endswith(f"job {id} ended here: it was cancelled")
    assert "Traceback" not in workers.log


def test_cancel_of_a_waiting_job_is_immediate(workers: Workers, service: JobService) -> None:
    """It never starts, and its token is gone."""
    id = queue(service, "job1")
    assert service.cancel(id, "ann").status == "cancelled"
    assert service._store.tokens.get(id) is None
    workers.start()
    queue(service, "job2")
    ended(service, "job2")
    assert trace(workers.home, id) == []


def test_a_stopped_worker_leaves_at_once_and_goes_on_later(workers: Workers, service: JobService) -> None:
    """SIGTERM ends worker and children with status 0; the next worker redoes the running stage only."""
    id = queue(service, "job1", tenths=25)
    worker = workers.start()
    helper = in_merge(workers, id)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert time.monotonic() - began < 5
    wait_for(lambda: not alive(helper), 1)
    assert not JobFolder(workers.home, id).starts.exists()
    workers.start()
    assert ended(service, id).status == "done"
    assert trace(workers.home, id) == ["pin", "fetch", "calibrate", "merge", "merge", "check", "publish"]


def test_a_job_that_kills_its_worker_three_times_ends(workers: Workers, service: JobService) -> None:
    """Its reason says so; the fourth worker lives on."""
    id = queue(service, "job1", tenths=600)
    for _ in range(3):
        worker = workers.start()
        in_merge(workers, id)
        worker.kill()
        worker.wait()
        (JobFolder(workers.home, id).path / "helper").unlink()
    last = workers.start()
    job = ended(service, id)
    assert job.status == "failed"
    assert job.error.startswith("This job ended its worker 3 times: each time in the stage merge")
    assert last.poll() is None


def test_a_failed_stage_says_why_without_secrets(workers: Workers, service: JobService) -> None:
    """The sentence of the stage reaches the owner, the token does not; the disk is given back."""
    workers.start()
    job = ended(service, queue(service, "job1", fail_in="check"))
    assert job.error == "check went wrong with ***: it was told to. Tell it otherwise."
    assert {stage.name: stage.status for stage in job.stages}["check"] == "failed"
    assert not job.publishable
    assert not JobFolder(workers.home, job.id).output.exists()
    assert f"job {job.id} ended here: check went wrong with ***: it was told to. Tell it otherwise." in workers.log
    assert (workers.log.count("ended here"), "Traceback" in workers.log) == (1, False)


def test_an_unexpected_error_keeps_its_traceback(workers: Workers, service: JobService) -> None:
    """In the worker's log, once; the owner reads one sentence."""
    workers.start(command=["/nowhere/at/all"])
    job = ended(service, queue(service, "job1"))
    assert job.error.startswith("The stage pin failed: FileNotFoundError: ")
    assert workers.log.count("Traceback") == 1
    assert "in _execute_child" in workers.log


def test_an_unforeseen_error_of_a_stage_is_named(workers: Workers, service: JobService) -> None:
    """By its kind and without the token to the owner; where it happened to the operator."""
    workers.start()
    job = ended(service, queue(service, "job1", fail_in="unforeseen in fetch"))
    assert job.error == (
        "The stage fetch failed: LookupError: nobody foresaw ***. Run the job again, or tell the operator."
    )
    assert not job.publishable
    assert "in run" in "".join(line["message"] for line in service.log(job.id, "ann"))


def test_a_failed_publication_keeps_the_result(workers: Workers, service: JobService) -> None:
    """Output stays, parents and token go, and the job says that it can be published."""
    workers.start()
    job = ended(service, queue(service, "job1", fail_in="publish"))
    assert (job.status, job.publishable) == ("failed", True)
    assert service._store.tokens.get(job.id) is None


def test_a_job_nobody_can_run_is_told(service: JobService) -> None:
    """An unknown workflow, queue or version is named instead of waiting for ever."""
    queue(service, "good")
    options = {"authenticated_user": "ann", "queue_partition_key": "ann", "priority": 5}
    client = service._client
    client.enqueue(options | {"workflow_name": "elsewhere", "queue_name": QUEUE, "workflow_id": "badname"}, {})
    spec = {"recipe_yaml": service.get("good", "ann").recipe_yaml, "user": "ann", "token_ref": "badqueue"}
    client.enqueue(options | {"workflow_name": "merge", "queue_name": "nowhere", "workflow_id": "badqueue"}, spec)
    client.enqueue(
        options | {"workflow_name": "merge", "queue_name": QUEUE, "workflow_id": "badversion", "app_version": "0"}, spec
    )
    assert set(service.stranded()) == {"badname", "badqueue", "badversion"}
    assert service.get("badqueue", "ann").error.startswith("No worker can run this job")
    assert service.get("good", "ann").status == "waiting"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_worker_without_the_gpu_it_was_told_to_use_does_not_start(tmp_path: Path) -> None:
    """Instead of failing in the middle of each job; nothing is made."""
    with pytest.raises(InputError, match=r"MERGE_DEVICE cuda: this machine has none that torch can use"):
        run_worker(Settings(home=tmp_path / "home", device="cuda"))
    assert not (tmp_path / "home").exists()
