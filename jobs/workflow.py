"""The durable part: one workflow, one step a stage, each step done by the job's child process, which is watched.

A step runs at least once: what it does must be repeatable. It ends early when the job is cancelled (the child's
process group is killed), and not at all when the worker is stopped: then it simply runs again at the next start.
"""

import json
import logging
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

from dbos import DBOS, DBOSClient
from dbos._error import DBOSAwaitedWorkflowCancelledError
from sqlalchemy.exc import SQLAlchemyError

from jobs import evaluation, settle
from jobs.child import COMMAND, JobProcess, child_environment, scrub, unforeseen
from jobs.job import JobFailed, JobFolder, JobSpec, read_json, write_atomically
from jobs.outline import outline_of
from jobs.room import Room
from jobs.store import WORKFLOW, Store
from merging.errors import Problem
from merging.progress import LINE_EVERY, Lines, Pace, Progress
from settings import Settings, parse_size

POLL = 0.25  # seconds between two looks at the child
CANCEL_EVERY = 0.5  # seconds between two looks whether the job is still ours
EVENT_EVERY = 0.5  # seconds between two progress events at least
AWAY_EVERY = 1.0  # seconds between two questions to a database that does not answer
SETTLE_SECONDS = 60.0  # that a look at what a cancelled job has left may take
LOG_EVERY = LINE_EVERY  # seconds between two lines of a job's log about its progress at least
STARTS_LIMIT = 3  # a stage that ended its worker so often is not started again
ENGINE_LIMIT = 100  # starts of one job that DBOS allows, whatever the reason

T = TypeVar("T")
log = logging.getLogger(__name__)


class Disowned(Exception):
    """Another worker has this job now: leave its folder and its token alone."""


class Runner:
    """Runs the stages of jobs in this worker. `command` starts a job's child process."""

    def __init__(self, settings: Settings, store: Store, executor: str, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._store = store
        self._executor = executor
        self._command = tuple(command)
        self._client: DBOSClient = store.client()
        self._running: dict[tuple[str, int], JobProcess] = {}  # id of a job and of the thread that runs it -> child
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._room = Room(store, self._client, parse_size(settings.disk_reserve), self._running, self._lock)

    def register(self) -> Callable[..., Any]:
        """Give DBOS the workflow, and its log our filter; from now on keep room. Call once, before launch."""
        logging.getLogger("dbos").addFilter(in_one_line)
        self._room.start(self._stopping)

        def merge_job(spec: dict[str, Any]) -> dict[str, Any]:
            return self._run(JobSpec.from_dict(spec))

        workflow: Callable[..., Any] = DBOS.workflow(name=WORKFLOW, max_recovery_attempts=ENGINE_LIMIT)(merge_job)
        return workflow

    def stop(self) -> None:
        """Kill every child, so that their steps run again at the next start. They do not count as crashes."""
        with self._lock:
            self._stopping.set()
            running = dict(self._running)
        for (id, _), process in running.items():
            process.end()
            JobFolder(self._store.home, id).starts.unlink(missing_ok=True)

    def _run(self, spec: JobSpec) -> dict[str, Any]:
        """The workflow: deterministic, the stages in their order."""
        folder = JobFolder(self._store.home, spec.token_ref)
        try:
            result: dict[str, Any] = {}
            for stage in _stages(spec):
                needless = stage == "calibrate" and result.get("missing_statistics") == 0
                result |= DBOS.run_step({"name": stage}, dict if needless else partial(self._step, stage, spec, folder))
            return result
        except JobFailed as failure:
            if failure.kept and failure.stage != "publish":
                self._pause(spec, folder)
            else:
                self._release(spec, folder, keep_output=failure.kept)
            raise
        except BaseException:
            if self._patiently(lambda: self._state(spec.token_ref))[0] == "CANCELLED":
                self._release(spec, folder)
            raise
        finally:
            self._end(spec.token_ref)

    def _end(self, id: str) -> None:
        """The job needs the child of this thread no more."""
        with self._lock:
            process = self._running.pop((id, threading.get_ident()), None)
            self._room.forget(id)
        if process is not None:
            process.end()

    def _step(self, stage: str, spec: JobSpec, folder: JobFolder) -> dict[str, Any]:
        return self._forgiving(stage, folder, partial(self._attempt, stage, spec, folder))

    def _forgiving(self, stage: str, folder: JobFolder, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A stage's work. An evaluation that failed is noted in the report: the merge is none the worse and goes on."""
        try:
            return work()
        except JobFailed as failure:
            if stage != "evaluate" or self._patiently(lambda: self._state(folder.id))[0] == "CANCELLED":
                raise
            log.warning("job %s: %s", folder.id, failure, extra={"job": folder.id, "stage": stage})
            evaluation.give_up(folder, failure.problem)
            return {}

    def _attempt(self, stage: str, spec: JobSpec, folder: JobFolder) -> dict[str, Any]:
        """One stage, with everything that may go wrong put into one sentence without secrets."""
        folder.create()
        began = time.time()
        _say(folder, stage, f"{stage} started on {self._executor}")
        try:
            self._room.raise_if_short(stage, folder.id)
            if stage not in ("publish", "clean") and (problem := self._room.shortage()):
                raise JobFailed(problem, stage)
            self._count_start(stage, folder)
            if stage == "clean":
                result = self._clean(spec, folder)
            else:
                self._begin_again(stage, spec, folder)
                result = self._watch(stage, spec, folder)
        except Disowned:
            log.warning("job %s: another worker has it now", folder.id, extra={"job": folder.id, "stage": stage})
            raise
        except JobFailed as failure:
            if self._room.full():
                failure.kept = failure.kept and stage == "publish"
                folder.free(keep_output=failure.kept or stage == "evaluate")
            folder.starts.unlink(missing_ok=True)
            folder.append_log(stage, str(failure), "error")  # the operator reads it as the job's end, see `in_one_line`
            raise
        except Exception as error:
            self._hold_if_stopping()
            folder.starts.unlink(missing_ok=True)
            problem = unforeseen(stage, error)
            where = scrub("".join(traceback.format_exception(error)))
            about = {"job": folder.id, "stage": stage}
            log.error("job %s: the stage %s failed unexpectedly\n%s", folder.id, stage, where, extra=about)
            folder.append_log(stage, str(problem), "error")
            raise JobFailed(problem, stage, stage == "publish") from None
        folder.starts.unlink(missing_ok=True)
        _say(folder, stage, f"{stage} done in {time.time() - began:.1f} s")
        return result

    def _begin_again(self, stage: str, spec: JobSpec, folder: JobFolder) -> None:
        """Do the earlier stages once more where their files are gone: on another machine, or on a new disk.

        The first of them writes what the files are known by, so that a mark says until the last has ended that they
        are not all there.
        """
        stages = _stages(spec)
        if stage == stages[0] or (folder.pinned.exists() and not folder.again.exists()):
            return
        folder.again.touch()
        _say(folder, stage, "the files of this job are not here: what was done before is done again")
        for earlier in stages[: stages.index(stage)]:
            self._forgiving(earlier, folder, partial(self._watch, earlier, spec, folder))
        folder.again.unlink(missing_ok=True)

    def _watch(self, stage: str, spec: JobSpec, folder: JobFolder) -> dict[str, Any]:
        """Run the stage in the job's child to its end, publishing progress, obeying cancel and stop."""
        token = self._patiently(lambda: self._store.tokens.get(spec.token_ref))
        if token is None:
            problem = Problem("The sign-in of this job is gone", "its token was deleted", "Sign in and try again")
            raise JobFailed(problem, stage, stage == "publish")
        if stage == "publish":
            folder.publishing.touch()
        process = self._begin(stage, spec, folder, token)
        try:
            status = self._wait(process, stage, folder)
        except BaseException:
            self._end(spec.token_ref)
            raise
        self._hold_if_stopping()
        if process.answers.result is not None:
            return process.answers.result
        self._room.raise_if_short(stage, folder.id)
        if self._running.get((folder.id, threading.get_ident())) is not process:
            raise Disowned(folder.id)  # it was taken from us and came back: the later start has it
        error = process.answers.error
        if error is not None and error["full"] and (full := self._room.full()):
            raise JobFailed(full, stage, stage == "publish")
        raise _failure(stage, status, error, wait=not folder.text.parent.exists())

    def _begin(self, stage: str, spec: JobSpec, folder: JobFolder, token: str) -> JobProcess:
        """Have the job's child begin the stage; a new child where there is none."""
        request = {
            "token": token,
            "endpoint": spec.endpoint,
            "scopes": None if folder.renewed.exists() else spec.scopes,
            "recipe_yaml": spec.recipe_yaml,
            "user": spec.user,
            "folders_allowed": spec.folders_allowed,
            "own_machine": spec.own_machine,
            "device": self._settings.device,
            "threads": self._settings.threads,
            "memory": parse_size(self._settings.memory),
            "reserve": self._room.reserve,
            "public_url": self._settings.public_url,
        }
        shutil.rmtree(folder.cache, ignore_errors=True)
        with self._lock:
            self._hold_if_stopping()
            mine = (spec.token_ref, threading.get_ident())
            for other in [one for one in self._running if one[0] == spec.token_ref and one != mine]:
                self._running.pop(other).end()
            process = self._running.get(mine)
            if process is None or not process.alive:
                environment = child_environment(folder.cache, spec.endpoint, os.environ)
                process = JobProcess(
                    self._command,
                    folder.path,
                    environment,
                    lambda stage, level, message: folder.append_log(stage, message, level),
                )
                self._running[mine] = process
            process.begin(stage, request)
        return process

    def _wait(self, process: JobProcess, stage: str, folder: JobFolder) -> int:
        """The child's exit status. Raises JobFailed when the job is no longer to run here."""
        started, told, looked = time.time(), 0.0, time.monotonic()
        pace, lines = Pace(), Lines(LOG_EVERY)
        shown: Progress | None = None
        _tell(stage, started, None)
        while True:
            status = process.wait(POLL)
            self._hold_if_stopping()
            now = time.monotonic()
            if process.answers.progress is not None:
                latest = pace.told(Progress(**process.answers.progress), now)
                if latest != shown and (now - told >= EVENT_EVERY or status is not None):
                    _tell(stage, started, latest)
                    told, shown = now, latest
                if line := lines.line(latest, now):
                    folder.append_log(stage, line)
            if status is not None:
                if status == 0 and (summary := pace.summary()):
                    folder.append_log(stage, summary)
                return status
            if now - looked >= CANCEL_EVERY:
                looked = now
                try:
                    state, owner = self._state(folder.id)
                except SQLAlchemyError:
                    continue  # the database is away: the work goes on
                if state != "PENDING" or owner != self._executor:
                    raise Disowned(folder.id) if state != "CANCELLED" else JobFailed(Problem("The job was cancelled"))

    def _state(self, id: str) -> tuple[str, str | None]:
        """Status and executor of a job as the database has them now."""
        found = self._client.list_workflows(workflow_ids=[id], load_input=False, load_output=False)
        return (found[0].status, found[0].executor_id) if found else ("CANCELLED", None)

    def _clean(self, spec: JobSpec, folder: JobFolder) -> dict[str, Any]:
        """Keep recipe, report and log; everything large and the token go."""
        self._release(spec, folder)
        published: dict[str, Any] = read_json(folder.published) or {}
        return {"published": published}

    def _release(self, spec: JobSpec, folder: JobFolder, *, keep_output: bool = False) -> None:
        folder.free(keep_output=keep_output)
        if not keep_output and settle.is_unsettled(folder):
            self.settle(spec, folder)
        else:
            self._patiently(lambda: self._store.tokens.delete(spec.token_ref))

    def _pause(self, spec: JobSpec, folder: JobFolder) -> None:
        """Keep all that was done, for somebody who signs in again; the token goes."""
        shutil.rmtree(folder.cache, ignore_errors=True)
        self._patiently(lambda: self._store.tokens.delete(spec.token_ref))

    def settle(self, spec: JobSpec, folder: JobFolder) -> None:
        """Look once at what a cancelled job has left on the Hub; then its token goes, whatever the Hub has said."""
        token = self._patiently(lambda: self._store.tokens.get(spec.token_ref))
        if token is not None:
            self._begin("settle", spec, folder, token).wait(SETTLE_SECONDS)
            self._end(spec.token_ref)
            self._hold_if_stopping()
        if settle.is_unsettled(folder):
            settle.give_up(folder)
        folder.free()
        self._patiently(lambda: self._store.tokens.delete(spec.token_ref))

    def _count_start(self, stage: str, folder: JobFolder) -> None:
        """Refuse a stage that took its worker down with it again and again, without another shard in between."""
        before, shards = read_json(folder.starts) or {}, len((read_json(folder.journal) or {}).get("shards", ()))
        same = before.get("stage") == stage and before.get("shards", 0) == shards
        count = before.get("count", 0) if same else 0
        if count >= STARTS_LIMIT:
            problem = Problem(
                f"This job ended its worker {count} times",
                f"each time in the stage {stage}, perhaps for want of memory",
                "Try smaller models, or tell the operator",
            )
            raise JobFailed(problem, stage, stage == "publish")
        write_atomically(folder.starts, json.dumps({"stage": stage, "count": count + 1, "shards": shards}))

    def _patiently(self, ask: Callable[[], T]) -> T:
        """The answer of the database, however long it is away."""
        while True:
            try:
                return ask()
            except SQLAlchemyError:
                self._hold_if_stopping()
                time.sleep(AWAY_EVERY)

    def _hold_if_stopping(self) -> None:
        """While the worker stops, a step must neither return nor raise: either would be recorded."""
        if self._stopping.is_set():
            _hold()


def _stages(spec: JobSpec) -> tuple[str, ...]:
    """A job's stages as they were when it was queued; one of an earlier version did not note them."""
    return tuple(spec.stages) or outline_of(spec.recipe_yaml).stages


def in_one_line(record: logging.LogRecord) -> bool:
    """A filter of DBOS' log, which shows a traceback for each job that ends early: ours need only their reason.

    That it waits for what became of a job which is not its any more is left out: we have said why.
    """
    if record.funcName == "adopt_recorded_outcome":
        return False
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, DBOSAwaitedWorkflowCancelledError):
        reason = "it was cancelled"
    elif isinstance(error, Disowned):
        reason = "another worker has it now"
    elif isinstance(error, JobFailed):
        reason = " ".join(str(error).split())
    elif isinstance(error, SQLAlchemyError) or "(psycopg." in str(record.msg):
        record.msg, record.args = "the job database does not answer: %s", (record.funcName,)
        record.exc_info = record.exc_text = None
        return True
    else:
        return True
    record.msg, record.args = "job %s ended here: %s", (DBOS.workflow_id, reason)
    record.name, record.levelno, record.levelname = __name__, logging.WARNING, "WARNING"
    vars(record).update(job=DBOS.workflow_id, stage=getattr(error, "stage", ""))
    record.exc_info = record.exc_text = None
    return True


def _say(folder: JobFolder, stage: str, message: str) -> None:
    """A line for the job's owner, and the same for the operator."""
    folder.append_log(stage, message)
    log.info("job %s: %s", folder.id, message, extra={"job": folder.id, "stage": stage})


def _hold() -> NoReturn:
    while True:
        time.sleep(3600)


def _tell(stage: str, started: float, progress: Progress | None) -> None:
    event = (progress or Progress(stage, 0, 0, "")).as_dict()
    DBOS.set_event("progress", event | {"stage": stage, "started": started, "updated": time.time()})


def _failure(stage: str, status: int, error: dict[str, Any] | None, *, wait: bool) -> JobFailed:
    """Why a child ended badly. `wait`: what may pass can be waited for, as no text was handed over with the job."""
    if error is not None:
        return JobFailed(Problem(**error["problem"]), stage, stage == "publish" or (wait and error["passing"]))
    if status < 0:
        problem = Problem(
            f"The stage {stage} was killed",
            f"signal {-status}, most often because memory ran out",
            "Try smaller models, or tell the operator",
        )
    else:
        problem = Problem(f"The stage {stage} ended with status {status}", "see the log", "Run the job again")
    return JobFailed(problem, stage, stage == "publish")
