"""A stage table for tests of the mechanism: each stage notes its start and end, and lasts as long as it is told.

The recipe's seed is the number of tenths of a second that the stage merge lasts. The task at the root says what else is
to happen, divided by commas: `check` fails in check, `unforeseen in check` as nobody foresaw it, `slow check` lasts as
long as merge.
"""

import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import yaml

from jobs.stage import Stage, job_folder, main
from merging.errors import InputError
from merging.progress import Progress

NAMES = ("pin", "inspect", "fetch", "calibrate", "merge", "check", "evaluate", "publish")


def stage(name: str) -> Stage:
    """A stage that lasts."""

    def run(path: Path, request: Mapping[str, Any]) -> Generator[Progress, None, dict[str, Any]]:
        recipe = yaml.safe_load(request["recipe_yaml"])
        with (path / "trace").open("a") as trace:
            trace.write(f"{name}\n")
        print(f"prose of {name} with {request['token']}")
        told = recipe["output"].get("root", "").split(", ")
        steps = recipe["seed"] if name == "merge" or f"slow {name}" in told else 1
        if name == "pin":
            job_folder(path).pinned.write_text(request["recipe_yaml"])
        if name == "merge":
            (path / "output").mkdir(exist_ok=True)
            helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            (path / "helper").write_text(str(helper.pid))
        for step in range(steps):
            yield Progress(name, step, steps, "steps", f"secret {request['token']}")
            time.sleep(0.1)
        if name == "merge":
            helper.kill()
        if f"unforeseen in {name}" in told:
            raise LookupError(f"nobody foresaw {request['token']}")
        if name in told:
            raise InputError(f"{name} went wrong with {request['token']}", "it was told to", "Tell it otherwise")
        if name == "publish":
            (job_folder(path).published).write_text('{"url": "https://example.org/x", "commit": "c"}')
        return {}

    return run


if __name__ == "__main__":
    main(sys.argv[1:], {name: stage(name) for name in NAMES})
