"""A home folder with real worker processes, and the job service on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.service import JobService
from tests.jobs.processes import Workers
from tests.postgres import Postgres, running_postgres


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Workers on a home of this test's own."""
    home = tmp_path / "home"
    home.mkdir()
    running = Workers(home)
    yield running
    running.stop()


@pytest.fixture
def service(workers: Workers) -> Iterator[JobService]:
    """The job service of the same home."""
    running = JobService(workers.settings)
    yield running
    running.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """One Postgres for all tests of a process."""
    with running_postgres() as running:
        yield running


@pytest.fixture
def postgres_workers(server: Postgres, tmp_path: Path) -> Iterator[Workers]:
    """Workers on an empty database of Postgres."""
    home = tmp_path / "home"
    home.mkdir()
    running = Workers(home, server.database())
    yield running
    running.stop()


@pytest.fixture
def postgres_service(postgres_workers: Workers) -> Iterator[JobService]:
    """The job service of the same database."""
    running = JobService(postgres_workers.settings)
    yield running
    running.close()
