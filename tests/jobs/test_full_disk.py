"""A disk that fills up ends one job with a sentence; service, job store and the next job live on."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.job import JobFolder, JobSpec
from jobs.limits import DAY, Limits, Needs, disk_full, shortage
from jobs.service import JobService
from jobs.store import Store
from merging import machine
from merging.errors import InputError
from settings import Settings
from tests.jobs.disks import disk_of
from tests.jobs.processes import HERE, RECIPE, TOKEN, Workers, ended

FILLING = [sys.executable, str(HERE / "filling_stages.py")]
SIZE, RESERVE = 48_000_000, 16_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB as home; only root can make one."""
    with disk_of(SIZE, tmp_path / "small") as place:
        yield place


@pytest.fixture
def workers(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """Workers on it; a third of it is the reserve."""
    monkeypatch.setenv("MERGE_DISK_RESERVE", str(RESERVE))
    running = Workers(small_disk)
    yield running
    running.stop()
    print(running.log)


@pytest.mark.slow
def test_a_job_that_fills_the_disk_ends_and_the_next_one_works(workers: Workers, service: JobService) -> None:
    """Bit by bit it is ended before the reserve is used up; at a stroke by the disk itself. Its files go at once."""
    worker = workers.start(command=FILLING)
    said = {}
    for id in ("slow1", "plain1", "fast1", "plain2"):
        service.enqueue(id, JobSpec(RECIPE.format(tenths=1), "ann", id), TOKEN)
        job = ended(service, id, seconds=40)
        said[id] = job.error
        assert job.status == ("done" if id.startswith("plain") else "failed")
        assert JobFolder(workers.home, id).size < 100_000
        assert disk_full(workers.home, RESERVE) is None
    full = "The disk of this service is full: less than 16 MB are free, which are kept for the service itself. "
    assert {said["slow1"], said["fast1"]} == {full + "Try again later, or take smaller models."}
    assert worker.poll() is None
    assert "Traceback" not in workers.log


@pytest.mark.slow
def test_nothing_is_taken_while_the_disk_is_full(workers: Workers, service: JobService) -> None:
    """A job that is queued already says so when its turn comes, instead of failing somewhere."""
    limits = Limits(workers.settings, service._store)
    (workers.home / "other").write_bytes(b"x" * (SIZE - RESERVE))
    assert limits.free == 0
    with pytest.raises(InputError, match="The disk of this service is full"):
        limits.check_bytes("ann", Needs(1, 1))
    service.enqueue("plain", JobSpec(RECIPE.format(tenths=1), "ann", "plain"), TOKEN)
    workers.start(command=FILLING)
    assert ended(service, "plain", seconds=40).error.startswith("The disk of this service is full")


def test_memory_that_runs_out_ends_a_job_before_the_system_ends_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is available is the machine's, or what a container's limit leaves; files that can be dropped count."""
    assert shortage(tmp_path, 1) is None
    group = tmp_path / "cgroup"
    group.mkdir()
    for name, text in {
        "memory.max": "2000000000\n",
        "memory.current": "1900000000\n",
        "memory.stat": "anon 1\ninactive_file 50000000\n",
    }.items():
        (group / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUPS", ((group, "memory.max", "memory.current"),))
    assert machine.available_memory() == 150_000_000
    problem = shortage(tmp_path, 1)
    assert problem is not None
    assert str(problem).startswith("The memory of this service ran out: 150 MB are left, and the service itself")
    (group / "memory.max").write_text("max\n")
    assert machine.available_memory() > 150_000_000


def test_limits_are_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of one and of all, the disk of one job, the bytes of a day; a day later they count no more."""
    settings = Settings(home=tmp_path, jobs_per_user=3, jobs_at_most=9, job_disk="2GB", bytes_per_day="10GB")
    limits = Limits(settings, Store(settings))
    limits.check_jobs(2, 8)
    limits.check_jobs(0, 0, paused=2)
    limits.check_bytes("ann", Needs(2 * 10**9, 10**10))
    limits.note("job1", "ann", 9 * 10**9)
    for call, sentence in {
        lambda: limits.check_jobs(
            3, 3
        ): "You have 3 jobs waiting or running: each user may have 3. Wait for one to end",
        lambda: limits.check_jobs(1, 1, paused=2): (
            "You have too many jobs: 1 waiting or running and 2 that failed and are kept make 3 of 3. Go on with one"
        ),
        lambda: limits.check_jobs(0, 9): "9 jobs are waiting or running already: this service takes no more at a time",
        lambda: limits.check_bytes("ann", Needs(3 * 10**9, 1)): (
            "This job is too large for this service: it needs 3.0 GB of disk at a time, one job may take 2.0 GB"
        ),
        lambda: limits.check_bytes("ann", Needs(1, 2 * 10**9)): (
            "That is more than one user may move in a day: your jobs of the last 24 hours moved 9.0 GB, this one adds"
        ),
    }.items():
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value).startswith(sentence)
    limits.check_bytes("bob", Needs(1, 2 * 10**9))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + DAY + 1)
    limits.check_bytes("ann", Needs(1, 2 * 10**9))
