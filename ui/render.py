"""What people read, as HTML made of escaped text: the Hub's names, its cards and every error are from strangers.

Every function returns a fragment for `gr.HTML`. Class names begin with `mm-` and are styled in `style.css`.
"""

import base64
import html
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from hub.search import Hit
from jobs.job import Job, StageState
from merging.errors import Problem
from merging.method import METHODS, MergeMethod
from merging.parent import Parent
from merging.plan import Plan
from merging.progress import Progress
from merging.progress import size as size
from merging.recipe import Recipe
from ui.forms import label, methods

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
TASK_NAMES = {
    "ForSequenceClassification": "text classifier",
    "ForTokenClassification": "token classifier",
    "ForQuestionAnswering": "question answering",
    "ForMaskedLM": "masked language model",
    "ForCausalLM": "language model",
    "LMHeadModel": "language model",
    "ForImageClassification": "image classifier",
}
NEED_NAMES = {"gram": "Gram statistics", "fisher": "Fisher statistics", "base": "the common base"}
LOG_LINES = 200
MARKS = {"done": "✓", "failed": "✕", "running": "•", "waiting": ""}


def text(value: object, limit: int = 300) -> str:
    """Anything as text that HTML leaves alone, at most `limit` characters of it."""
    words = str(value)
    return html.escape(words if len(words) <= limit else words[: limit - 1] + "…")


def link(url: str, words: str, *, css: str = "", here: bool = False) -> str:
    """A link, in a new tab unless `here`. Anything but http(s) and our own paths becomes plain text."""
    if not re.match(r"https?://|/(?![/\\])", url):
        return text(words)
    kind = f' class="{css}"' if css else ""
    tab = "" if here else ' target="_blank" rel="noopener"'
    return f'<a href="{html.escape(url)}"{kind}{tab}>{text(words)}</a>'


def number(count: int) -> str:
    """A number of parameters in words: `22.7 M`."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return str(count)


def plural(count: int, word: str) -> str:
    """`1 head`, `3 heads`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def ago(moment: float, now: float | None = None) -> str:
    """A Unix time in words: `3 minutes ago`."""
    seconds = max(0.0, (time.time() if now is None else now) - moment)
    if seconds < 45:
        return "just now"
    for limit, length, word in ((3600, 60, "minute"), (86400, 3600, "hour")):
        if seconds < limit - length / 2:
            return f"{plural(max(1, round(seconds / length)), word)} ago"
    return f"{plural(round(seconds / 86400), 'day')} ago"


def paper(method: MergeMethod) -> str:
    """The paper of a method, its arXiv number as a link."""
    found = re.search(r"arXiv (\d{4}\.\d{4,5})", method.paper)
    url = f"https://arxiv.org/abs/{found[1]}" if found else method.paper
    return link(url, method.paper)


def problems(found: Iterable[Problem]) -> str:
    """A list of problems, errors first."""
    ordered = sorted(found, key=lambda problem: problem.severity != "error")
    if not ordered:
        return ""
    items = "".join(
        f'<li class="mm-{problem.severity}"><span class="mm-sr">{problem.severity}: </span>{text(problem, 900)}</li>'
        for problem in ordered
    )
    return f'<ul class="mm-problems">{items}</ul>'


def notice(sentence: str, kind: str = "info") -> str:
    """One sentence that stands out: `info`, `warning` or `error`."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="mm-notice mm-{kind}" role="{role}">{text(sentence, 900)}</p>' if sentence else ""


def method_summary(method: MergeMethod) -> str:
    """What a method does, in one line, with its paper."""
    named = ", ".join(NEED_NAMES.get(need, need) for need in sorted(method.needs))
    needs = f' <span class="mm-chip">needs {text(named)}</span>' if named else ""
    return f'<p class="mm-summary">{text(method.summary, 500)}{needs}<br><small>{paper(method)}</small></p>'


def hit(found: Hit) -> str:
    """One search result as a line of the picker (plain text: a dropdown shows it as it is)."""
    facts = [fact for fact in (found.task, found.model_type, "private" if found.private else "") if fact]
    return f"{found.repo_id}  ·  {' · '.join(facts)}"[:160] if facts else found.repo_id


def kind_of(parent: Parent) -> str:
    """`bert text classifier, 77 labels`."""
    task = next((name for ending, name in TASK_NAMES.items() if parent.architecture.endswith(ending)), "model")
    named = f", {len(parent.labels)} labels" if "classifier" in task and parent.labels else ""
    return f"{parent.model_type} {task}{named}".strip()


def model_row(
    model: str,
    parent: Parent | None,
    share: str,
    needs: Iterable[str],
    found: Sequence[Problem],
    hub_url: str,
    recipe: Recipe | None = None,
) -> str:
    """One picked model: what it is, its share, what was found of what the method needs, what is wrong with it.

    Whoever collects what is missing finds the way back to the `recipe`.
    """
    repo_id, _, revision = model.partition("@")
    name = link(f"{hub_url}/{quote(repo_id)}", repo_id, css="mm-model")
    pinned = f' <code title="pinned revision">{text(revision[:8])}</code>' if revision else ""
    chips = [f'<span class="mm-chip mm-share">{text(share)}</span>'] if share else []
    if parent is not None:
        facts = [kind_of(parent), size(parent.weight_bytes), parent.license or "no licence named"]
        facts += ["private or gated"] if parent.restricted else []
        chips += [f'<span class="mm-chip">{text(fact, 80)}</span>' for fact in facts]
        chips += [_statistics_chip(parent, kind, recipe) for kind in sorted(needs) if kind != "base"]
    elif not found:
        chips.append('<span class="mm-chip">looking it up …</span>')
    facts_line = f'<div class="mm-chips">{"".join(chips)}</div>'
    return f'<div class="mm-row"><div>{name}{pinned}</div>{facts_line}{problems(found)}</div>'


def _statistics_chip(parent: Parent, kind: str, recipe: Recipe | None) -> str:
    fact, name = parent.statistics.get(kind), kind.title()
    if fact is not None:
        examples = f" from {plural(fact.examples, 'example')}" if fact.examples else ""
        return f'<span class="mm-chip mm-good" title="{text(fact.source)}">{name} found{examples}</span>'
    if parent.calibration:
        return f'<span class="mm-chip">{name} collected from text</span>'
    model = f"{parent.model}@{parent.revision}" if parent.revision else parent.model
    collect = link(statistics_link(model, kind, recipe), "collect them", here=True)
    return f'<span class="mm-chip mm-bad">{name} missing</span> <span class="mm-chip">{collect}</span>'


def preview(plan: Plan, parents: Sequence[Parent], found: Sequence[Problem], *, private: bool, signed_in: bool) -> str:
    """What will happen, in plain words, and what stands in the way."""
    if any(problem.severity == "error" for problem in found):
        return impossible(found)
    body = f'<h3 class="mm-yes">{"Ready to merge" if signed_in else "This merge will work"}</h3>'
    expected = f"<p>{text(plan.expectation)}</p>" if plan.expectation else ""
    body += f"<p>{_outcome(plan, parents)}</p>{expected}{_facts(plan, private)}"
    return f'<div class="mm-preview">{body}{problems(found)}{_nothing_fetched()}</div>'


def impossible(found: Sequence[Problem]) -> str:
    """What stands in the way of a merge."""
    errors = sum(problem.severity == "error" for problem in found)
    head = f'<h3 class="mm-no">Not yet: {plural(errors, "thing")} to mend</h3>'
    return f'<div class="mm-preview">{head}{problems(found)}{_nothing_fetched()}</div>'


def about() -> str:
    """What this is, for somebody who meets an empty form."""
    return (
        '<p class="mm-about">Make one model out of several that were fine-tuned from the same base: pick them from the '
        f"Hugging Face Hub, choose {link('/methods', 'a method', here=True)}, and the result is published there under "
        "your name. No training, no code.</p>"
    )


def preview_wait(models: int, least: int = 2) -> str:
    """The preview of a form that has too few models for a method that takes at least so many."""
    first = "Pick two or more models." if least > 1 else "Pick a model."
    words = (
        f"{first} What the merge will do stands here, before any weights are fetched."
        if models == 0
        else f"Pick {'one more model' if least - models == 1 else f'{least - models} more models'}."
    )
    return f'<div class="mm-preview"><h3>Preview</h3><p>{words}</p></div>'


def _outcome(plan: Plan, parents: Sequence[Parent]) -> str:
    method = plan.recipe.method
    what = f"<b>{text(method.title)}</b> of {plural(len(parents), 'model')}"
    what += f" and the base <code>{text(plan.recipe.base.repo_id)}</code>" if plan.recipe.base else ""
    folders = [output.folder for output in plan.outputs if output.folder]
    size_of = number(plan.parameters(plan.outputs[0])) if plan.outputs else "?"
    if plan.head_rule != "apart":
        return f"{what} becomes one model of {size_of} parameters."
    names = ", ".join(f"<code>{text(folder)}/</code>" for folder in folders)
    root = plan.recipe.tasks[plan.outputs[0].parent]
    return (
        f"{what} becomes <b>one body with {plural(len(folders), 'head')}</b>, {size_of} parameters each: {names}. "
        f"The repo's root loads <code>{text(root)}</code>."
    )


def _facts(plan: Plan, private: bool) -> str:
    actions = [step.action for step in plan.steps]
    merged, averaged = actions.count("merge"), actions.count("average")
    work = f"{plural(merged, 'tensor')} by {plan.recipe.method.title}"
    reasons = {step.reason for step in plan.steps if step.action == "average" and step.reason}
    work += f", {averaged} averaged" if averaged else ""
    work += f" ({reasons.pop()})" if len(reasons) == 1 else ""
    rows = {
        "Tensors": work,
        "Download": size(plan.download_bytes),
        "Result": f"{size(plan.output_bytes)} in {plural(len(plan.shards), 'file')}",
        "Disk needed": f"at most {size(plan.disk_bytes)} at a time",
        "Visibility": "private repo" if private else "public repo",
    }
    return definitions(rows)


def definitions(rows: Mapping[str, str]) -> str:
    """A list of facts; the values are text."""
    items = "".join(f"<div><dt>{text(key)}</dt><dd>{text(value)}</dd></div>" for key, value in rows.items())
    return f'<dl class="mm-facts">{items}</dl>'


def _nothing_fetched() -> str:
    return '<p class="mm-quiet">0 bytes of weights fetched so far: this is known from headers alone.</p>'


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
        return '<p class="mm-quiet">Waiting for a worker. You may close this page: the job goes on.</p>'
    if one.status != "running":
        return ""
    progress = one.progress
    words = _progress_words(progress) if progress else "Starting"
    value = f' value="{progress.fraction:.4f}"' if progress and progress.total else ""
    return (
        f'<progress max="1"{value} aria-label="progress of this stage"></progress>'
        f'<p class="mm-quiet">{text(words)}. You may close this page: the job goes on.</p>'
    )


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
        return notice(f"{one.error or 'The job failed.'}{kept} (job {one.id})", "error")
    if one.status == "cancelled":
        return notice("Cancelled. Nothing was published." if not one.url else f"Cancelled after publishing {one.url}")
    return ""


def log(lines: Sequence[Mapping[str, Any]]) -> str:
    """The last lines of a job's log; details, such as tracebacks, are for the operator alone."""
    told = [line for line in lines if line.get("level") != "detail"][-LOG_LINES:]
    rows = "\n".join(
        f"{time.strftime('%H:%M:%S', time.gmtime(line.get('time', 0)))}  "
        f"{text(line.get('stage', ''), 20):<10} {text(line.get('message', ''), 1000)}"
        for line in told
    )
    return f'<pre class="mm-log" tabindex="0" aria-label="log">{rows or "Nothing yet."}</pre>'


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
    return METHODS[name].title if name in METHODS else {"statistics": "Statistics"}.get(name, name)


def job_links(one: Job, recipe: Recipe) -> str:
    """What can be done with a job's recipe: run it again, changed or not, and keep it."""
    return (
        f'<p class="mm-actions">{link(recipe_link("", recipe), "Run again", css="mm-button", here=True)} '
        f"{download(one.recipe_yaml, 'recipe.yaml', 'Download the recipe')}</p>"
    )


def recipe_link(base_url: str, recipe: Recipe) -> str:
    """The form filled with this recipe, as a link."""
    return f"{base_url}/?{urlencode({'recipe': recipe.to_link()})}"


def statistics_link(model: str, kind: str = "", recipe: Recipe | None = None) -> str:
    """The Statistics page with that model and kind filled in, and the way back to a merge."""
    query = {"model": model} | ({"collect": kind} if kind else {}) | ({"recipe": recipe.to_link()} if recipe else {})
    return f"/statistics?{urlencode(query)}"


def download(content: str, name: str, words: str) -> str:
    """A link that saves a text under a name, without asking the server again."""
    data = base64.b64encode(content.encode()).decode()
    return f'<a class="mm-button" download="{text(name)}" href="data:text/yaml;base64,{data}">{text(words)}</a>'


def method_table() -> str:
    """Every method with its parameters, from the declarations alone."""
    return "".join(_method(method) for method in methods())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells that are HTML already. On a phone each row stands as a block, its cells named by the head."""
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>"
        + "".join(f'<td data-head="{text(name)}">{cell}</td>' for name, cell in zip(head[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    names = "".join(f"<th scope=col>{text(name)}</th>" for name in head)
    return f'<div class="mm-scroll"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def prose(paragraph: str) -> str:
    """A paragraph of a docstring: its `names` as code, its lines that begin with an asterisk as a list."""
    lead, *items = (
        re.sub(r"`([^`]+)`", r"<code>\1</code>", text(part.strip(), 4000))
        for part in re.split(r"^\* ", paragraph, flags=re.MULTILINE)
    )
    before = f"<p class=mm-doc>{lead}</p>" if lead else ""
    return before + (f"<ul class=mm-doc>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if items else "")


def _method(method: MergeMethod) -> str:
    most = "any number of" if method.maximum_models is None else f"at most {method.maximum_models}"
    facts = {
        "Name in a recipe": " or ".join((method.name, *method.aliases)),
        "Models": f"at least {method.minimum_models}, {most} models",
        "Needs": ", ".join(NEED_NAMES.get(need, need) for need in sorted(method.needs)) or "nothing else",
    }
    rows = [
        (text(label(one)), text(one.option.help), text(one.range), f"<code>{text(one.default)}</code>")
        for one in method.parameters
    ]
    parameters = table(("Parameter", "What it does", "Values", "Default"), rows)
    paragraphs = "\n".join(method.doc.splitlines()[1:]).strip().split("\n\n")
    doc = "".join(prose(paragraph) for paragraph in paragraphs)
    broken = "".join(f"<li>{text(law)}: {text(reason, 500)}</li>" for law, reason in method.breaks.items())
    laws = f"<p>It does not keep, on purpose:</p><ul>{broken}</ul>" if broken else ""
    return (
        f'<section class="mm-card" id="{text(method.name)}"><h2>{text(method.title)}</h2>'
        f"<p>{text(method.summary, 500)}</p><p><small>{paper(method)}</small></p>{definitions(facts)}{parameters}"
        f"{doc}{laws}</section>"
    )
