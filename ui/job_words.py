"""Jobs as people read them: one as it goes on, all of a person's, the log. HTML of escaped text, see `ui.render`."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from jobs.job import Job, StageState
from merging.method import METHODS
from merging.progress import Progress
from merging.recipe import Recipe
from ui import charts, sweep_chart
from ui.render import ago, download, link, notice, plural, recipe_link, text

STAGE_NAMES = {
    "pin": "Look up",
    "fetch": "Download",
    "calibrate": "Statistics",
    "merge": "Merge",
    "check": "Check",
    "evaluate": "Evaluate",
    "publish": "Publish",
    "clean": "Tidy up",
}
STATUS_NAMES = {
    "waiting": "Waiting",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
}
LOG_LINES = 200
BESIDE = 8  # other merges that one may be compared with at a click
MARKS = {"done": "✓", "failed": "✕", "running": "•", "waiting": ""}


def job(one: Job, *, base_url: str = "", now: float | None = None, end: str | None = None) -> str:
    """A job: its stages, how far it is, and at the end the link or the reason, or `end` in its place."""
    title = f"<h3>{text(one.repo_id or one.id)} {_status(one)}</h3>"
    models = ", ".join(_pinned(model) for model in one.models)
    facts = f"{method_title(one.method)} of {models} · {ago(one.created, now)} · job {one.id}"
    about = f'<p class="mm-quiet">{text(facts, 900)}</p>'
    ending = _end(one, base_url) if end is None else end
    return f'<div class="mm-job">{title}{about}{_steps(one.stages)}{_now(one)}{ending}</div>'


def _pinned(model: str) -> str:
    """`owner/name@` and of a commit only as much as people compare."""
    return re.sub(r"@([0-9a-f]{8})[0-9a-f]{32}$", r"@\1", model)


def _status(one: Job) -> str:
    return f'<span class="mm-chip mm-{one.status}">{STATUS_NAMES[one.status]}</span>'


def _steps(stages: Iterable[StageState]) -> str:
    items = "".join(
        f'<li class="mm-{stage.status}"{current}><span class="mm-mark">{MARKS[stage.status]}</span>'
        f'{text(STAGE_NAMES.get(stage.name, stage.name.title()))}<span class="mm-sr"> {stage.status}</span></li>'
        for stage in stages
        for current in (' aria-current="step"' if stage.status == "running" else "",)
    )
    return f'<ol class="mm-steps">{items}</ol>'


def _now(one: Job) -> str:
    if one.status == "waiting":
        return f'<p class="mm-quiet">{_place(one.ahead)}. You may close this page: the job goes on.</p>'
    if one.status != "running":
        return ""
    progress = one.progress
    words = _progress_words(progress) if progress else "Starting"
    value = f' value="{progress.fraction:.4f}"' if progress and progress.total else ""
    return (
        f'<progress max="1"{value} aria-label="progress of this stage"></progress>'
        f'<p class="mm-quiet">{text(words)}. You may close this page: the job goes on.</p>'
    )


def _place(ahead: int) -> str:
    """A waiting job's place in the queue."""
    return f"Waiting: {plural(ahead, 'job')} before it" if ahead else "Waiting for a worker: it is next"


def _progress_words(progress: Progress) -> str:
    stage = STAGE_NAMES.get(progress.stage, progress.stage)
    words = f"{stage}: {progress.message}" if progress.message else stage
    return f"{words} ({progress.words})" if progress.words else words


def _end(one: Job, base_url: str) -> str:
    if one.status == "done" and one.url:
        page = f"{base_url}/model?{urlencode({'id': one.repo_id})}"
        return (
            f"<p>{link(one.url, f'Open {one.repo_id} on the Hub', css='mm-big')}</p>"
            f"<p>{link(page, 'Its page here, to share', here=True)}</p>"
        )
    if one.status == "failed":
        kept = " The result is kept: sign in again and publish it." if one.publishable else ""
        kept = " What was done is kept: sign in again and go on." if one.resumable else kept
        return notice(f"{one.error or 'The job failed.'}{kept} (job {one.id})", "error")
    if one.status == "cancelled":
        if one.url:
            made = link(one.url, f"Open {one.repo_id} on the Hub", css="mm-big")
            return f"{notice('Cancelled, but it had been published before.')}<p>{made}</p>"
        return notice(f"Cancelled. {one.left or 'Nothing was published.'}")
    return ""


def log(lines: Sequence[Mapping[str, Any]]) -> str:
    """The last lines of a job's log; details, such as tracebacks, are for the operator alone."""
    told = [line for line in lines if line.get("level") != "detail"][-LOG_LINES:]
    rows = "\n".join(
        f"{time.strftime('%H:%M:%S', time.gmtime(line.get('time', 0)))}  "
        f"{text(line.get('stage', ''), 20):<10} {text(line.get('message', ''), 1000)}"
        for line in told
    )
    pre = f'<pre class="mm-log">{rows or "Nothing yet."}</pre>'
    return f'<div class="mm-tail" role="log" tabindex="0" aria-label="log">{pre}</div>'


def jobs(found: Sequence[Job], chosen: str = "", now: float | None = None) -> str:
    """The jobs of a person, newest first, each a link to itself."""
    if not found:
        return (
            '<div class="mm-empty"><p>No jobs yet.</p>'
            f"<p>{link('/', 'Start your first merge', css='mm-button', here=True)}</p></div>"
        )
    return f'<ul class="mm-list">{"".join(_job_line(one, chosen, now) for one in found)}</ul>'


def _job_line(one: Job, chosen: str, now: float | None) -> str:
    current = ' aria-current="true"' if one.id == chosen else ""
    about = f"{method_title(one.method)} of {plural(len(one.models), 'model')} · {ago(one.created, now)}"
    return (
        f'<li><a href="{job_link(one)}"{current}><b>{text(one.repo_id or one.id)}</b>'
        f'{_status(one)}<span class="mm-quiet">{text(about)}</span></a></li>'
    )


def job_link(one: Job) -> str:
    """The page of one job."""
    return f"/jobs?{urlencode({'id': one.id})}"


def method_title(name: str) -> str:
    """A method's title (statistics are none, but jobs too), its name when it is not known here."""
    return (
        METHODS[name].title
        if name in METHODS
        else {"statistics": "Statistics", "verify": "Verification"}.get(name, name)
    )


def job_links(one: Job, recipe: Recipe) -> str:
    """What can be done with a job's recipe: run it again, changed or not, and keep it."""
    return (
        f'<p class="mm-actions">{link(recipe_link("", recipe), "Run again", css="mm-button", here=True)} '
        f"{download(one.recipe_yaml, 'recipe.yaml', 'Download the recipe')}</p>"
    )


def figures(
    one: Job, report: Mapping[str, Any], others: Sequence[Job], other: tuple[Job, Mapping[str, Any]] | None
) -> str:
    """How a merge did, and beside it another one or the way to one."""
    evaluation = report.get("evaluation") or {}
    shown = charts.evaluation(evaluation) + sweep_chart.sweep(evaluation)
    if not shown:
        return ""
    parts = [f'<section class="mm-card"><h3>How it does</h3>{shown}</section>']
    if other is not None:
        titles = [named.repo_id or named.id for named in (one, other[0])]
        table = charts.compared(titles, [evaluation, other[1].get("evaluation") or {}])
        parts.append(f'<section class="mm-card"><h3>Two merges side by side</h3>{table}</section>')
    links = [_beside(one, named) for named in others if named.id != one.id]
    if links:
        parts.append(
            f'<nav aria-label="Compare with another merge"><p>Compare with {" ".join(links[:BESIDE])}</p></nav>'
        )
    return "".join(parts)


def _beside(one: Job, other: Job) -> str:
    address = f"/jobs?{urlencode({'id': one.id, 'with': other.id})}"
    return link(address, other.repo_id or other.id, css="mm-small", here=True)


def evaluated(one: Job) -> bool:
    """Whether a job has ended with figures, as far as its stages say."""
    return any(stage.name == "evaluate" and stage.status == "done" for stage in one.stages)
