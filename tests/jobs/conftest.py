"""A home folder with real worker processes, and the job service on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.service import JobService
from tests.jobs.processes import Workers


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
