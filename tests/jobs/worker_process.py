"""A worker as a process of its own: `worker_process.py HOME SLOT [COMMAND...]`, quicker to look than in production."""

import logging
import sys
from pathlib import Path

from jobs import workflow
from jobs.child import COMMAND
from jobs.worker import run_worker
from merging.errors import InputError
from settings import Settings

if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    home, slot, *command = sys.argv[1:]
    workflow.LOG_EVERY = 0.5
    try:
        run_worker(Settings(home=Path(home)), slot=int(slot), command=command or COMMAND, reap_every=1.0, polling=0.2)
    except InputError as error:
        sys.exit(str(error))
