"""The Hub misbehaves in each stage of a job: retried where that is right, else a clear end; nothing half-published."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from hub import patience
from hub.client import Hub
from hub.patience import Patience
from jobs import stages
from jobs.job import JobFolder
from jobs.stages import StageContext
from merging.errors import MergeError
from tests.jobs.faults import CASES, STAGES, Case, World, general, recipe

QUICK = [case for case in CASES if not case.slow]
pytestmark = pytest.mark.slow  # a Hub of its own


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One Hub for all cases."""
    root = tmp_path_factory.mktemp("faults")
    with LoopbackHub(root / "first") as hub:
        yield World(hub, root)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the waiting says; nobody waits long."""
    lines: list[str] = []
    quick = Patience(trouble=0.6, asked=2.0, first=0.02, longest=0.1, quiet=0.5, say=lines.append)
    before = patience.be(quick)
    yield lines
    patience.be(before)


def run(hub: Hub, folder: JobFolder, case: Case, world: World | None, first: str) -> tuple[str, str, str]:
    """The stages from `first` on, in this world disturbed: the one that failed, why, and where the job goes on."""
    context = StageContext(folder, hub, recipe(case), device="cpu", threads=1)
    for stage in STAGES[STAGES.index(first) :]:
        if stage == case.stage and world is not None:
            case.act(world)
        try:
            for _ in stages.STAGES[stage](context):
                pass
        except MergeError as error:
            return stage, str(error).splitlines()[0], stage if error.passing or stage == "publish" else "pin"
    return "", "", ""


@pytest.mark.parametrize("case", QUICK, ids=[case.name for case in QUICK])
def test_a_fault_of_the_hub(case: Case, world: World, told: list[str], tmp_path: Path) -> None:
    """What the table says: the end, the log, what is left on the Hub, and what comes of going on."""
    world.anew()
    folder = JobFolder(tmp_path, "m1")
    folder.create()
    failed, why, onward = run(world.ann, folder, case, world, "pin")
    assert general(why, world.hub.url) == case.ends
    assert failed == (case.stage if case.ends else "")
    assert not case.log or any(re.fullmatch(case.log, line) for line in told)
    left, commits = world.left()
    assert (left, commits) == (case.left, int(left in ("whole", "private", "theirs")))
    if case.ends:
        run(world.mend(), folder, case, None, onward)
        left, commits = world.left()
        assert (left, commits) == (case.later, int(left in ("whole", "private", "theirs")))
