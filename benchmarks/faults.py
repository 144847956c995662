"""Each fault of `tests/jobs/faults.py` in a real job: the queue, a worker process, its children, the loopback Hub.

    python -m benchmarks.faults [--only TEXT...]     about ten minutes

Prints a line for each, and how many were survived of those that were tried. Where the table says that a job ends, its
owner signs in again and goes on with it. Exit 1 when one of them is not as the table says.
"""

import argparse
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.job import Job, JobFolder
from jobs.service import JobService
from merging.errors import InputError
from tests.jobs.faults import CASES, Case, World, general, recipe
from tests.jobs.processes import Workers, wait_for

GATES = Path(__file__).resolve().parents[1] / "tests" / "jobs" / "gated_stages.py"


def run(case: Case, world: World, workers: Workers, service: JobService) -> str:
    """One job; what is not as the table says, "" when all is."""
    world.anew()
    job = _driven(service, service.submit(recipe(case), world.ann).id, workers, case, world)
    said = [line["message"] for line in service.log(job.id, "ann")]
    wrong = _unlike(general(job.error, world.hub.url), case.ends, "it says")
    if case.log and not any(re.fullmatch(case.log, line) for line in said):
        wrong += f"nothing like {case.log!r} in its log; "
    wrong += _unlike(world.left()[0], case.left, "under the output's name is")
    wrong += _leaks(world, workers)
    if case.ends:
        with suppress(InputError):  # the model is gone for good, or the name taken
            _driven(service, _again(service, job, case, world.mend()).id, workers, None, world)
        wrong += _unlike(world.left()[0], case.later, "later, under the output's name is")
    left, commits = world.left()
    return wrong + _unlike(str(commits), str(int(left in ("whole", "private", "theirs"))), "commits:")


def _again(service: JobService, job: Job, case: Case, hub: Hub) -> Job:
    """The job goes on where something was kept; else its recipe is submitted anew."""
    kept = job.publishable or job.resumable
    return service.go_on(job.id, hub) if kept else service.submit(recipe(case), hub)


def _driven(service: JobService, id: str, workers: Workers, case: Case | None, world: World) -> Job:
    """The job at its end. Each stage asks for leave; before that of the case its fault is switched on."""
    folder = JobFolder(workers.home, id)

    def step() -> bool:
        asks = folder.path / "asks"
        if asks.exists():
            if case is not None and asks.read_text() == case.stage:
                case.act(world)
            asks.unlink()
        return service.get(id, "ann").ended

    wait_for(step, 240, 0.05)
    return service.get(id, "ann")


def _unlike(found: str, wanted: str, words: str) -> str:
    return "" if found == wanted else f"{words} {found!r}, not {wanted!r}; "


def _leaks(world: World, workers: Workers) -> str:
    """Files of the service in which a token stands."""
    tokens = [str(hub.token).encode() for hub in (world.ann, world.bob)]
    for path in workers.home.rglob("*"):
        if path.is_file() and any(token in path.read_bytes() for token in tokens):
            return f"a token stands in {path.name}; "
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name holds one of these texts")
    only = parser.parse_args(arguments).only
    logging.disable(logging.WARNING)
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # for the worker: the faults of uploads are those of LFS
    cases = [case for case in CASES if any(text in case.name for text in only)]
    survived, began = 0, time.monotonic()
    with TemporaryDirectory(prefix="faults-") as name, LoopbackHub(Path(name) / "first") as hub:
        home = Path(name) / "home"
        home.mkdir()
        world, workers = World(hub, Path(name)), Workers(home)
        service = JobService(workers.settings)
        workers.start(command=[sys.executable, str(GATES)])
        for case in cases:
            wrong = run(case, world, workers, service)
            survived += not wrong
            print(f"{'ok  ' if not wrong else 'BAD '} {case.name}{': ' if wrong else ''}{wrong}", flush=True)
        workers.stop()
        service.close()
    print(f"{survived} faults survived of {len(cases)} tried, in {time.monotonic() - began:.0f} s")
    return int(survived < len(cases))


if __name__ == "__main__":
    sys.exit(main())
