"""What one person, and all together, may ask of a service: jobs, bytes, and the part of the disk that is nobody's."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from jobs.store import Store
from jobs.tokens import METADATA
from merging.errors import InputError, Problem
from merging.machine import available_memory
from merging.progress import size
from settings import Settings, parse_size

DAY = 86_400.0  # seconds
MEMORY_RESERVE = 200_000_000  # bytes: with less, the system kills what it likes
USAGE = sa.Table(
    "merge_usage",
    METADATA,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("person", sa.Text, nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)


def room(home: Path, reserve: int) -> int:
    """Bytes that jobs may still write on the disk of `home`; below 0 when the reserve is touched."""
    return shutil.disk_usage(home).free - reserve


def disk_full(home: Path, reserve: int) -> Problem | None:
    """The problem of a disk on which less than the reserve is free: the job store must always be writable."""
    if room(home, reserve) >= 0:
        return None
    why = f"less than {size(reserve)} are free, which are kept for the service itself"
    return Problem("The disk of this service is full", why, "Try again later, or take smaller models")


def shortage(home: Path, reserve: int) -> Problem | None:
    """Why a running job must make room now: for the disk, or for the memory of the service."""
    memory = available_memory()
    if 0 < memory < MEMORY_RESERVE:
        why = f"{size(memory)} are left, and the service itself needs some"
        return Problem("The memory of this service ran out", why, "Try again later, or take smaller models")
    return disk_full(home, reserve)


@dataclass(frozen=True)
class Needs:
    """What a job takes, in bytes: of the disk at a time, and moved from and to the Hub altogether."""

    disk: int
    moved: int


class Limits:
    """The limits of the settings, looked at when a job is submitted."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._reserve = parse_size(settings.disk_reserve)

    @property
    def free(self) -> int:
        """Bytes of the disk that a job may use."""
        return max(0, room(self._store.home, self._reserve))

    def check_jobs(self, mine: int, active: int, paused: int = 0) -> None:
        """No more jobs than allowed: of one person, and together. Raises InputError.

        `paused` of this person's have failed and keep their files on this disk so as to go on (`upkeep.paused`).
        """
        limit = self._settings.jobs_per_user
        if paused and mine + paused >= limit:
            raise InputError(
                "You have too many jobs",
                f"{mine} waiting or running and {paused} that failed and are kept make {mine + paused} of {limit}",
                "Go on with one that is kept, or give it up",
            )
        if mine >= limit:
            raise InputError(
                f"You have {mine} jobs waiting or running",
                f"each user may have {limit}",
                "Wait for one to end, or cancel one",
            )
        if active >= self._settings.jobs_at_most:
            raise InputError(
                f"{active} jobs are waiting or running already",
                "this service takes no more at a time",
                "Try again in an hour",
            )

    def check_bytes(self, person: str, needs: Needs) -> None:
        """Room for what a job needs. Raises InputError."""
        disk, nbytes = needs.disk, needs.moved
        full = disk_full(self._store.home, self._reserve)
        if full is not None:
            raise InputError.of([full])
        most = self._settings.job_disk and parse_size(self._settings.job_disk)
        if most and disk > most:
            why = f"it needs {size(disk)} of disk at a time, one job may take {size(most)}"
            raise InputError("This job is too large for this service", why, "Take smaller models, or run it yourself")
        daily = self._settings.bytes_per_day and parse_size(self._settings.bytes_per_day)
        if daily and (used := self._used(person)) + nbytes > daily:
            why = f"your jobs of the last 24 hours moved {size(used)}, this one adds {size(nbytes)} of {size(daily)}"
            raise InputError("That is more than one user may move in a day", why, "Try again tomorrow")

    def note(self, job: str, person: str, nbytes: int) -> None:
        """Remember what a job is going to move; what was a day ago is forgotten."""
        row = {"job": job, "person": person, "created": time.time(), "bytes": nbytes}
        with self._store.engine.begin() as connection:
            connection.execute(sa.delete(USAGE).where((USAGE.c.job == job) | (USAGE.c.created < time.time() - DAY)))
            connection.execute(sa.insert(USAGE).values(**row))

    def _used(self, person: str) -> int:
        query = sa.select(sa.func.coalesce(sa.func.sum(USAGE.c.bytes), 0))
        recent = query.where(USAGE.c.person == person, USAGE.c.created >= time.time() - DAY)
        with self._store.engine.begin() as connection:
            return int(connection.execute(recent).scalar() or 0)
