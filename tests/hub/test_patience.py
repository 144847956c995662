"""Who waits how long for the Hub, and who is told."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError

from demo.loopback_hub import HubAdmin, LoopbackHub
from demo.loopback_traffic import slow_down
from hub import patience
from hub.client import Hub, HubUnavailable, explained, read_bytes
from hub.identity import whoami
from hub.patience import GaveUp, Interrupted, Patience, Trial, asked_wait
from tests.hub.helpers import Models, Put

ROOT = Path(__file__).parents[2]


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is said while a job waits, which here is never long."""
    lines: list[str] = []
    before = patience.be(Patience(trouble=20.0, asked=5.0, first=0.02, longest=0.2, quiet=0.5, say=lines.append))
    yield lines
    patience.be(before)


def test_what_the_hub_asks_for() -> None:
    """The end of its window where its requests are used up, else Retry-After in seconds; a date is not read."""
    assert asked_wait({"RateLimit": '"api";r=0;t=55', "Retry-After": "3"}) == 55
    assert asked_wait({"RateLimit": '"api";r=7;t=55', "retry-after": "3"}) == 3
    assert asked_wait({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}) is None
    assert asked_wait({}) is None


def test_a_page_does_not_wait_for_a_window_to_end(hub: LoopbackHub, ann: Hub) -> None:
    """Whoever sits before a page reads at once when to come back, in minutes."""
    hub.set_fault("/whoami", **slow_down(200), times=None)
    began = time.monotonic()
    with pytest.raises(HubUnavailable, match=r"asks to slow down: We had to rate limit you.*Try again in 4 minutes"):
        whoami(ann)
    assert time.monotonic() - began < 2


@pytest.mark.slow
def test_a_job_waits_and_says_so_once(hub: LoopbackHub, ann: Hub, told: list[str]) -> None:
    """Several threads that wait for the same window say one line."""
    hub.set_fault("/whoami", **slow_down(1), times=4)
    with ThreadPoolExecutor(4) as pool:
        names = [pool.submit(whoami, ann) for _ in range(4)]
        assert {name.result().name for name in names} == {"ann"}
    assert told
    assert set(told) == {"waiting 1 s: the Hub asks to slow down"}


def test_what_changes_something_is_not_done_twice(hub: LoopbackHub, ann: Hub) -> None:
    """A creation that failed is not sent again by itself: it may have been carried out."""
    hub.set_fault("/api/repos/create", status=500, times=None)
    hub.reset_counters()
    with pytest.raises(HfHubHTTPError):
        ann.api.create_repo("ann/a")
    assert hub.counters()["requests"] == {"POST /api/repos/create": 1}


def test_an_answer_that_does_not_come_is_asked_for_again(hub: LoopbackHub, ann: Hub, told: list[str]) -> None:
    """The library would wait for ever."""
    patience.be(Patience(trouble=20.0, first=0.02, read=0.3))
    hub.set_fault("/whoami", delay=3, times=1)
    began = time.monotonic()
    assert whoami(ann).name == "ann"
    assert time.monotonic() - began < 2


def test_an_answer_that_hardly_moves_is_asked_for_again(
    hub: LoopbackHub, ann: Hub, put: Put, tiny: Models, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes a second are no connection."""
    monkeypatch.setattr(patience, "WINDOW", 0.3)
    sha = put(ann, "ann/a", tiny())
    hub.set_fault("config.json", speed=50)
    began = time.monotonic()
    assert read_bytes(ann, "ann/a", "config.json", sha, limit=10_000).endswith(b"}\n")
    assert time.monotonic() - began < 3


def test_waiting_ends_when_nobody_needs_it(told: list[str]) -> None:
    """A cancelled download does not stay for the sake of its pause."""
    trial = Trial()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(trial.failed, 429, "slow down", 4.0)
        while not told:
            time.sleep(0.01)
        patience.interrupt()
        with pytest.raises(Interrupted):
            waiting.result(timeout=1)


def test_patience_ends(told: list[str]) -> None:
    """What the Hub asks for is not waited for without end either."""
    with pytest.raises(GaveUp, match="too much"):
        Trial().failed(429, "too much", 6.0)


@pytest.mark.slow
def test_a_hub_that_is_away_for_a_while(tmp_path: Path, told: list[str]) -> None:
    """Its process is killed, and started again some seconds later: who asked meanwhile gets an answer."""
    first, address = _started(tmp_path, 0)
    hub = HubAdmin(address["url"], address["admin_key"])
    hub.add_user("ann")
    ann = Hub(hub.url, hub.add_token("ann"))
    assert whoami(ann).name == "ann"
    first.kill()
    first.wait()
    with pytest.raises(HubUnavailable, match="does not answer"), explained(ann, "ann/a"):
        _impatient(ann)
    again: list[subprocess.Popen[str]] = []
    timer = threading.Timer(1.0, lambda: again.append(_started(tmp_path, int(hub.url.rpartition(":")[2]))[0]))
    timer.start()
    try:
        assert whoami(ann).name == "ann"
    finally:
        timer.join()
        again[0].kill()


def _impatient(hub: Hub) -> None:
    before = patience.be(patience.PAGE)
    try:
        hub.api.whoami(cache=False)
    finally:
        patience.be(before)


def _started(root: Path, port: int) -> tuple["subprocess.Popen[str]", dict[str, str]]:
    command = [sys.executable, "-m", "demo.loopback_hub", "--root", str(root / "hub"), "--port", str(port)]
    process = subprocess.Popen([*command, "--with-parent"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())
