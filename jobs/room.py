"""Room for the service itself: whose work goes when disk or memory run short.

The largest job that this worker runs is ended; where none can be, the oldest of those that failed and are kept goes.
"""

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from dbos import DBOSClient
from sqlalchemy.exc import SQLAlchemyError

from jobs.child import JobProcess
from jobs.job import JobFailed, JobFolder
from jobs.limits import disk_full, shortage
from jobs.store import Store
from jobs.upkeep import paused
from merging.errors import Problem

ROOM_LOCK = "room.lock"  # in the home folder: one worker makes room at a time
LOOK_EVERY = 0.25  # seconds
PAUSED_AFTER = 1.0  # seconds: what is short for so long is not mended by ending what runs
Running = Mapping[tuple[str, int], JobProcess]  # id of a job and of the thread that runs it -> child

log = logging.getLogger(__name__)


class Room:
    """What one worker keeps free: `reserve` bytes of the disk. No stage of those `running` is begun under `lock`."""

    def __init__(self, store: Store, client: DBOSClient, reserve: int, running: Running, lock: threading.Lock) -> None:
        self.reserve = reserve
        self._store, self._client, self._running, self._lock = store, client, running, lock
        self._short: dict[str, Problem] = {}  # jobs that had to make room

    def full(self) -> Problem | None:
        """The problem of a disk on which less than the reserve is free."""
        return disk_full(self._store.home, self.reserve)

    def shortage(self) -> Problem | None:
        """Why a running job must make room now, if one must."""
        return shortage(self._store.home, self.reserve)

    def raise_if_short(self, stage: str, id: str) -> None:
        """What is left to do of a job that publishes or cleans gives the disk back: that is done all the same."""
        problem = self._short.pop(id, None)
        if problem is not None and stage not in ("publish", "clean"):
            raise JobFailed(problem, stage)

    def forget(self, id: str) -> None:
        """The job has ended."""
        self._short.pop(id, None)

    def start(self, stopping: threading.Event) -> None:
        """Keep room until then, in a thread of its own: a step may be waiting for the job store, on that disk."""
        (self._store.home / ROOM_LOCK).touch()  # a full disk may have no place for it
        threading.Thread(target=self._keep, args=(stopping,), daemon=True).start()

    def make(self, problem: Problem) -> bool:
        """End the largest job that is not being published: that one needs no room and will soon give some back.

        False when none of this worker's can be ended.
        """
        with self._lock:
            running = {
                id: process
                for (id, _), process in self._running.items()
                if process.alive and process.stage not in ("publish", "settle")
            }
            if running:
                id = max(running, key=lambda id: JobFolder(self._store.home, id).size)
                self._short[id] = problem
                running[id].end()
                JobFolder(self._store.home, id).free(keep_output=_merge_is_done(running[id]))
        return bool(running)

    def _keep(self, stopping: threading.Event) -> None:
        since = time.monotonic()  # the last look at which there was room, or something could be ended
        while not stopping.wait(LOOK_EVERY):
            with suppress(OSError, SQLAlchemyError):  # a folder that goes just then; somebody else makes room
                if self.shortage() is None or self._alone(self.make):
                    since = time.monotonic()
                elif time.monotonic() - since > PAUSED_AFTER and self.full():
                    oldest = paused(self._store, self._client)[:1]  # asked without the lock: it may take long
                    self._alone(partial(self._give_up, oldest))
                    since = time.monotonic()

    def _alone(self, make: Callable[[Problem], bool]) -> bool:
        """Make room unless it was made meanwhile. Raises BlockingIOError while another worker of this machine does."""
        with (self._store.home / ROOM_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            problem = self.shortage()
            return problem is None or make(problem)

    def _give_up(self, ids: Sequence[str], problem: Problem) -> bool:
        """Delete all that is kept of jobs that wait for somebody to go on with them."""
        for id in ids:
            JobFolder(self._store.home, id).remove()
            log.warning("job %s cannot go on any more: %s", id, problem.what, extra={"job": id})
        return bool(ids)


def _merge_is_done(process: JobProcess) -> bool:
    """Whether the result is checked: there is only to evaluate and to publish it."""
    return process.stage == "evaluate" or (process.stage == "check" and process.answers.result is not None)
