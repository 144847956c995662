"""kill -9 of the worker at random moments of a real job: it goes on, not over. All stages and the page: `make soak`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from settings import Settings
from tests.jobs.kills import Kill, Outcome, Scene
from tests.jobs.processes import Workers

KILLS = [Kill("calibrate", 0.6), Kill("merge", 0.5), Kill("check", 0.6), Kill("publish", 0.5)]


class OneWorker:
    """A worker that is started again after each kill."""

    def __init__(self, home: Path) -> None:
        self._workers = Workers(home)
        self._worker = self._workers.start(fake=False)

    @property
    def settings(self) -> Settings:
        """Of its home."""
        return self._workers.settings

    def start(self) -> None:
        """Where the last one has ended."""
        if self._worker.poll() is not None:
            self._worker = self._workers.start(fake=False)

    def kill(self, target: str) -> None:
        """There is nothing else to kill."""
        assert target == "worker"
        self._worker.kill()
        self._worker.wait()

    def stop(self) -> None:
        """End what is left."""
        self._workers.stop()


@pytest.fixture
def scene(hub: LoopbackHub, tmp_path: Path) -> Iterator[Scene]:
    """A Hub and a worker."""
    (tmp_path / "home").mkdir()
    worker = OneWorker(tmp_path / "home")
    made = Scene(hub, tmp_path, worker)
    yield made
    made.close()
    worker.stop()


@pytest.mark.slow
def test_a_job_survives_kill_nine(scene: Scene) -> None:
    """Four kills of one job: what had ended is not done again, the same bytes are published, in one commit."""
    calm: Outcome = scene.calm()
    assert calm.wrong(calm) == []
    killed = scene.run(KILLS)
    assert killed.wrong(calm) == []
    assert len({doing for _, doing in killed.hits}) >= 3
