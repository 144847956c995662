"""Who runs what: a worker keeps the lock that says it lives, and takes over the jobs of those that do not.

DBOS recovers the jobs of a worker at that worker's next start, and never at another's; and it knows nothing of a job
that it claimed in the moment in which the database went away. A lock on Postgres is lost when the server restarts
although its worker lives: so a worker counts as dead only when its lock was free at two looks, and looks after its
own lock more often than that.
"""

import logging
from collections.abc import Iterable

from dbos import DBOS, DBOSClient
from dbos._dbos import _get_dbos_instance

from jobs.store import QUEUE, ExecutorLock, Store
from jobs.upkeep import executors

LOOKS = 2  # in a row at which a lock must be free, or a job of ours must not run, before it is taken
PATIENCE = 5  # looks in a row at which another one has our lock

log = logging.getLogger(__name__)


class LockLost(Exception):
    """Another process has the lock of this worker: it must not go on."""


class TakeOver:
    """What one worker knows of the others, from look to look."""

    def __init__(self, store: Store, client: DBOSClient, executor: str, lock: ExecutorLock) -> None:
        self._store = store
        self._client = client
        self._executor = executor
        self._lock = lock
        self._refused = 0
        self._seen: dict[str, int] = {}  # name of a worker or id of a job -> looks in a row at which it seemed dead

    def keep_lock(self) -> None:
        """Have the lock, again if need be. Raises LockLost, and SQLAlchemyError while the database is away."""
        if self._lock.is_held() or self._lock.acquire():
            self._refused = 0
            return
        self._refused += 1
        if self._refused >= PATIENCE:
            raise LockLost(self._executor)

    def look(self) -> None:
        """Return the jobs of dead workers to the queue, and those of ours that this process does not run."""
        dead = [other for other in executors(self._client) - {self._executor} if self._is_dead(other)]
        forgotten = self._forgotten()
        surely = self._count([*dead, *forgotten])
        for other in surely.intersection(dead):
            self._take(other)
        for id in surely.intersection(forgotten):
            _get_dbos_instance()._sys_db.reenqueue_for_recovery(id, [self._executor], QUEUE)
            log.warning("job %s was ours and nobody ran it: queued again", id)

    def _count(self, found: Iterable[str]) -> set[str]:
        """Those found at the last looks too; who was not found now begins anew."""
        self._seen = {name: self._seen.get(name, 0) + 1 for name in found}
        return {name for name, looks in self._seen.items() if looks >= LOOKS}

    def _is_dead(self, other: str) -> bool:
        lock = self._store.executor_lock(other)
        free = lock.acquire()
        lock.release()
        return free

    def _take(self, other: str) -> None:
        lock = self._store.executor_lock(other)
        if lock.acquire():  # else it has come back
            try:
                DBOS._recover_pending_workflows([other])
                log.warning("took over the jobs of %s", other)
            finally:
                lock.release()

    def _forgotten(self) -> list[str]:
        """Running jobs of this worker that it does not run."""
        found = self._client.list_workflows(
            status="PENDING", executor_id=self._executor, queue_name=QUEUE, load_input=False, load_output=False
        )
        running = set(_get_dbos_instance()._active_workflows_set.activeList())
        return [status.workflow_id for status in found if status.workflow_id not in running]
