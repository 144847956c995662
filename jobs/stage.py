"""The child process of one job, which `jobs.begin` has begun: a request line a stage on stdin.

The token comes on stdin and nowhere else. Answers are JSON lines on the stdout that the process was started with (see
`jobs.child`); whatever a library prints goes to stderr, which the worker writes to the job's log.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from jobs.child import is_full, scrub, tie_to_worker, unforeseen
from jobs.job import JobFolder
from merging.errors import PART_LIMIT, InputError, MergeError, Problem
from merging.progress import Progress

PROGRESS_EVERY = 0.1  # seconds between two lines of progress at least

Stage = Callable[[Path, Mapping[str, Any]], Generator[Progress, None, dict[str, Any]]]


def main(arguments: list[str], stages: Mapping[str, Stage]) -> NoReturn:
    """Be a child whose stages are at hand: [JOBFOLDER, PARENT_PID, LIFELINE]."""
    folder, parent, lifeline = arguments
    tie_to_worker(int(parent), int(lifeline))
    serve(folder, stages)


def serve(folder: str, stages: Mapping[str, Stage]) -> NoReturn:
    """Run the stages that are asked for until no more can be, then end the process with status 0."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    saying = threading.Lock()

    def answer(kind: str, value: Any) -> None:
        sys.stderr.flush()
        with saying:
            answers.write(json.dumps({kind: value}) + "\n")

    be_patient(lambda text: answer("log", text))
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        _run(request.pop("stage"), Path(folder), request, stages, answer)
    os._exit(0)  # no waiting for what libraries do at the end of a process


def be_patient(say: Callable[[str], None]) -> None:
    """A job waits for the Hub as long as it may take, and says so."""
    from hub import patience

    patience.be(replace(patience.WORK, say=say))


def _run(
    name: str, folder: Path, request: Mapping[str, Any], stages: Mapping[str, Stage], answer: Callable[[str, Any], None]
) -> None:
    """One stage, to its result or to the reason why there is none."""
    try:
        answer("result", _drive(stages[name](folder, request), lambda value: answer("progress", value)))
    except MergeError as error:
        problems = error.problems if isinstance(error, InputError) else (error.problem,)
        for problem in problems[1:]:
            answer("log", str(problem))
        answer("error", {"problem": _bounded(problems[0]), "passing": error.passing, "full": is_full(error)})
    except Exception as error:
        token = str(request.get("token") or "")
        print(scrub("".join(traceback.format_exception(error)), token), file=sys.stderr, flush=True)
        problem = unforeseen(name, error, token)
        answer("error", {"problem": _bounded(problem), "passing": False, "full": is_full(error)})


def _bounded(problem: Problem) -> dict[str, str]:
    """The parts of a problem, none of them longer than it is told: names in them are from strangers."""
    return {name: part[:PART_LIMIT] for name, part in asdict(problem).items()}


def _drive(stage: Generator[Progress, None, dict[str, Any]], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The stage's result; its progress is told at most ten times a second, and the last of it always."""
    told, waiting = 0.0, None
    while True:
        try:
            waiting = asdict(next(stage))
        except StopIteration as end:
            if waiting is not None:
                tell(waiting)
            return end.value or {}
        if time.monotonic() - told >= PROGRESS_EVERY:
            tell(waiting)
            told, waiting = time.monotonic(), None


def job_folder(path: Path) -> JobFolder:
    """The job that a folder belongs to."""
    return JobFolder(path.parent.parent, path.name)
