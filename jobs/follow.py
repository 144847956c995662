"""The progress of some work as a shell shows it, on stderr: a bar, a line now and then, or JSON lines."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Literal, TypeVar

from merging.progress import Lines, Pace, Progress

JSON_EVERY = 0.5  # seconds between two JSON lines of one stage at least
How = Literal["auto", "json", "none"]
Show = Callable[[Progress], None]
Result = TypeVar("Result")


def follow(work: Generator[Progress, None, Result], how: How = "auto") -> Result:
    """The result of some work. `auto` is a bar on a terminal and elsewhere a line now and then.

    What ends it from outside, such as Ctrl-C while a bar is drawn, ends the work's own threads first.
    """
    pace = Pace()
    with closing(work), _shown(how) as show, _patient():
        while True:
            try:
                progress = next(work)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            show(pace.told(progress, time.monotonic()))


@contextmanager
def _patient() -> Iterator[None]:
    """Wait for the Hub as a job does, and say so; Ctrl-C ends the waiting of every thread."""
    from hub import patience

    def stop(*_: object) -> None:
        patience.interrupt()
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    before = patience.be(replace(patience.WORK, say=lambda text: print(text, file=sys.stderr, flush=True)))
    handler = signal.signal(signal.SIGINT, stop) if ours else None
    try:
        yield
    finally:
        patience.be(before)
        if ours:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _shown(how: How) -> Iterator[Show]:
    if how == "json":
        with _json_lines() as show:
            yield show
    elif how == "none":
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        lines = Lines()
        yield lambda progress: _say(lines.line(progress, time.monotonic()), progress.stage)


def _say(line: str, stage: str) -> None:
    if line:
        print(f"{stage}: {line}", file=sys.stderr, flush=True)


@contextmanager
def _json_lines() -> Iterator[Show]:
    """One object a line; two a second at most, the last of every stage among them."""
    waiting: list[Progress] = []
    told = {"": 0.0}

    def tell(progress: Progress) -> None:
        told.clear()
        told[progress.stage] = time.monotonic()
        print(json.dumps({"progress": progress.as_dict()}), file=sys.stderr, flush=True)

    def show(progress: Progress) -> None:
        if waiting and waiting[0].stage != progress.stage:
            tell(waiting[0])
        waiting[:] = [progress]
        if time.monotonic() - told.get(progress.stage, 0.0) >= JSON_EVERY:
            tell(waiting.pop())

    try:
        yield show
    finally:
        for progress in waiting:
            tell(progress)


@contextmanager
def _bars() -> Iterator[Show]:
    """A bar for each stage, gone at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}", markup=False))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        rows: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in rows:
                for row in rows.values():
                    bars.update(row, total=1, completed=1, words="")
                rows[progress.stage] = bars.add_task(progress.stage, total=None, words="")
            bars.update(
                rows[progress.stage],
                completed=progress.done,
                total=progress.total or None,
                words=progress.words or progress.message,
            )

        yield show
