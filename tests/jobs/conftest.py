"""A home folder with real worker processes, and the job service on it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
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
    with closing(JobService(workers.settings)) as running:
        yield running


@pytest.fixture
def ann(hub: LoopbackHub, tmp_path: Path) -> Hub:
    """The Hub as ann sees it, who has two models there."""
    from tests.tiny_models import save_tiny  # only here: it takes seconds

    hub.add_user("ann")
    made = Hub(hub.url, hub.add_token("ann"))
    for index in (0, 1):
        made.api.create_repo(f"ann/m{index}")
        made.api.upload_folder(repo_id=f"ann/m{index}", folder_path=save_tiny(tmp_path / f"m{index}", seed=index))
    return made


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
    with closing(JobService(postgres_workers.settings)) as running:
        yield running
