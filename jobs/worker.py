"""The worker process: takes jobs from the queue and runs them, one executor id, one lock, one reaper.

    cli.py worker [--slot N]

A stop (SIGTERM, SIGINT) kills the running stage, which runs again at the next start; so does kill -9, whose
children end with their worker. A job of a worker that does not come back is taken over by any other one. While the
database is away the running stage goes on, and the worker with it when the database is back.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from jobs.child import COMMAND, keep_memory_private
from jobs.store import QUEUE, ExecutorLock, Store, executor_id, reason_of
from jobs.takeover import LockLost, TakeOver
from jobs.turns import take_turns
from jobs.upkeep import clean_expired, stranded, sweep_folders, sweep_tokens
from jobs.workflow import Runner
from merging.device import pick_device
from merging.errors import InputError
from settings import Settings

REAP_EVERY = 5.0  # seconds between two looks for jobs of dead workers: they are taken over at the second
KEEP_EVERY = 0.3  # of that, between two looks at our own lock
CLEAN_EVERY = 3600.0  # seconds between two deletions of expired jobs
LOCK_PATIENCE = 3.0  # seconds: a reaper may hold the lock of a worker that comes back

log = logging.getLogger(__name__)


def run_worker(
    settings: Settings,
    *,
    slot: int = 0,
    command: Sequence[str] = COMMAND,
    reap_every: float = REAP_EVERY,
    polling: float = 1.0,
    beside_page: bool = False,
) -> None:
    """Work until a signal says stop, then end the process with status 0. Raises InputError when it cannot start.

    `slot` tells the workers of one machine apart. `polling` is the seconds between two looks at the queue. One that
    was started `beside_page` also stops when its stdin closes: the page has ended, however it did.
    """
    pick_device(settings.device, "MERGE_DEVICE")  # each job would fail in the middle of its work
    keep_memory_private()
    try:
        store = Store(settings)
    except OSError as error:
        raise InputError(f"{settings.home} cannot be used", error.strerror or "", "Set MERGE_HOME") from None
    executor = executor_id(slot)
    lock = _lock(store, executor)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if beside_page:
        threading.Thread(target=_stop_with_page, args=(stop,), daemon=True).start()
    runner = Runner(settings, store, executor, command)
    take_turns()
    DBOS(config=store.config(executor))
    runner.register()
    DBOS.listen_queues([QUEUE])
    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        worker_concurrency=settings.job_slots,
        partition_concurrency=1,
        polling_interval_sec=polling,
        on_conflict="always_update",
    )
    takeover = TakeOver(store, store.client(), executor, lock)
    _again_and_again(reap_every, _upkeep(settings, store, takeover))
    _again_and_again(reap_every, partial(sweep_tokens, store, store.client(), runner.settle))  # it may wait for the Hub
    _again_and_again(reap_every * KEEP_EVERY, lambda: _keep_lock(takeover, runner))
    log.info("worker %s waits for jobs", executor)
    stop.wait()
    _end(runner, 0)


def _stop_with_page(stop: threading.Event) -> None:
    """Stop when nobody holds the other end of stdin any more."""
    sys.stdin.read()
    stop.set()


def _end(runner: Runner, status: int) -> NoReturn:
    """End this process and the children, and nothing else: what DBOS would do takes long while its database is away."""
    runner.stop()
    os._exit(status)


def _lock(store: Store, executor: str) -> ExecutorLock:
    """The lock of this executor; it is lost with the object."""
    lock = store.executor_lock(executor)
    deadline = time.monotonic() + LOCK_PATIENCE
    while not lock.acquire():
        if time.monotonic() > deadline:
            raise InputError(
                f"A worker {executor} is already running", "two would run the same jobs twice", "Give it another --slot"
            )
        time.sleep(0.1)
    return lock


def _again_and_again(every: float, work: Callable[[], object]) -> None:
    """Do this every so many seconds in a thread of its own, also after it went wrong."""

    def run() -> None:
        away = False
        while True:
            time.sleep(every)
            try:
                work()
                away = False
            except SQLAlchemyError as error:
                if not away:
                    log.warning("the job database does not answer: %s", reason_of(error))
                away = True
            except Exception:
                log.warning("upkeep failed, trying again", exc_info=True)

    threading.Thread(target=run, daemon=True).start()


def _upkeep(settings: Settings, store: Store, takeover: TakeOver) -> Callable[[], None]:
    """Take over the jobs of dead workers, delete expired jobs, name jobs nobody can run."""
    client = store.client()
    cleaned = 0.0
    known: set[str] = set()

    def work() -> None:
        nonlocal cleaned
        takeover.look()
        for id in set(stranded(client)) - known:
            known.add(id)
            log.warning("no worker of this version can run job %s", id)
        if time.monotonic() - cleaned > CLEAN_EVERY or not cleaned:
            clean_expired(store, client, settings.keep_days)
            sweep_folders(store, client)
            cleaned = time.monotonic()

    return work


def _keep_lock(takeover: TakeOver, runner: Runner) -> None:
    """Our lock again after the database was away; the end where another process has it."""
    try:
        takeover.keep_lock()
    except LockLost:
        log.error("another process has the lock of this worker: it ends")
        _end(runner, 1)
