"""The worker process: takes jobs from the queue and runs them, one executor id, one lock, one reaper.

    cli.py worker [--slot N]

A stop (SIGTERM, SIGINT) kills the running stage, which runs again at the next start; so does kill -9, whose
children end with their worker. A job of a worker that does not come back is taken over by any other one.
"""

import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Sequence

from dbos import DBOS, DBOSClient

from jobs.child import COMMAND
from jobs.store import QUEUE, ExecutorLock, Store, executor_id
from jobs.turns import take_turns
from jobs.upkeep import clean_expired, executors, stranded, sweep_tokens
from jobs.workflow import Runner
from merging.device import pick_device
from merging.errors import InputError
from settings import Settings

REAP_EVERY = 15.0  # seconds between two looks for jobs of dead workers
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
) -> None:
    """Work until a signal says stop, then end the process with status 0. Raises InputError when it cannot start.

    `slot` tells the workers of one machine apart. `polling` is the seconds between two looks at the queue.
    """
    pick_device(settings.device, "MERGE_DEVICE")  # each job would fail in the middle of its work
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold tokens
    try:
        store = Store(settings)
    except OSError as error:
        raise InputError(f"{settings.home} cannot be used", error.strerror or "", "Set MERGE_HOME") from None
    executor = executor_id(slot)
    lock = _lock(store, executor)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
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
    threading.Thread(target=_upkeep, args=(settings, store, executor, reap_every), daemon=True).start()
    log.info("worker %s waits for jobs", executor)
    stop.wait()
    runner.stop()
    DBOS.destroy()
    lock.release()
    os._exit(0)


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


def _upkeep(settings: Settings, store: Store, executor: str, every: float) -> None:
    """Take over the jobs of dead workers, delete leftover tokens and expired jobs, name jobs nobody can run."""
    client = store.client()
    cleaned = 0.0
    known: set[str] = set()
    while True:
        time.sleep(every)
        try:
            reap(store, client, executor)
            sweep_tokens(store, client)
            for id in set(stranded(client)) - known:
                known.add(id)
                log.warning("no worker of this version can run job %s", id)
            if time.monotonic() - cleaned > CLEAN_EVERY or not cleaned:
                clean_expired(store, client, settings.keep_days)
                cleaned = time.monotonic()
        except Exception:  # the database may be away for a while
            log.warning("upkeep failed, trying again", exc_info=True)


def reap(store: Store, client: DBOSClient, executor: str) -> None:
    """Return the running jobs of every other executor to the queue whose lock nobody holds."""
    for other in executors(client) - {executor}:
        lock = store.executor_lock(other)
        if lock.acquire():
            try:
                DBOS._recover_pending_workflows([other])
                log.warning("took over the jobs of %s", other)
            finally:
                lock.release()
