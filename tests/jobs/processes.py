"""Real worker processes, started and killed as such."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.job import Job, JobFolder, JobSpec
from jobs.service import JobService
from settings import Settings
from tests.jobs.nursery import Forked, nursery

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TOKEN = "hf_plantedtokenplantedtoken"
SECRET = "a long secret of the tests"
RECIPE = (
    "merge_method: average\nmodels:\n- model: a/one\n- model: a/two\nseed: {tenths}\noutput:\n  repo_id: ann/merged\n"
)


class Workers:
    """Starts workers on a home folder and ends those that are left."""

    def __init__(self, home: Path, database_url: str | None = None) -> None:
        self.home = home
        self.settings = Settings(home=home, database_url=database_url, jobs_per_user=50, secret_key=SECRET)
        self._all: list[Forked] = []

    def start(
        self,
        slot: int = 0,
        *,
        fake: bool = True,
        endpoint: str | None = None,
        command: Sequence[str] = (),
        home: Path | None = None,
        version: str = "",
    ) -> Forked:
        """A worker process; its own words go to `worker.log` in the home. `command` starts its stages.

        `home` is another machine's; a `version` of the code has a stage of that name after the first.
        """
        command = command or ([sys.executable, str(HERE / "fake_stages.py")] if fake else [])
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment |= {"HF_ENDPOINT": endpoint} if endpoint else {}
        environment |= {"MERGE_SECRET_KEY": SECRET, "WORKER_VERSION": version}
        if self.settings.database_url:
            environment["MERGE_DATABASE_URL"] = self.settings.database_url
        arguments = [str(home or self.home), str(slot), *command]
        process = nursery().fork(arguments, environment, self.home / "worker.log")
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


def queue(
    service: JobService,
    id: str,
    *,
    user: str = "ann",
    tenths: int = 1,
    fail_in: str = "",
    stages: tuple[str, ...] = (),
) -> str:
    """Queue a job for the fake stages, past the checks of `submit`; by default it has the stages of its recipe."""
    text = RECIPE.format(tenths=tenths) + (f"  root: {fail_in}\n" if fail_in else "")
    service.enqueue(id, JobSpec(text, user, id, stages=stages), TOKEN)
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


def in_merge(workers: Workers, id: str) -> int:
    """Wait until the stage merge has started a helper process; its pid."""
    helper = JobFolder(workers.home, id).path / "helper"
    return int(wait_for(lambda: helper.exists() and helper.read_text()))


def alive(pid: int) -> bool:
    """True for a process that runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
