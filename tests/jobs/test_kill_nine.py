"""kill -9 of the worker in every stage of a real job: it goes on, not over."""

from collections.abc import Iterator

import pytest

from demo.loopback_hub import LoopbackHub
from jobs.job import STAGES
from tests.jobs.kills import KILLED_IN, Outcome, Scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One Hub and one home for all jobs of this file."""
    root = tmp_path_factory.mktemp("kills")
    with LoopbackHub(root / "hub") as hub:
        made = Scene(hub, root)
        yield made
        made.close()


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> Outcome:
    """The same job with nobody killed."""
    outcome = scene.run()
    assert outcome.job.status == "done"
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("stage", KILLED_IN)
def test_a_job_survives_kill_nine(stage: str, scene: Scene, undisturbed: Outcome) -> None:
    """Only the interrupted stage is started again; the same bytes are published, in one commit."""
    outcome = scene.run(stage)
    assert outcome.job.error == ""
    assert dict(outcome.starts) == {name: 1 + (name == stage) for name in STAGES}
    assert outcome.files == undisturbed.files
    assert outcome.commits == undisturbed.commits == 1
