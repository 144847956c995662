"""The real stages, each of which asks for leave before it begins, so that something may happen in between.

It writes its name to `asks` in the job's folder and waits until that is taken away. Nothing is checked: that needs no
Hub, and takes longer than all the rest.
"""

import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hub import patience
from jobs.stage import Stage, main
from jobs.table import TABLE
from merging.progress import Progress


def gated(name: str, stage: Stage) -> Stage:
    """The stage behind its gate."""

    def run(path: Path, request: Mapping[str, Any]) -> Generator[Progress, None, dict[str, Any]]:
        asks = path / "asks"
        asks.write_text(name)
        while asks.exists():
            time.sleep(0.02)
        return (yield from stage(path, request))

    return run


def unchecked(path: Path, request: Mapping[str, Any]) -> Generator[Progress, None, dict[str, Any]]:
    """No check."""
    yield Progress("check", 1, 1, "models")
    return {}


if __name__ == "__main__":
    patience.WORK = replace(patience.WORK, trouble=8.0, asked=8.0, first=0.1, quiet=0.5)
    main(sys.argv[1:], {name: gated(name, stage) for name, stage in TABLE.items()} | {"check": unchecked})
