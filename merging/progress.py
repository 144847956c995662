"""How far a piece of work has come, how fast it goes on, and how long it will take."""

from collections import deque
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

WINDOW = 10.0  # seconds that a speed is measured over
CHANGES = 4  # times that something new was done, which a speed is measured over at least
ENOUGH = 3.0  # seconds of work before anything is said of its speed
GRAIN = 0.1  # seconds between two changes at least: what comes sooner is one
STALLED = 3.0  # times the longest wait for something new so far, after which nothing is said any more

LINE_EVERY = 15.0  # seconds between two lines of a log at least
LINE_PARTS = 10  # of the whole: each is worth a line
LINE_ALWAYS = 300.0  # seconds after which there is a line however little was done


@dataclass(frozen=True)
class Progress:
    """One report of a stage. `done` and `total` are in `unit`; a total of 0 means that it is not known yet.

    `speed` (units a second) and `left` (seconds until `total`) are filled in by a `Pace`; None is not known.
    """

    stage: str
    done: int
    total: int
    unit: str = "bytes"
    message: str = ""
    kept: int = 0  # of `done`, what was there already: it says nothing about the speed
    partial: bool = False  # more of this stage follows, which `total` does not count
    speed: float | None = None
    left: float | None = None

    @property
    def fraction(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def words(self) -> str:
        """`1.2 GB of 4.1 GB, 35 MB/s, about 2 min left`; "" where nothing is counted yet."""
        if not self.total:
            return ""
        done = size(self.done) if self.unit == "bytes" else f"{self.done:,}"
        total = size(self.total) if self.unit == "bytes" else f"{self.total:,} {self.unit}"
        parts = [f"{done} of {total}"]
        parts += [speed_words(self.speed, self.unit)] if self.speed is not None else []
        parts += [left_words(self.left)] if self.left is not None else []
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, speed and time left no more exact than they are known."""
        rounded = {name: value and round(value, 1) for name, value in (("speed", self.speed), ("left", self.left))}
        return asdict(self) | rounded


class Pace:
    """Speed and time left of a stream of reports. Time is passed in: seconds of a clock that runs evenly.

    The speed is that of the last `WINDOW` seconds, or of the last `CHANGES` changes where those took longer. What was
    kept from an earlier start does not count. Nothing is said before there is enough to say, while nothing moves, and
    when all is done; no time left where more of the stage follows that the total does not count.
    """

    def __init__(self) -> None:
        self._flows: dict[tuple[str, str], _Flow] = {}  # a stage may report several kinds of things by turns

    def told(self, progress: Progress, now: float) -> Progress:
        """The report with speed and time left. The same report again, later, says that nothing was done meanwhile."""
        done = progress.done - progress.kept
        flow = self._flows.get((progress.stage, progress.unit))
        if flow is None or done < flow.done:
            flow = self._flows[progress.stage, progress.unit] = _Flow(done, now)
        flow.add(done, now)
        speed = flow.speed(now)
        if speed is None or progress.done >= progress.total > 0:
            return replace(progress, speed=None, left=None)
        known = progress.total > 0 and not progress.partial
        return replace(progress, speed=speed, left=(progress.total - progress.done) / speed if known else None)

    def summary(self) -> str:
        """`4.1 GB at 103 MB/s` for what was done in bytes; "" where that was little or soon over."""
        sums = [flow.whole() for (_, unit), flow in self._flows.items() if unit == "bytes"]
        return ", ".join(f"{size(done)} at {speed_words(done / seconds, 'bytes')}" for done, seconds in sums if seconds)


class _Flow:
    """One thing that grows: when it did, and to what."""

    def __init__(self, done: int, now: float) -> None:
        self.done = done
        self._began = self._ended = (now, done)
        self._changes: deque[tuple[float, int]] = deque([(now, done)])

    def add(self, done: int, now: float) -> None:
        """Take note of what is done by now."""
        self._ended = (now, done) if done > self.done else self._ended
        self.done = done
        before, last = self._changes[-1]
        if done > last and now - before >= GRAIN:
            self._changes.append((now, done))
        while len(self._changes) > CHANGES + 1 and self._changes[1][0] <= now - WINDOW:
            self._changes.popleft()

    def whole(self) -> tuple[int, float]:
        """(units done since the beginning, seconds that they took); 0 seconds for what was too short to tell."""
        (began, first), (ended, last) = self._began, self._ended
        return last - first, ended - began if ended - began >= ENOUGH else 0.0

    def speed(self, now: float) -> float | None:
        """Units a second, None while it cannot be said."""
        (began, first), (last, done) = self._changes[0], self._changes[-1]
        if len(self._changes) <= CHANGES or now - began < ENOUGH:
            return None
        longest = max(later - earlier for (earlier, _), (later, _) in pairwise(self._changes))
        if now - last > max(WINDOW, STALLED * longest):
            return None
        ended = last if now - last <= longest else now  # a wait that is no longer than others says nothing yet
        return (done - first) / (ended - began)


class Lines:
    """Which reports of a stream are worth a line of a log: one now and then, none of what is soon done."""

    def __init__(self, every: float = LINE_EVERY) -> None:
        self._every = every
        self._told: float | None = None
        self._parts: dict[str, int] = {}  # of each stage, that were done in its last line

    def line(self, progress: Progress, now: float) -> str:
        """The line, "" when it is too early for one. `now` is in seconds."""
        self._told = now if self._told is None else self._told
        if not progress.words or progress.done >= progress.total:
            return ""
        quiet, parts = now - self._told, LINE_PARTS * progress.done // progress.total
        if quiet < self._every or (parts == self._parts.get(progress.stage, 0) and quiet < LINE_ALWAYS):
            return ""
        self._told, self._parts[progress.stage] = now, parts
        return f"{progress.message}: {progress.words}" if progress.message else progress.words


def size(count: float) -> str:
    """Bytes in words: `91 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def speed_words(speed: float, unit: str) -> str:
    """Units a second in words: `35 MB/s`, `1.5 examples/s`, `20 examples/min`."""
    if unit == "bytes":
        return f"{size(speed)}/s"
    if speed < 1:
        return f"{speed * 60:.1f} {unit}/min" if speed * 60 < 10 else f"{speed * 60:.0f} {unit}/min"
    return f"{speed:.1f} {unit}/s" if speed < 10 else f"{speed:,.0f} {unit}/s"


def left_words(seconds: float) -> str:
    """A time that is left in words, never more exact than it is known."""
    if seconds < 7.5:
        return "a few seconds left"
    for limit, length, step, unit in ((57.5, 1, 5, "s"), (5370, 60, 1, "min"), (129_600, 3600, 0.5, "h")):
        if seconds < limit:
            return f"about {step * round(seconds / length / step):g} {unit} left"
    return f"about {round(seconds / 86_400)} days left"
