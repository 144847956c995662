"""What can be seen of an upload while it is under way."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.publish import Published, publish
from hub.upload import UploadMeter, watched
from merging.progress import Progress
from tests.hub.helpers import Models

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test
ROOT = Path(__file__).parents[2]
SIZE = 30_000_000


@pytest.fixture
def result(tiny: Models, tmp_path: Path) -> Path:
    """A merged folder with one large file under two names."""
    folder = tmp_path / "job" / "output"
    (folder / "one").mkdir(parents=True)
    for file in tiny(0).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with (folder / "model.safetensors").open("ab") as file:
        file.write(os.urandom(SIZE))
    os.link(folder / "model.safetensors", folder / "one" / "model.safetensors")
    return folder


def seen(hub: Hub, result: Path, name: str = "ann/merged") -> tuple[list[Progress], Published]:
    """Every report of a publication, one at each look of the meter, and its end."""
    reports: list[Progress] = []

    class Noted(UploadMeter):
        def at(self, name: str, position: int) -> None:
            super().at(name, position)
            reports.append(self.report())

        def begin(self, message: str, total: int = 0, *, partial: bool = False) -> None:
            super().begin(message, total, partial=partial)
            reports.append(self.report())

    return reports, publish(hub, result, name, private=True, job_id="job-1", meter=Noted())


def of(reports: list[Progress], message: str) -> list[Progress]:
    """Those of one part of the work."""
    return [report for report in reports if report.message == message]


def test_bytes_are_counted_as_they_are_read_and_sent(ann: Hub, result: Path) -> None:
    """Each distinct file once, first for its hash, then over HTTP; the commit itself has no bytes."""
    reports, _ = seen(ann, result)
    reading, sending = of(reports, "reading the files"), of(reports, "sending")
    size = (result / "model.safetensors").stat().st_size
    assert all(report.partial for report in reading)
    assert reading[-1].done == reading[-1].total == sending[0].total
    assert sum(path.stat().st_size for path in result.rglob("*") if path.is_file()) - size == sending[0].total
    assert (sending[0].done, sending[-1].done) == (0, size)
    assert len({report.done for report in sending}) > 5
    assert reports[-1] == Progress("publish", 0, 0, message="making the commit")


def test_a_multipart_upload_is_counted_too(result: Path, tmp_path: Path) -> None:
    """The parts of one file are one file."""
    with LoopbackHub(tmp_path / "hub", multipart_over=1_000_000, multipart_part=9_000_000) as hub:
        hub.add_user("ann")
        reports, _ = seen(Hub(hub.url, hub.add_token("ann")), result)
    sending = of(reports, "sending")
    assert sending[-1].done == (result / "model.safetensors").stat().st_size


def test_an_upload_that_is_closed_stops(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """No commit is made, and the next call publishes once."""
    hub.set_fault("/_upload/", delay=1.0, times=1)
    work = watched(lambda meter: publish(ann, result, "ann/merged", private=True, job_id="job-1", meter=meter))
    while next(work).message != "sending":
        pass
    began = time.monotonic()
    work.close()
    assert time.monotonic() - began < 5
    hub.clear_faults()
    assert len(ann.api.list_repo_commits("ann/merged")) == 1
    publish(ann, result, "ann/merged", private=True, job_id="job-1")
    assert len(ann.api.list_repo_commits("ann/merged")) == 2


def test_bytes_are_counted_through_xet(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """The client's default: its own bars are off, and nothing is written to the terminal."""
    code = """
import sys
from pathlib import Path
from hub.client import Hub
from tests.hub.test_upload import of, seen
reports, _ = seen(Hub(sys.argv[1], input()), Path(sys.argv[2]))
sending = of(reports, "sending")
print(sending[-1].done, sending[-1].total, len(sending))
"""
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, hub.url, str(result)]
    done = subprocess.run(
        command, cwd=ROOT, input=ann.token, text=True, check=True, env=environment, timeout=120, capture_output=True
    )
    sent, total, reports = map(int, done.stdout.split())
    assert hub.counters()["lfs_puts"] == {}
    assert 0 <= total - sent < 100_000
    assert reports > 2
    assert done.stderr == ""
