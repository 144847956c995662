"""What a shell shows of some work: lines, JSON, a bar on a terminal."""

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from jobs.follow import follow
from merging.progress import Progress

ROOT = Path(__file__).parents[2]


def work(seconds: float = 0.0) -> Generator[Progress, None, str]:
    """Two stages of ten steps."""
    for stage in ("fetch", "merge"):
        for step in range(11):
            yield Progress(stage, step * 1_000_000, 10_000_000, message="ann/a")
            time.sleep(seconds)
    return "done"


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there are lines for what takes long alone, and the result is handed on."""
    assert follow(work()) == "done"
    assert capsys.readouterr() == ("", "")


def test_long_work_says_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr, with the stage, speed and time left."""
    clock, real, here = iter(range(0, 10_000, 5)), time.monotonic, threading.get_ident()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)) if threading.get_ident() == here else real())
    assert follow(work()) == "done"
    out, err = capsys.readouterr()
    assert out == ""
    assert "fetch: ann/a: 6.0 MB of 10 MB, 100 kB/s, about 40 s left\n" in err
    assert 4 <= len(err.splitlines()) <= 12


def test_json_lines_are_a_few_a_second_with_the_last_of_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line on stderr, nothing on stdout."""
    assert follow(work(), "json") == "done"
    out, err = capsys.readouterr()
    told = [json.loads(line)["progress"] for line in err.splitlines()]
    assert out == ""
    assert [(one["stage"], one["done"]) for one in told] == [
        ("fetch", 0),
        ("fetch", 10_000_000),
        ("merge", 0),
        ("merge", 10_000_000),
    ]
    assert told[0] == {
        "stage": "fetch",
        "done": 0,
        "total": 10_000_000,
        "unit": "bytes",
        "message": "ann/a",
        "kept": 0,
        "partial": False,
        "speed": None,
        "left": None,
    }


def test_nothing_is_nothing_and_an_error_comes_through(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is shown, what the work raises is raised, after its last report."""

    def broken() -> Generator[Progress, None, str]:
        yield Progress("fetch", 0, 10)
        yield Progress("fetch", 1, 10)
        raise ValueError("broken")

    assert follow(work(), "none") == "done"
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match="broken"):
        follow(broken(), "json")
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["progress"]["done"] == 1


@pytest.mark.slow
def test_a_terminal_shows_a_bar() -> None:
    """With bytes done and to do; it is gone when the work has ended."""
    code = "from tests.jobs.test_follow import *; import sys; sys.stdout.write(follow(work(0.05)))"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # the terminal is closed: the process has ended
    assert process.communicate()[0] == b"done"
    assert b" MB of 10 MB" in shown
    assert b"merge" in shown


def test_work_is_ended_when_its_progress_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody reads any more, or Ctrl-C while a line is written: no thread goes on by itself."""
    ended = []

    def steps() -> Generator[Progress, None, None]:
        try:
            yield Progress("merge", 1, 2)
            yield Progress("merge", 2, 2)
        finally:
            ended.append(True)

    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    running = steps()
    monkeypatch.setattr("builtins.print", broken)
    with pytest.raises(BrokenPipeError):
        follow(running, "json")
    assert ended
