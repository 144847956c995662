"""The entrance keeps one worker alive."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from app import WorkerKeeper

WORKER = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(60)"


def workers(file: Path, count: int) -> list[int]:
    """The ids of the workers that have started, once there are `count`."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        started = [int(line) for line in file.read_text().split()] if file.exists() else []
        if len(started) >= count:
            return started
        time.sleep(0.05)
    raise AssertionError(f"{count} workers did not start")


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_a_killed_worker_is_followed_by_another(tmp_path: Path) -> None:
    """And the last one ends with the page."""
    file = tmp_path / "pids"
    keeper = WorkerKeeper([sys.executable, "-c", WORKER, str(file)])
    keeper.start()
    first = workers(file, 1)[0]
    os.kill(first, signal.SIGKILL)
    second = workers(file, 2)[1]
    assert gone(first)
    assert not gone(second)
    keeper.stop()
    assert gone(second)
    assert len(workers(file, 2)) == 2


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_not_started_in_a_hurry(tmp_path: Path) -> None:
    """Each start waits longer than the one before."""
    file = tmp_path / "pids"
    keeper = WorkerKeeper([sys.executable, "-c", WORKER.replace("time.sleep(60)", "sys.exit(2)"), str(file)])
    keeper.start()
    time.sleep(4)
    keeper.stop()
    assert len(workers(file, 1)) == 2  # at 0 and about 2 seconds; the third would come at about 6
