"""A job's heavy work runs in a child process: the worker's side of it, and what both sides must agree on.

One child runs the stages of one job, one after another: to start it anew for each would cost more than most stages
of a small merge. The worker writes a JSON line (with the token) to the child's stdin for each stage; the child answers
with JSON lines on stdout, of which `result` or `error` is a stage's last, and prose on stderr. The child has its own
process group, so that all it starts ends with it, and it ends when its worker does.
"""

import ctypes
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from merging.errors import Problem

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "jobs.begin", "jobs.table")
SECRET_VARIABLES = (
    "MERGE_SECRET_KEY",
    "MERGE_DATABASE_URL",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "OAUTH_CLIENT_SECRET",
)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4  # of prctl(2)
LINE_LIMIT = 1 << 16  # characters of one line of a child's prose
ANSWER_LIMIT = 1 << 24  # of one answer: it must arrive whole, for a stage of which no end is told never ends
HUB_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{6,}|hf_oauth_[\w.-]{6,})|(?<=[Bb]earer )[\w.~+/=-]{6,}")


def scrub(text: str, token: str = "") -> str:
    """The text without the token, and without anything that looks like one."""
    if token:
        text = text.replace(token, "***")
    return HUB_TOKEN.sub("***", text)


def is_full(error: BaseException | None) -> bool:
    """Whether a disk, or somebody's share of it, that has no room lies at the bottom of an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def unforeseen(stage: str, error: Exception, token: str = "") -> Problem:
    """An error that nobody foresaw, in one sentence for the user."""
    if is_full(error):
        return Problem("The disk is full", f"in the stage {stage}", "Free some space and run the job again")
    text = scrub(f"{type(error).__name__}: {error}", token).partition("\n")[0]
    return Problem(f"The stage {stage} failed", text[:500], "Run the job again, or tell the operator")


@dataclass
class Answers:
    """What a child has said of the present stage; written by the reading thread, read by the step."""

    progress: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


class JobProcess:
    """A job's child. `log(stage, level, message)` gets its prose, scrubbed of the token."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        log: Callable[[str, str, str], None],
    ) -> None:
        self.answers = Answers()
        self._stage = self._token = ""
        self._said_all = threading.Event()
        self._log = log
        self._ending = threading.Lock()
        theirs, self._lifeline = os.pipe()  # ends when this process does, and the child with it
        self._process = subprocess.Popen(
            [*command, str(folder), str(os.getpid()), str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=dict(environment),
            cwd=ROOT,
            start_new_session=True,
            pass_fds=(theirs,),
        )
        os.close(theirs)
        self._threads = [
            threading.Thread(target=self._read_answers, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_prose, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Of the child, and of its process group."""
        return self._process.pid

    @property
    def stage(self) -> str:
        """The stage that was asked for last."""
        return self._stage

    @property
    def alive(self) -> bool:
        """Whether another stage can be asked for."""
        return self._process.poll() is None

    def begin(self, stage: str, request: Mapping[str, Any]) -> None:
        """Ask for a stage; the one before has ended."""
        self.answers = Answers()
        self._said_all.clear()
        self._stage, self._token = stage, str(request.get("token") or "")
        assert self._process.stdin is not None
        with suppress(OSError):  # it died at once; its exit status tells
            self._process.stdin.write(json.dumps({"stage": stage, **request}) + "\n")
            self._process.stdin.flush()

    def wait(self, seconds: float) -> int | None:
        """None when the stage still runs after so many seconds; 0 when it has answered, else how the child ended."""
        answered = self._said_all.wait(seconds)
        if answered and (self.answers.result is not None or self.answers.error is not None):
            return 0
        if self.alive and not answered:
            return None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)  # it has said its last word: let it end by itself, for its status
        self.end()
        return self._process.returncode

    def end(self) -> None:
        """End the child and all that it started, at once. May be called again, and by several threads."""
        with self._ending:
            if self._lifeline < 0:
                return  # its number, and that of the file, may be another's by now
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for thread in self._threads:
                thread.join(timeout=5)
            os.close(self._lifeline)
            self._lifeline = -1
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def _read_answers(self, stream: IO[str]) -> None:
        for line in iter(lambda: stream.readline(ANSWER_LIMIT), ""):
            try:
                answer = json.loads(scrub(line, self._token))
            except ValueError:
                self._log(self._stage, "info", scrub(line.strip(), self._token)[:2000])
                continue
            if "progress" in answer:
                self.answers.progress = answer["progress"]
            elif "error" in answer:
                self.answers.error = answer["error"]
                self._said_all.set()
            elif "log" in answer:
                self._log(self._stage, "info", str(answer["log"]))
            elif "result" in answer:
                self.answers.result = answer["result"]
                self._said_all.set()
        self._said_all.set()

    def _read_prose(self, stream: IO[str]) -> None:
        for line in iter(lambda: stream.readline(LINE_LIMIT), ""):
            text = scrub(line.rstrip(), self._token)
            if text:
                self._log(self._stage, "detail", text[:2000])


def child_environment(cache: Path, endpoint: str | None, parent: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment without its secrets; caches of the Hub's libraries are the job's own."""
    environment = {name: value for name, value in parent.items() if name not in SECRET_VARIABLES}
    environment |= {
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE", "HF_MODULES_CACHE"):
        environment.pop(name, None)
    if endpoint:
        environment["HF_ENDPOINT"] = endpoint
    return environment


def keep_memory_private() -> None:
    """Neither a core dump nor another process of this user shows this one's memory and environment (Linux)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def be_the_first_to_go() -> None:
    """Called in a child: where memory runs out, the system ends this process and not its worker or the page (Linux)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def tie_to_worker(worker: int, lifeline: int) -> None:
    """What a child does first: it ends with its worker, before it where memory runs out, and shows nobody its own."""
    end_with_worker(worker, lifeline)
    be_the_first_to_go()
    keep_memory_private()


def end_with_worker(worker: int, lifeline: int) -> None:
    """Called in a child before its first stage: nothing of its process group outlives the worker.

    The kernel ends this process when the worker's thread ends (Linux). A second, tiny process waits for the
    worker's end of the pipe `lifeline` to close, then ends the whole group: also what this one started, on any system.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != worker:  # it ended before we asked
        os._exit(1)
    if os.fork() == 0:
        os.closerange(0, lifeline)
        os.closerange(lifeline + 1, 1024)
        while os.read(lifeline, 4096):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.close(lifeline)
