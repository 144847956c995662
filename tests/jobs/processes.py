"""Real worker processes, started and killed as such."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.job import Job, JobFolder, JobSpec
from jobs.service import JobService
from settings import Settings

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TOKEN = "hf_plantedtokenplantedtoken"
RECIPE = (
    "merge_method: average\nmodels:\n- model: a/one\n- model: a/two\nseed: {tenths}\noutput:\n  repo_id: ann/merged\n"
)


class Workers:
    """Starts workers on a home folder and ends those that are left."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings = Settings(home=home, jobs_per_user=50)
        self._all: list[subprocess.Popen[bytes]] = []

    def start(
        self, slot: int = 0, *, fake: bool = True, endpoint: str | None = None, command: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """A worker process; its own words go to `worker.log` in the home. `command` starts its stages."""
        command = command or ([sys.executable, str(HERE / "fake_stages.py")] if fake else [])
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment |= {"HF_ENDPOINT": endpoint} if endpoint else {}
        with (self.home / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "worker_process.py"), str(self.home), str(slot), *command],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self._all.append(process)
        return process

    @property
    def log(self) -> str:
        """What all workers have said so far."""
        return (self.home / "worker.log").read_text()

    def stop(self) -> None:
        """Kill what is left."""
        for process in self._all:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def queue(service: JobService, id: str, *, user: str = "ann", tenths: int = 1, fail_in: str = "") -> str:
    """Queue a job for the fake stages, past the checks of `submit`."""
    text = RECIPE.format(tenths=tenths) + (f"  root: {fail_in}\n" if fail_in else "")
    service.enqueue(id, JobSpec(text, user, id), TOKEN)
    return id


def wait_for(what: Callable[[], Any], seconds: float = 90.0, every: float = 0.02) -> Any:
    """The first true answer, or a failed test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(every)
    raise AssertionError(f"waited {seconds} s in vain")


def ended(service: JobService, id: str, user: str = "ann", seconds: float = 120.0) -> Job:
    """The job after its end."""
    wait_for(lambda: service.get(id, user).ended, seconds, 0.1)
    return service.get(id, user)


def trace(home: Path, id: str) -> list[str]:
    """The stages that were started, in order."""
    path = JobFolder(home, id).path / "trace"
    return path.read_text().split() if path.exists() else []


def alive(pid: int) -> bool:
    """True for a process that runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
