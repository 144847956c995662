"""Whose work goes when disk or memory run short, and whose is kept."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.job import JobFailed, JobFolder, JobSpec
from jobs.store import Store
from jobs.workflow import Runner
from merging.errors import Problem
from settings import Settings
from tests.jobs.processes import RECIPE, TOKEN

ANSWERS = "import sys\nfor line in sys.stdin: print('{\"result\": {}}', flush=True)"  # a child that is always ready
SHORT = Problem("The disk of this service is full")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """The stages of jobs on an empty home, each of which has answered at once and waits for the next."""
    settings = Settings(home=tmp_path / "home")
    running = Runner(settings, Store(settings), "host:0", [sys.executable, "-c", ANSWERS])
    yield running
    for process in running._running.values():
        process.end()


@pytest.mark.parametrize(
    ("stage", "lives", "kept"),
    [("merge", False, False), ("check", False, True), ("evaluate", False, True), ("publish", True, True)],
)
def test_a_checked_merge_is_kept_and_published(stage: str, lives: bool, kept: bool, runner: Runner) -> None:
    """Room is made where a stage has ended and the next one has not begun; publishing is not told of it."""
    folder = JobFolder(runner._store.home, "job1")
    process = runner._begin(stage, JobSpec(RECIPE.format(tenths=1), "ann", "job1"), folder_with_work(folder), TOKEN)
    assert process.wait(10) == 0
    runner._make_room(SHORT)
    assert (process.alive, folder.output.exists(), folder.parents.exists()) == (lives, kept, lives)
    if not lives:
        with pytest.raises(JobFailed):
            runner._raise_if_short("evaluate", "job1")
        runner._short["job1"] = SHORT
    runner._raise_if_short("publish", "job1")
    assert not runner._short


def folder_with_work(folder: JobFolder) -> JobFolder:
    """A job's folder with a model in it and a result."""
    for path in (folder.parent(0), folder.output):
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"x" * 1000)
    return folder
