"""Speed, time left and lines of a log, from reports and times that are passed in."""

from collections.abc import Iterable

import pytest

from merging.progress import Lines, Pace, Progress, left_words, size, speed_words

MB = 1_000_000


def reports(
    speed: float, seconds: int, total: int, *, step: float = 0.5, kept: int = 0
) -> Iterable[tuple[float, Progress]]:
    """Reports of bytes that come evenly: (time, report), the first of them at 1000 s with nothing done now."""
    for number in range(int(seconds / step) + 1):
        yield 1000 + number * step, Progress("fetch", kept + int(speed * number * step), total, kept=kept)


def last(pace: Pace, stream: Iterable[tuple[float, Progress]]) -> Progress:
    """What is said of the last report."""
    *_, told = [pace.told(progress, now) for now, progress in stream]
    return told


def test_an_even_stream_has_its_speed_and_the_time_that_is_left() -> None:
    """Bytes a second, and what is missing at that speed."""
    told = last(Pace(), reports(35 * MB, 60, 4200 * MB))
    assert told.speed == pytest.approx(35 * MB)
    assert told.left == pytest.approx(60)
    assert told.words == "2.1 GB of 4.2 GB, 35 MB/s, about 1 min left"


def test_nothing_is_said_before_there_is_enough_to_say() -> None:
    """Not in the first seconds, and not from a few changes however long they took."""
    pace = Pace()
    said = [pace.told(progress, now) for now, progress in reports(35 * MB, 3, 4200 * MB)]
    assert all(told.speed is None and told.left is None for told in said[:-1])
    assert said[-1].speed is not None
    models = [(1000 + 60 * number, Progress("check", number, 9, "models")) for number in range(5)]
    assert last(Pace(), models[:4]).words == "3 of 9 models"
    assert last(Pace(), models).words == "4 of 9 models, 1.0 models/min, about 5 min left"


def test_the_speed_is_that_of_the_last_seconds() -> None:
    """A slow beginning is forgotten after ten seconds."""
    pace = Pace()
    last(pace, reports(1 * MB, 60, 4000 * MB))
    for tenth in range(1, 111):
        told = pace.told(Progress("fetch", 60 * MB + tenth * 5 * MB, 4000 * MB), 1060 + tenth / 10)
    assert told.speed == pytest.approx(50 * MB, rel=0.02)


def test_what_an_earlier_start_had_done_is_no_speed() -> None:
    """Found at the beginning, or in the middle when the next model is there already."""
    told = last(Pace(), reports(10 * MB, 20, 4000 * MB, kept=3000 * MB))
    assert (told.done, told.speed) == (3200 * MB, pytest.approx(10 * MB))
    pace = Pace()
    last(pace, reports(10 * MB, 20, 4000 * MB))
    told = pace.told(Progress("fetch", 3205 * MB, 4000 * MB, kept=3000 * MB), 1020.5)
    assert told.speed == pytest.approx(10 * MB)
    assert told.left == pytest.approx(79.5)


def test_what_stands_still_says_nothing_for_long() -> None:
    """No "a few seconds left" for minutes: first slower, then silent, and again a speed when it goes on."""
    pace = Pace()
    last(pace, reports(10 * MB, 20, 205 * MB))
    stuck = Progress("fetch", 200 * MB, 205 * MB)
    slower = pace.told(stuck, 1025.0)
    assert slower.speed is not None
    assert slower.speed < 10 * MB
    assert pace.told(stuck, 1031.0).words == "200 MB of 205 MB"
    assert pace.told(stuck, 1300.0).speed is None
    assert pace.told(Progress("fetch", 201 * MB, 205 * MB), 1300.5).speed is not None


def test_large_tensors_may_take_long_each() -> None:
    """A wait that is no longer than those before it does not make the speed go down."""
    steps = [(1000 + 20 * number, Progress("merge", number * 64 * MB, 6400 * MB)) for number in range(8)]
    pace = Pace()
    last(pace, steps)
    told = pace.told(steps[-1][1], 1140 + 19)
    assert told.speed == pytest.approx(3.2 * MB)
    assert pace.told(steps[-1][1], 1140 + 61).speed is None


def test_when_all_is_done_nothing_is_left_to_say() -> None:
    """Also while the stage still hashes or waits for an answer."""
    pace = Pace()
    last(pace, reports(10 * MB, 20, 200 * MB))
    told = pace.told(Progress("fetch", 200 * MB, 200 * MB), 1020.5)
    assert (told.words, told.speed, told.left) == ("200 MB of 200 MB", None, None)


def test_no_time_is_left_of_a_part() -> None:
    """More follows that the total does not count; and without a total there is a speed alone."""
    pace = Pace()
    for second in range(10):
        told = pace.told(Progress("publish", second * MB, 100 * MB, partial=True), second)
    assert (told.speed, told.left) == (pytest.approx(1 * MB), None)
    for second in range(10):
        told = pace.told(Progress("fetch", second * MB, 0), second)
    assert (told.speed, told.left, told.words) == (pytest.approx(1 * MB), None, "")


def test_a_stage_that_begins_again_is_measured_anew() -> None:
    """The next model of a stage counts from zero; stages that report by turns do not disturb each other."""
    pace = Pace()
    last(pace, reports(10 * MB, 20, 200 * MB))
    assert pace.told(Progress("fetch", 0, 200 * MB), 1021.0).speed is None
    for second in range(20):
        fetched = pace.told(Progress("fetch", second * 2 * MB, 200 * MB), 1021.0 + second)
        merged = pace.told(Progress("merge", second * MB, 200 * MB), 1021.0 + second)
    assert (fetched.speed, merged.speed) == (pytest.approx(2 * MB), pytest.approx(1 * MB))


def test_many_reports_a_second_are_few_changes() -> None:
    """A thousand reports a second cost no more than ten, and the speed is the same."""
    pace = Pace()
    told = last(pace, reports(10 * MB, 10, 1000 * MB, step=0.001))
    assert told.speed == pytest.approx(10 * MB, rel=0.02)
    assert len(pace._flows["fetch", "bytes"]._changes) < 110


def test_what_was_done_in_all_is_told_at_the_end() -> None:
    """In bytes, at the speed of the whole; nothing of what was short, kept, or counted in something else."""
    pace = Pace()
    last(pace, reports(10 * MB, 60, 600 * MB, kept=5000 * MB))
    pace.told(Progress("fetch", 5600 * MB, 5600 * MB, kept=5000 * MB), 1100.0)
    assert pace.summary() == "600 MB at 10 MB/s"
    short = Pace()
    last(short, reports(10 * MB, 2, 20 * MB))
    short.told(Progress("check", 0, 3, "models"), 1000.0)
    short.told(Progress("check", 3, 3, "models"), 1060.0)
    assert short.summary() == ""


def test_a_log_has_a_line_now_and_then() -> None:
    """For a tenth of the whole, at most every 15 seconds; every five minutes in any case; none for what is short."""
    lines = Lines()
    told = [
        (now, lines.line(Progress("fetch", int(done), 1000 * MB, message="ann/a"), now))
        for now, done in ((second, second * MB) for second in range(1000))
    ]
    said = [(now, line) for now, line in told if line]
    assert [now for now, _ in said] == [100, 200, 300, 400, 500, 600, 700, 800, 900]
    assert said[0][1] == "ann/a: 100 MB of 1.0 GB"
    slow = Lines()
    assert [now for now in range(1000) if slow.line(Progress("merge", now, 10**9), now)] == [300, 600, 900]
    short = Lines()
    assert not any(short.line(Progress("merge", now, 14), now) for now in range(15))
    unknown = Lines()
    assert not any(unknown.line(Progress("publish", now, 0), now) for now in range(1000))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "a few seconds left"),
        (7, "a few seconds left"),
        (12, "about 10 s left"),
        (57, "about 55 s left"),
        (58, "about 1 min left"),
        (605, "about 10 min left"),
        (5400, "about 1.5 h left"),
        (86_400, "about 24 h left"),
        (400_000, "about 5 days left"),
    ],
)
def test_a_time_that_is_left_is_no_more_exact_than_it_is_known(seconds: float, words: str) -> None:
    """And never zero."""
    assert left_words(seconds) == words


def test_speeds_and_sizes_are_words() -> None:
    """In the unit of the stage; what is slow by the minute."""
    assert speed_words(35.4 * MB, "bytes") == "35 MB/s"
    assert speed_words(1234, "examples") == "1,234 examples/s"
    assert speed_words(1.5, "examples") == "1.5 examples/s"
    assert speed_words(0.5, "examples") == "30 examples/min"
    assert speed_words(0.05, "models") == "3.0 models/min"
    assert size(91 * MB) == "91 MB"
