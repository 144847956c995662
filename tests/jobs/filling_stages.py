"""Stages that fill the disk, for jobs whose id says so: `slow...` bit by bit, `fast...` as fast as it takes it."""

import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from jobs.stage import main
from merging.progress import Progress

PIECE = b"x" * 1_000_000


def run(path: Path, request: Mapping[str, Any]) -> Generator[Progress, None, dict[str, Any]]:
    """Write until the disk refuses, or do nothing."""
    (path / "output").mkdir(exist_ok=True)
    while path.name.startswith(("slow", "fast")):
        with (path / "output" / "weights").open("ab") as file:
            file.write(PIECE)
        yield Progress("merge", 0, 0, "bytes")
        time.sleep(0.04 if path.name.startswith("slow") else 0)
    yield Progress("merge", 1, 1, "bytes")
    return {}


if __name__ == "__main__":
    main(sys.argv[1:], dict.fromkeys(("pin", "fetch", "calibrate", "merge", "check", "publish"), run))
