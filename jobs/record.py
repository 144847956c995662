"""The engine's record of a job, in the words of its owner: its stages, how it stands, and why it failed."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from dbos._sys_db import WorkflowStatus

from jobs import settle
from jobs.job import Job, JobFailed, JobFolder, JobSpec, JobStatus, StageState, read_json
from jobs.outline import outline_of
from jobs.upkeep import is_stranded
from merging.errors import Problem
from merging.progress import Progress

STATUS: dict[str, JobStatus] = {
    "ENQUEUED": "waiting",
    "DELAYED": "waiting",
    "PENDING": "running",
    "SUCCESS": "done",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}


def spec_of(status: WorkflowStatus) -> JobSpec:
    """What the job was queued with; a record that was loaded without its input has none."""
    assert status.input is not None
    return JobSpec.from_dict(status.input["args"][0])


def job_of(
    status: WorkflowStatus, steps: Sequence[Any], event: dict[str, Any] | None, folder: JobFolder, ahead: int
) -> Job:
    """The job: its record, the steps that are recorded of it, and what a running one has told last."""
    spec = spec_of(status)
    outline = outline_of(spec.recipe_yaml)
    state = STATUS[status.status]
    stages = _stages(spec.stages or outline.stages, steps, event, state)
    failure = failure_of(status)
    started = [stage for stage in stages if stage.status != "waiting"]
    published = read_json(folder.published) or _published(steps)
    return Job(
        id=status.workflow_id,
        user=spec.user,
        status="failed" if failure else state,
        stage=started[-1].name if started else "",
        stages=stages,
        progress=_progress(event) if event else None,
        created=(status.created_at or 0) / 1000,
        updated=max((status.updated_at or 0) / 1000, event["updated"] if event else 0.0),
        recipe_yaml=spec.recipe_yaml,
        method=outline.method,
        models=outline.models,
        repo_id=outline.repo_id,
        url=published.get("url", ""),
        commit=published.get("commit", ""),
        error=str(failure) if failure else "",
        problem=failure.problem if failure else None,
        publishable=bool(failure and failure.kept and failure.stage == "publish" and folder.output.is_dir()),
        resumable=bool(failure and failure.kept and failure.stage != "publish" and folder.path.is_dir()),
        purpose=outline.purpose,
        left=settle.words(folder, outline.repo_id) if state == "cancelled" else "",
        settling=state == "cancelled" and settle.is_unsettled(folder),
        ahead=ahead,
        verification=_verification(steps),
        summaries=_summaries(folder) if outline.purpose == "statistics" and published else (),
    )


def _progress(event: dict[str, Any]) -> Progress:
    """What an event tells of the running stage; one of an earlier version may lack fields."""
    names = {field.name for field in fields(Progress)}
    return Progress(**{name: value for name, value in event.items() if name in names})


def _published(steps: Sequence[Any]) -> dict[str, Any]:
    """Where the result stands, of a job whose files are on another machine."""
    outputs = [step["output"] for step in steps if step["function_name"] == "publish"]
    return (outputs[0] or {}).get("published", {}) if outputs else {}


def _verification(steps: Sequence[Any]) -> dict[str, Any] | None:
    """What a verification has found, None before its end."""
    outputs = [step["output"] for step in steps if step["function_name"] == "compare"]
    return (outputs[0] or {}).get("verification") if outputs else None


def _summaries(folder: JobFolder) -> tuple[dict[str, Any], ...]:
    """What a statistics job has published."""
    return tuple((read_json(folder.report) or {}).get("summaries", ()))


def _stages(
    names: Sequence[str], steps: Sequence[Any], event: dict[str, Any] | None, state: JobStatus
) -> tuple[StageState, ...]:
    """Every stage with what is recorded of it; the one that an event tells of is running."""
    states = {name: StageState(name) for name in names}
    for step in steps:
        name = step["function_name"]
        if name in states:
            started, ended = step["started_at_epoch_ms"] or 0, step["completed_at_epoch_ms"] or 0
            states[name] = StageState(name, "failed" if step["error"] else "done", started / 1000, ended / 1000)
    if event and state == "running" and states[event["stage"]].status == "waiting":
        states[event["stage"]] = StageState(event["stage"], "running", event["started"])
    return tuple(states.values())


def failure_of(status: WorkflowStatus) -> JobFailed | None:
    """Why a job failed, None when it did not."""
    if is_stranded(status):
        return JobFailed(
            Problem(
                "No worker can run this job", "another version of the service queued it", "Cancel it and run it again"
            )
        )
    if status.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
        return JobFailed(Problem("This job was started too often", "its worker ended each time", "Tell the operator"))
    if status.status != "ERROR":
        return None
    if isinstance(status.error, JobFailed):
        return status.error
    return JobFailed(Problem("The job failed", "the reason cannot be read", "Run it again"))
