"""kill -9 of the worker, of the page and of both at random moments of real jobs on the loopback Hub.

    python -m benchmarks.soak --kills 50 --seed 0

The page is `app.py` with the worker beside it, as in production; jobs, kills and their moments follow from the seed.
After each kill what ended is started again. Prints a row for each job and "N kills survived of M": a kill is survived
when its job ends in one repo with one commit beyond the initial one and the same bytes as undisturbed, nothing that
had ended was done again, and no process outlived its worker. Exit status 1 when one is not.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

from demo.loopback_hub import LoopbackHub
from jobs.job import JobFolder, read_json
from settings import Settings
from tests.jobs.kills import GONE_IN, Outcome, Scene, plan_kills
from tests.jobs.processes import alive, wait_for

ROOT = Path(__file__).resolve().parents[1]
EACH = 5  # kills of one job


class Page:
    """`app.py` with the worker that it keeps."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        self.orphans = 0  # workers that outlived their page
        self.stops: list[float] = []  # seconds that each SIGTERM took
        self._log = home / "app.log"
        self._process: subprocess.Popen[str] | None = None
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OAUTH_", "MERGE_"))}
        home.mkdir(parents=True)
        self._environment = kept | {
            "MERGE_HOME": str(home),
            "MERGE_PORT": "0",
            "MERGE_THREADS": "1",
            "HF_HOME": str(home / "hf"),
            "GRADIO_TEMP_DIR": str(home / "uploads"),
            "NO_PROXY": "127.0.0.1,localhost",
        }

    @property
    def pid(self) -> int:
        """Of the page."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the page unless it runs, and wait for it and for its worker."""
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "app.py"],
                    cwd=ROOT,
                    env=self._environment,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            assert self._process.stdout is not None
            line = next((line for line in self._process.stdout if "open at" in line), "")
            threading.Thread(target=self._process.stdout.read, daemon=True).start()
            address = line.split()[-1]
            with urllib.request.urlopen(address) as answer:
                assert answer.status == 200
        wait_for(self.worker, 90)

    def worker(self) -> int:
        """The worker's process, 0 while there is none."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return next((int(pid) for path in children for pid in path.read_text().split() if alive(int(pid))), 0)

    def kill(self, target: str) -> None:
        """kill -9 of the worker, the page or both; without its page the worker is to end by itself. `stop`: SIGTERM."""
        assert self._process is not None
        if target == "stop":
            self.stops.append(self._stop())
            return
        worker = self.worker()
        if target in ("page", "both"):
            self._process.kill()
            self._process.wait()
        if target in ("worker", "both") and worker:
            os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + GONE_IN
        while worker and alive(worker) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.orphans += bool(worker and alive(worker))

    def _stop(self) -> float:
        """SIGTERM; the seconds until page and worker have ended."""
        assert self._process is not None
        worker, began = self.worker(), time.monotonic()
        self._process.terminate()
        self._process.wait(30)
        wait_for(lambda: not (worker and alive(worker)), 30, 0.01)
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="jobs of the plan that are left out, to go on with a run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, LoopbackHub(Path(name) / "hub") as hub:
        page = Page(Path(name) / "home")
        scene = Scene(hub, Path(name), page, evaluates=True)
        try:
            survived, tried = _kill(scene, page, arguments.kills, arguments.seed, arguments.skip)
        finally:
            page.kill("both")
            scene.close()
    print(f"\n{survived} kills survived of {tried}, seed {arguments.seed}")
    sys.exit(survived != tried)


def _kill(scene: Scene, page: Page, count: int, seed: int, skip: int) -> tuple[int, int]:
    """(kills survived, kills tried); a row for each job."""
    began = time.monotonic()
    calm = scene.calm()
    assert calm.wrong(calm) == [], calm.wrong(calm)
    report = read_json(JobFolder(page.settings.home, calm.job.id).report)
    assert report["evaluation"]["sets"], report["evaluation"]  # or the stage evaluate would have nothing to lose
    times = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in calm.seconds.items())
    print(f"undisturbed: {time.monotonic() - began:.0f} s, of which {times}")
    print("\n| job | kills (what was killed, doing what) | wrong | seconds |\n|---|---|---|---|", flush=True)
    survived = tried = 0
    for number, kills in enumerate(plan_kills(count, seed, EACH)[skip:], start=skip + 1):
        began, orphans = time.monotonic(), page.orphans
        outcome: Outcome = scene.run(kills)
        wrong = outcome.wrong(calm)
        wrong += ["a worker outlived its page"] if page.orphans > orphans else []
        told = ", ".join(f"{target}: {doing}" for target, doing in outcome.hits)
        print(f"| {number} | {told} | {'; '.join(wrong) or 'nothing'} | {time.monotonic() - began:.0f} |", flush=True)
        tried += len(outcome.hits)
        survived += 0 if wrong else len(outcome.hits)
    return survived, tried


if __name__ == "__main__":
    main()
