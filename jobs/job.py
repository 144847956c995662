"""A job as its owner sees it, and the folder that it works in."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from merging.errors import MergeError, Problem
from merging.progress import Progress

STAGES = ("pin", "fetch", "calibrate", "merge", "check", "publish", "clean")
EVALUATED_STAGES = (*STAGES[:-2], "evaluate", *STAGES[-2:])  # of a recipe with `evaluate`
STATISTICS_STAGES = ("pin", "fetch", "calibrate", "check", "publish", "clean")
VERIFY_STAGES = ("pin", "fetch", "merge", "compare", "clean")
Purpose = Literal["merge", "statistics", "verify"]
JobStatus = Literal["waiting", "running", "done", "failed", "cancelled"]
StageStatus = Literal["waiting", "running", "done", "failed"]
LOG_LIMIT = 5 << 20  # bytes of a job's log; what comes later is dropped


@dataclass(frozen=True)
class StageState:
    """One stage of a job. Times are Unix seconds, 0 while unknown."""

    name: str
    status: StageStatus = "waiting"
    started: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True)
class Job:
    """What is known of a job. Times are Unix seconds."""

    id: str
    user: str
    status: JobStatus
    stage: str  # the running stage, or the last one that ran; "" before the first
    stages: tuple[StageState, ...]
    progress: Progress | None  # of the running stage
    created: float
    updated: float
    recipe_yaml: str  # as submitted (for statistics the wish); submit it again to run the job again
    method: str  # of the merge; "statistics" for statistics
    models: tuple[str, ...]
    repo_id: str  # where the result goes
    url: str = ""  # of the published repo
    commit: str = ""
    error: str = ""  # why it failed, in one sentence
    problem: Problem | None = None  # the same with its parts
    publishable: bool = False  # it failed, but its result is kept: sign in and publish
    resumable: bool = False  # it failed before that, but all that was done is kept: sign in and go on
    purpose: Purpose = "merge"
    ahead: int = 0  # jobs, running and waiting, that come before it while it waits
    left: str = ""  # what a cancelled job has left on the Hub, in one sentence
    settling: bool = False  # that is being looked at
    summaries: tuple[dict[str, Any], ...] = ()  # of the statistics that the job has collected (`merging.summary`)
    verification: dict[str, Any] | None = None  # what a verification has found (`jobs.verify_result`)

    @property
    def ended(self) -> bool:
        """True when nothing will happen to it any more by itself."""
        return self.status in ("done", "failed", "cancelled") and not self.settling

    def as_dict(self) -> dict[str, Any]:
        """The job as plain data."""
        return asdict(self) | {"ended": self.ended, "problem": self.problem.as_dict() if self.problem else None}


@dataclass(frozen=True)
class JobSpec:
    """What the engine stores of a job, encrypted. The token is elsewhere; here is only the place it lies at."""

    recipe_yaml: str  # a recipe, or a wish for statistics
    user: str
    token_ref: str
    endpoint: str | None = None  # of the Hub, None is the library's own
    scopes: tuple[str, ...] | None = None  # that the sign-in granted, None when unknown
    folders_allowed: bool = False  # models may be folders of this machine (command line only)
    own_machine: bool = False  # the token is that of the machine, whose owner signs in at a shell
    stages: tuple[str, ...] = ()  # as they were when it was queued: a later version of the code keeps to them

    def as_dict(self) -> dict[str, Any]:
        """The spec as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "JobSpec":
        """The spec that was stored; what a later version has added to it is left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


class JobFailed(MergeError):
    """A job ended with a reason. `kept`: what was done is kept, and it can go on from `stage` with a new sign-in."""

    def __init__(self, problem: Problem, stage: str = "", kept: bool = False) -> None:
        super().__init__(problem.what, problem.why, problem.fix, problem.where)
        self.stage = stage
        self.kept = kept

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as stored."""
        return {"problem": asdict(self.problem), "stage": self.stage, "kept": self.kept}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "JobFailed":
        """The error that was stored."""
        return cls(Problem(**data["problem"]), data["stage"], data["kept"])


def job_id(user: str, recipe_yaml: str, nonce: str) -> str:
    """The same submission has the same id, so that it is one job however often it arrives."""
    digest = hashlib.sha256(json.dumps([user, recipe_yaml, nonce]).encode()).hexdigest()
    return f"m{digest[:23]}"


@dataclass(frozen=True)
class JobFolder:
    """The files of one job: `<home>/jobs/<id>/`. Only its owner's jobs and the worker read them."""

    home: Path
    id: str
    path: Path = field(init=False)

    def __post_init__(self) -> None:
        if not self.id.isalnum():
            raise ValueError(f"{self.id!r} is not the id of a job")
        object.__setattr__(self, "path", self.home.expanduser() / "jobs" / self.id)

    @property
    def recipe(self) -> Path:
        """The recipe as submitted."""
        return self.path / "recipe.yaml"

    @property
    def pinned(self) -> Path:
        """The recipe with every revision pinned."""
        return self.path / "pinned.yaml"

    @property
    def plan(self) -> Path:
        """The plan that was made from headers."""
        return self.path / "plan.json"

    @property
    def parents(self) -> Path:
        """Folder of the downloaded parents, one subfolder by index each."""
        return self.path / "parents"

    def parent(self, index: int) -> Path:
        """Folder of one parent's files."""
        return self.parents / str(index)

    @property
    def base(self) -> Path:
        """Folder of the base model's files."""
        return self.parents / "base"

    def statistics(self, index: int, kind: str) -> Path:
        """A parent's statistics of one kind."""
        return self.path / "statistics" / str(index) / f"{kind}.safetensors"

    @property
    def text(self) -> Path:
        """The text that was handed over with a wish for statistics: nobody else's to read, and gone with the job."""
        from merging.wish import HANDED_OVER  # only here: it imports torch

        return self.path / "text" / HANDED_OVER

    def rows(self, number: int) -> Path:
        """The labelled rows that were handed over for the evaluation set of that number, kept like `text`."""
        return self.text.with_name(f"evaluate-{number}.jsonl")

    @property
    def evaluation(self) -> Path:
        """Folder of what the stage evaluate has found so far."""
        return self.path / "evaluation"

    @property
    def output(self) -> Path:
        """The merged model, or the statistics."""
        return self.path / "output"

    @property
    def compared(self) -> Path:
        """What a verification has fetched of the published model."""
        return self.path / "published"

    @property
    def journal(self) -> Path:
        """Which shards of the output are finished (`merging.engine`)."""
        return self.path / "output.journal.json"

    @property
    def cache(self) -> Path:
        """What the Hub's libraries cache for this job alone."""
        return self.path / "cache"

    @property
    def report(self) -> Path:
        """How the merge went."""
        return self.path / "report.json"

    @property
    def log(self) -> Path:
        """One JSON object a line: time, stage, level, message."""
        return self.path / "log.jsonl"

    @property
    def published(self) -> Path:
        """Where the result stands on the Hub."""
        return self.path / "published.json"

    @property
    def seen(self) -> Path:
        """What the Hub showed of the models when they were merged (`jobs.recall`)."""
        return self.path / "seen.json"

    @property
    def publishing(self) -> Path:
        """There once the job has begun to publish."""
        return self.path / "publishing"

    @property
    def settled(self) -> Path:
        """What came of publishing in a job that was cancelled meanwhile (`jobs.settle`)."""
        return self.path / "settled.json"

    @property
    def renewed(self) -> Path:
        """There once the job has gone on with another sign-in, whose scopes nobody has noted."""
        return self.path / "renewed"

    @property
    def again(self) -> Path:
        """There while the stages before the present one are done once more, for their files were gone."""
        return self.path / "again"

    @property
    def starts(self) -> Path:
        """How often the present stage was started without an end."""
        return self.path / "starts.json"

    @property
    def size(self) -> int:
        """Bytes of all files in it."""
        found = 0
        for folder, _, names in os.walk(self.path):  # passes over what is gone meanwhile
            for name in names:
                with suppress(OSError):
                    found += os.lstat(f"{folder}/{name}").st_size
        return found

    def room(self, reserve: int) -> int:
        """Bytes of the disk that are the job's: those that it takes already, and all that are free but the reserve."""
        return max(0, shutil.disk_usage(self.path).free + self.size - reserve)

    def create(self) -> None:
        """Make the folder, readable by this user alone."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write_text(self, texts: Sequence[str]) -> None:
        """Keep the text that was handed over, one JSON object a line, readable by this user alone."""
        self._keep(self.text, [{"text": text} for text in texts])

    def write_rows(self, rows: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
        """Keep the rows that were handed over, by the number of their evaluation set, as `write_text` does."""
        for number, found in rows.items():
            self._keep(self.rows(number), found)

    def _keep(self, path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        self.create()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))

    def free(self, *, keep_output: bool = False) -> None:
        """Give the disk back: downloads, caches, handed-over text and (unless it is kept) the result."""
        shutil.rmtree(self.text.parent, ignore_errors=True)
        shutil.rmtree(self.parents, ignore_errors=True)
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.rmtree(self.evaluation, ignore_errors=True)
        shutil.rmtree(self.compared, ignore_errors=True)
        shutil.rmtree(self.path / "statistics", ignore_errors=True)
        self.journal.unlink(missing_ok=True)
        if not keep_output:
            shutil.rmtree(self.output, ignore_errors=True)

    def remove(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def append_log(self, stage: str, message: str, level: str = "info") -> None:
        """Add a line to the log. Never fails a job: a full disk or a removed folder is not its fault."""
        line = json.dumps({"time": round(time.time(), 3), "stage": stage, "level": level, "message": message})
        try:
            with self.log.open("a") as file:
                if file.tell() < LOG_LIMIT:
                    file.write(line + "\n")
        except OSError:
            pass

    def read_log(self) -> list[dict[str, Any]]:
        """The log's lines, a line that was cut off by a kill left out."""
        lines: list[dict[str, Any]] = []
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return lines
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        return lines


def write_atomically(path: Path, text: str) -> None:
    """Write a small file under a name of this attempt, sync it, then rename: it is whole or it is not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The JSON in a file, None when it is not there or not whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
