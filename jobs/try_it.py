"""Trying a published merge beside its parents: who may ask how often, who comes next, and the process that does it.

The page's process never loads a weight. One child process does, started when somebody asks, one question at a time; it
is ended when nobody has asked for a while, when a question takes too long, and with the page.
"""

import ipaddress
import logging
import os
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.child import JobProcess, child_environment
from merging.errors import InputError, MergeError, Problem
from merging.progress import Progress
from settings import Settings, parse_size

COMMAND = (sys.executable, "-m", "jobs.begin", "jobs.try_it_child")
FOLDER = "try"  # of the service's home
TEXT_LIMIT = 2000  # characters
WAITING, STRANGERS = 20, 15  # questions that may wait, and those of people who are not signed in among them
STRANGER = "at "  # begins the key of somebody who is not signed in; no user's name holds a space
OFTEN, SPAN = 10, 300.0  # questions of one person in so many seconds
FETCH_SECONDS, RUN_SECONDS = 300.0, 60.0  # that a question may fetch models, and ask them
IDLE = 300.0  # seconds without a question after which the process ends
POLL = 0.1  # seconds
SHELF = 4  # times the limit of one merge: bytes of models that are kept on the disk
MEMORY = 2 << 30  # bytes of data beside four for each byte of the limit: 16-bit numbers are loaded in 32, with copies

log = logging.getLogger(__name__)
State = Literal["waiting", "running", "done", "failed"]


@dataclass(eq=False)
class Question:
    """One question, as its asker follows it. Written by the thread that answers, read by the page."""

    repo_id: str
    commit: str
    text: str
    other: str  # the second line for a model that compares two
    person: str
    state: State = "waiting"
    progress: Progress | None = None
    result: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None
    left: bool = False  # nobody waits for it any more

    @property
    def ended(self) -> bool:
        """Whether there is an answer, or a reason why there is none."""
        return self.state in ("done", "failed")


class TryIt:
    """The questions of all people. `endpoint` is that of the Hub, None the library's own."""

    def __init__(self, settings: Settings, endpoint: str | None = None, command: Sequence[str] = COMMAND) -> None:
        self.limit = parse_size(settings.try_limit)
        self._place = settings.home.expanduser() / FOLDER
        self._reserve = parse_size(settings.disk_reserve)
        self._endpoint, self._command = endpoint, tuple(command)
        self._waiting: list[Question] = []
        self._asked: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()
        self._more: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: JobProcess | None = None
        self._closed = False

    def ask(self, repo_id: str, commit: str, text: str, other: str, person: str) -> Question:
        """Put a question into the line. Raises InputError for no or too much text, and for too many questions."""
        for line in (text, other):
            if len(line) > TEXT_LIMIT:
                why = f"{len(line):,} characters, at most {TEXT_LIMIT:,} are read"
                raise InputError("This text is too long to try", why, "Shorten it")
        if not text.strip():
            raise InputError("There is no text", "the models answer to one", "Write a line")
        question = Question(repo_id, commit, text.strip(), other.strip(), person)
        with self._lock:
            self._admit(person)
            self._waiting.append(question)
            if self._thread is None:
                self._thread = threading.Thread(target=self._answer_all, name="try-it", daemon=True)
                self._thread.start()
        self._more.put(None)
        return question

    def ahead(self, question: Question) -> int:
        """Questions that come before a waiting one, the one that is being answered among them."""
        with self._lock:
            return self._waiting.index(question) if question in self._waiting else 0

    def leave(self, question: Question) -> None:
        """Nobody waits for the answer any more."""
        question.left = True

    def close(self) -> None:
        """End the process, and start no other: what is asked from now on is told so."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            process.end()

    def _admit(self, person: str) -> None:
        """Note a question of this person. Raises InputError when there are too many, of theirs or of all."""
        now = time.monotonic()
        mine = [one for one in self._waiting if one.person == person and not one.left]
        if mine:
            raise InputError("You are trying something already", "one question at a time", "Wait for its answer")
        strangers = sum(one.person.startswith(STRANGER) for one in self._waiting)
        full = len(self._waiting) >= WAITING
        if full or (person.startswith(STRANGER) and strangers >= STRANGERS):
            why = f"{len(self._waiting)} questions are waiting"
            fix = "Try again in a minute" if full else "Sign in, or try again in a minute"
            raise InputError("Too many people are trying something now", why, fix)
        times = [when for when in self._asked.get(person, []) if now - when < SPAN]
        if len(times) >= OFTEN:
            wait = max(1, round((SPAN - (now - times[0])) / 60))
            why = f"{OFTEN} questions in {SPAN / 60:.0f} minutes are allowed"
            raise InputError("You have asked often", why, f"Try again in {wait} minute{'s' * (wait > 1)}")
        self._asked[person] = [*times, now]
        self._asked.move_to_end(person)
        while len(self._asked) > 10_000:
            self._asked.popitem(last=False)

    # In the thread that answers: the child ends with it, so it lives as long as the page

    def _answer_all(self) -> None:
        while True:
            try:
                self._more.get(timeout=IDLE)
            except queue.Empty:
                self._end_process()
                continue
            with self._lock:
                question = self._waiting[0]
            try:
                if not question.left:
                    self._answer(question)
            except MergeError as error:
                self._fail(question, error.problem)
            except Exception:
                log.exception("a question was not answered")
                self._fail(question, Problem("This could not be tried", "something went wrong here", "Try again"))
                self._end_process()
            with self._lock:
                self._waiting.remove(question)

    def _answer(self, question: Question) -> None:
        process = self._started()
        process.begin(
            "try",
            {
                "repo_id": question.repo_id,
                "commit": question.commit,
                "text": question.text,
                "other": question.other,
                "endpoint": self._endpoint,
                "limit": self.limit,
                "keep": SHELF * self.limit,
                "reserve": self._reserve,
                "memory": MEMORY + 4 * self.limit,
            },
        )
        question.state = "running"
        began, asking = time.monotonic(), 0.0
        while (status := process.wait(POLL)) is None:
            if process.answers.progress is not None:
                question.progress = Progress(**process.answers.progress)
            now = time.monotonic()
            if not asking and question.progress is not None and question.progress.unit == "models":
                asking = now
            limit, since = (RUN_SECONDS, asking) if asking else (FETCH_SECONDS, began)
            if now - since > limit:
                self._end_process()
                done = "The models" if asking else "Fetching the models"
                why = f"{limit:.0f} seconds are allowed"
                self._fail(question, Problem(f"{done} took too long", why, "Try a shorter text, or again later"))
                return
        self._take(question, process, status)

    def _take(self, question: Question, process: JobProcess, status: int) -> None:
        """What the child has answered, or why it has not."""
        error, result = process.answers.error, process.answers.result
        if status == 0 and error is None and result is not None:
            question.result, question.state = result, "done"
            return
        if error is not None:
            self._fail(question, Problem(**error["problem"]))
            return
        self._end_process()
        why = "most often the models are too large for the memory that is set aside for this"
        self._fail(question, Problem("The process that tries models ended", why, "Load them on a machine of your own"))

    def _fail(self, question: Question, problem: Problem) -> None:
        question.problem, question.state = problem, "failed"

    def _started(self) -> JobProcess:
        """The child, started where there is none."""
        if self._process is None or not self._process.alive:
            self._end_process()
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock:
                if self._closed:
                    raise MergeError("This service is being stopped", "", "Try again in a minute")
                self._process = JobProcess(self._command, self._place, self._environment(), _note)
        return self._process

    def _environment(self) -> Mapping[str, str]:
        """Nobody's token, and one thread."""
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
        return child_environment(self._place / "cache", self._endpoint, os.environ) | one

    def _end_process(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                self._process.end()
            self._process = None


def person_at(address: str) -> str:
    """A key for somebody who is not signed in: the address, of IPv6 the network that one household has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"{STRANGER}no address"
    if found.version == 6:
        return f"{STRANGER}{ipaddress.ip_network((found, 64), strict=False)}"
    return f"{STRANGER}{found}"


def _note(stage: str, level: str, message: str) -> None:
    """What the child says beside its answers."""
    log.info("%s", message)
