"""Whether a service can do its work now, for whoever watches it: the reasons why it cannot."""

import threading

import sqlalchemy as sa

from jobs.limits import disk_full
from jobs.store import Store, a_worker_lives

PATIENCE = 3.0  # seconds that the job store may take to answer
AWAY = "The job store does not answer."


class Readiness:
    """One look is under way at a time, however many ask; who asks waits for it, and for its turn, only so long."""

    def __init__(self, store: Store, reserve: int) -> None:
        self._store, self._reserve = store, reserve
        self._lock = threading.Lock()
        self._looking: threading.Thread | None = None
        self._answered = self._worker = False

    def reasons(self) -> tuple[str, ...]:
        """One sentence for each thing that is missing; none when all is well."""
        if not self._lock.acquire(timeout=PATIENCE):
            return (AWAY,)
        try:
            if self._looking is None or not self._looking.is_alive():
                self._answered = False
                self._looking = threading.Thread(target=self._look, daemon=True)
                self._looking.start()
            self._looking.join(PATIENCE)
            if not self._answered:
                return (AWAY,)
            found = [] if self._worker else ["No worker is running."]
        finally:
            self._lock.release()
        full = disk_full(self._store.home, self._reserve)
        return (*found, str(full)) if full else tuple(found)

    def _look(self) -> None:
        try:
            with self._store.engine.begin() as connection:
                connection.execute(sa.text("SELECT 1"))
            self._worker = a_worker_lives(self._store)
            self._answered = True
        except Exception:  # whatever it is, jobs cannot be stored now
            return
