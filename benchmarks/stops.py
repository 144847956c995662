"""How fast a stop and a cancel are in each stage of a real job, and what is left: `python -m benchmarks.stops`.

Stop: SIGTERM to `app.py` in the middle of each stage of one job, which goes on at the next start to the same bytes.
Seconds until the page, its worker and the stage have ended. Cancel: a job for each stage; seconds until none of its
processes is left and until its folder is small, what it says then, and whether its token is gone.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.soak import Page
from demo.loopback_hub import LoopbackHub
from jobs.job import EVALUATED_STAGES, JobFolder
from tests.jobs.kills import REPO, Kill, Scene, comes_to, processes_of
from tests.jobs.processes import wait_for

POSITIONS = 1_500_000  # of models of 190 MB: their merge takes long enough to be met by a signal
SMALL = 1_000_000  # bytes of a folder that holds no model any more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=EVALUATED_STAGES, default=EVALUATED_STAGES)
    stages = parser.parse_args().stages
    with tempfile.TemporaryDirectory() as name, LoopbackHub(Path(name) / "hub") as hub:
        page = Page(Path(name) / "home")
        scene = Scene(hub, Path(name), page, evaluates=True, positions=POSITIONS)
        try:
            calm = scene.calm()
            stopped = scene.run([Kill(stage, 0.5, "stop") for stage in stages])
            print("| SIGTERM while the job was doing | seconds to the end |\n|---|---|")
            for (_, doing), seconds in zip(stopped.hits, page.stops, strict=True):
                print(f"| {doing} | {seconds:.1f} |")
            print(f"\nThe job then: {'; '.join(stopped.wrong(calm)) or 'as undisturbed'}\n")
            print("| cancelled in | stopped after | disk free after | MB before, after | it says | token |")
            print("|---|---|---|---|---|---|")
            page.start()
            for stage in [one for one in stages if one != "clean"]:
                print(f"| {' | '.join(_cancel(scene, stage))} |", flush=True)
        finally:
            page.kill("both")
            scene.close()


def _cancel(scene: Scene, stage: str) -> tuple[str, ...]:
    """One job, cancelled in the middle of a stage."""
    job = scene.service.submit(scene.recipe(), scene.ann)
    folder = JobFolder(scene.runs.settings.home, job.id)
    wait_for(partial(comes_to, folder, stage, 0), 120, 0.005)
    time.sleep(0.5 * scene.seconds.get(stage, 0.0))
    before, began = folder.size, time.monotonic()
    doing = scene.service.get(job.id, "ann").stage
    scene.service.cancel(job.id, "ann")
    wait_for(lambda: not processes_of(str(folder.path)), 30, 0.01)
    stopped = time.monotonic() - began
    wait_for(lambda: folder.size < SMALL, 30, 0.01)
    freed = time.monotonic() - began
    wait_for(lambda: scene.service.get(job.id, "ann").ended, 60, 0.1)
    wait_for(lambda: scene.service._store.tokens.get(job.id) is None, 30, 0.1)
    job = scene.service.get(job.id, "ann")
    says = f"{job.status}, {job.url or job.left or 'nothing was published'}"
    if scene.ann.api.repo_exists(REPO):
        scene.ann.api.delete_repo(REPO)
    return (doing, f"{stopped:.1f} s", f"{freed:.1f} s", f"{before / 1e6:.1f}, {folder.size / 1e6:.2f}", says, "gone")


if __name__ == "__main__":
    main()
