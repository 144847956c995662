"""kill -9 of the worker in each stage of a real job on the loopback Hub.

    python -m benchmarks.kill_nine

Prints: stage killed | stages redone | same bytes | commits beyond the initial one | seconds.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from demo.loopback_hub import LoopbackHub
from tests.jobs.kills import KILLED_IN, Scene


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as name, LoopbackHub(Path(name) / "hub") as hub:
        scene = Scene(hub, Path(name))
        try:
            print("| stage killed | stages redone | same bytes | commits | seconds |\n|---|---|---|---|---|")
            calm = None
            for stage in ("", *KILLED_IN):
                began = time.monotonic()
                outcome = scene.run(stage)
                calm = calm or outcome
                redone = ", ".join(s for s, n in outcome.starts.items() for _ in range(n - 1)) or "none"
                same = "yes" if outcome.files and outcome.files == calm.files else f"NO {outcome.job.error}"
                seconds = time.monotonic() - began
                row = (stage or "none", redone, same, str(outcome.commits), f"{seconds:.0f}")
                print("|", " | ".join(row), "|", flush=True)
        finally:
            scene.close()


if __name__ == "__main__":
    main()
