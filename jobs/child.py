"""A stage's heavy work runs in a child process: the worker's side of it, and what both sides must agree on.

The worker writes one JSON line (with the token) to the child's stdin and keeps it open; the child answers with
JSON lines on stdout and prose on stderr. The child has its own process group, so that all it starts ends with it,
and it ends when its worker does.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "jobs.stage")
SECRET_VARIABLES = (
    "MERGE_SECRET_KEY",
    "MERGE_DATABASE_URL",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "OAUTH_CLIENT_SECRET",
)
LINE_LIMIT = 1 << 16  # characters of one line of a child
HUB_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{6,}|hf_oauth_[\w.-]{6,})|(?<=[Bb]earer )[\w.~+/=-]{6,}")


def scrub(text: str, token: str = "") -> str:
    """The text without the token, and without anything that looks like one."""
    if token:
        text = text.replace(token, "***")
    return HUB_TOKEN.sub("***", text)


@dataclass
class Answers:
    """What a child has said so far; written by the reading thread, read by the step."""

    progress: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    result: dict[str, Any] = field(default_factory=dict)


class StageProcess:
    """A stage under way. `log(level, message)` gets the child's prose, scrubbed of the token."""

    def __init__(
        self,
        command: Sequence[str],
        arguments: Sequence[str],
        request: Mapping[str, Any],
        environment: Mapping[str, str],
        log: Callable[[str, str], None],
    ) -> None:
        self.answers = Answers()
        self._token = str(request.get("token") or "")
        self._log = log
        self._process = subprocess.Popen(
            [*command, *arguments, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=dict(environment),
            cwd=ROOT,
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._read_answers, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_prose, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._send(request)

    @property
    def pid(self) -> int:
        """Of the child, and of its process group."""
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """The exit status, None when it still runs after so many seconds."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self.kill()  # whatever it left behind in its group
        for thread in self._threads:
            thread.join(timeout=5)
        return status

    def kill(self) -> None:
        """End the child and all that it started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it died at once; its exit status tells
            self._process.stdin.write(json.dumps(dict(request)) + "\n")
            self._process.stdin.flush()

    def _read_answers(self, stream: IO[str]) -> None:
        for line in iter(lambda: stream.readline(LINE_LIMIT), ""):
            try:
                answer = json.loads(scrub(line, self._token))
            except ValueError:
                self._log("info", scrub(line.strip(), self._token)[:2000])
                continue
            if "progress" in answer:
                self.answers.progress = answer["progress"]
            elif "error" in answer:
                self.answers.error = answer["error"]
            elif "log" in answer:
                self._log("info", str(answer["log"]))
            elif "result" in answer:
                self.answers.result = answer["result"]

    def _read_prose(self, stream: IO[str]) -> None:
        for line in iter(lambda: stream.readline(LINE_LIMIT), ""):
            text = scrub(line.rstrip(), self._token)
            if text:
                self._log("detail", text[:2000])


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


def end_with_worker(worker: int) -> None:
    """Called in a child after its request was read: nothing of its process group outlives the worker.

    The kernel ends this process when the worker's thread ends (Linux). A second, tiny process waits for the
    worker's end of stdin to close, then ends the whole group: also what this one started, on any system.
    """
    if sys.platform.startswith("linux"):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != worker:  # it ended before we asked
        os._exit(1)
    if os.fork() == 0:
        os.closerange(1, 1024)
        while os.read(0, 4096):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)
