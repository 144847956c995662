"""What the pages say of a database that is away, of what a restart forgets, and of what a cancel has left."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from demo.loopback_hub import LoopbackHub
from jobs.job import Job
from jobs.service import JobService
from settings import Settings
from ui import job_words
from ui.desk import Desk
from ui.job_page import FORGETS, JobPage
from ui.job_view import JobView
from ui.security import Access


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    """On an empty home."""
    running = JobService(Settings(home=tmp_path / "home"))
    yield running
    running.close()


@pytest.mark.parametrize("single_user", [True, False])
def test_a_space_on_its_own_disk_says_what_it_forgets(single_user: bool, service: JobService) -> None:
    """One sentence below the jobs; one's own machine forgets nothing."""
    page = JobPage(Desk(service, Access(None, single_user=single_user)))
    assert (FORGETS in page.kept) is not single_user


@pytest.mark.slow
def test_a_locked_database_is_said_and_asked_again(
    hub: LoopbackHub, service: JobService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer goes on, and the next answer is shown whole."""
    hub.add_user("ana")
    token = gr.OAuthToken(token=hub.add_token("ana"), scope="", expires_at=0)
    with gr.Blocks():
        view = JobView(Desk(service, Access(hub.url, single_user=False)))
    other = sqlite3.connect(tmp_path / "home" / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    updates = view._tick("m1", "what was seen", token, gr.Request())
    other.execute("ROLLBACK")
    assert "The job database does not answer: another process holds its lock" in updates[view.status]
    assert updates[view.seen] == ""
    assert view.timer not in updates


def cancelled(**facts: str) -> str:
    """What the page says of a cancelled job."""
    job = Job("m1", "ana", "cancelled", "publish", (), None, 0.0, 0.0, "", "average", (), "ana/merged", **facts)  # type: ignore[arg-type]
    return job_words.job(job)


def test_a_cancel_tells_what_it_left() -> None:
    """Nothing, an empty repo, or the link of what had been published."""
    assert "Cancelled. Nothing was published." in cancelled()
    assert "Cancelled. ana/merged had been made and is empty." in cancelled(
        left="ana/merged had been made and is empty."
    )
    seen = cancelled(url="https://hub.example/ana/merged")
    assert "Cancelled, but it had been published before." in seen
    assert 'href="https://hub.example/ana/merged"' in seen
