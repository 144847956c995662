"""A worker as a process of its own, quicker to look than in production: `main([HOME, SLOT, *COMMAND])`.

WORKER_VERSION stands for another version of the code: one that has a stage of that name after `pin`.
WORKER_REAPS_EVERY is the seconds between two looks for dead workers.
"""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs import outline, workflow
from jobs.child import COMMAND
from jobs.worker import run_worker
from merging.errors import InputError
from settings import Settings


def main(arguments: Sequence[str]) -> None:
    """Work until stopped."""
    logging.basicConfig(level="INFO", force=True)
    home, slot, *command = arguments
    workflow.LOG_EVERY = 0.5
    if version := os.environ.get("WORKER_VERSION"):
        first, *others = outline.STAGES
        outline.STAGES = (first, version, *others)  # type: ignore[assignment]
    every = float(os.environ.get("WORKER_REAPS_EVERY") or 1.0)
    try:
        run_worker(Settings(home=Path(home)), slot=int(slot), command=command or COMMAND, reap_every=every, polling=0.2)
    except InputError as error:
        sys.exit(str(error))
