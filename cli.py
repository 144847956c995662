"""The shell's entrance: merge on this machine, or hand a recipe to the service's queue.

Progress and prose go to stderr (with --progress json one object a line), the result (with --json one object) to stdout.
Exit 0: done. 2: the input is at fault. 130: Ctrl-C. 1: anything else. A traceback never reaches the user.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if __name__ == "__main__":  # Ctrl-C while all else is imported, which takes a second: there is nothing to clean up
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import typer

from jobs.follow import follow
from jobs.recipe_file import read_recipe
from jobs.shell import command_of, run, say
from merging.errors import InputError, MergeError, Problem
from merging.progress import Progress, size
from merging.recipe import Calibration, EvaluationSet, ModelEntry, Recipe, RecipeError
from settings import Settings, parse_size

if TYPE_CHECKING:
    from hub.client import Hub
    from jobs.job import Job
    from jobs.preview import Preview

for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
    os.environ.setdefault(name, "1")  # the libraries read it at import; `follow` shows our own bars

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
command = command_of(app)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe in YAML; - is standard input.")]
ShowProgress = Annotated[
    Literal["auto", "json", "none"],
    typer.Option("--progress", help="On stderr: a bar or a line now and then; JSON lines among the prose; nothing."),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the arithmetic runs.")]


@command
def methods(json_: Json = False) -> None:
    """Every merge method: its parameters, ranges, defaults and needs."""
    from merging.method import METHODS

    if json_:
        print(json.dumps({name: method.as_dict() for name, method in sorted(METHODS.items())}))
        return
    for name, method in sorted(METHODS.items()):
        needs = f" Needs {', '.join(sorted(method.needs))}." if method.needs else ""
        aka = f" (also {', '.join(method.aliases)})" if method.aliases else ""
        print(f"{name}{aka}: {method.summary}{needs}\n  {method.paper}")
        for parameter in method.parameters:
            each = ", one a model" if parameter.per_model else ""
            print(f"  {parameter.name} = {parameter.default} ({parameter.range}{each}): {parameter.option.help}")


@command
def plan(recipe: RecipeFile, json_: Json = False) -> None:
    """What a merge would do, from headers alone; exit 2 and the problems if it cannot work."""
    try:
        preview = _preview(_read(recipe))
        if preview.errors:
            raise InputError.of(preview.errors)
    except InputError as error:
        if json_:
            print(json.dumps({"possible": False, "problems": [problem.as_dict() for problem in error.problems]}))
        raise
    if json_:
        print(json.dumps({**preview.plan.as_dict(), "problems": [problem.as_dict() for problem in preview.problems]}))
    else:
        _print_plan(preview.plan.as_dict(), preview.problems)


def _read(path: Path) -> Recipe:
    """The recipe in a file. Raises InputError with all that is wrong with it and with its models."""
    try:
        return read_recipe(path)
    except RecipeError as error:
        from jobs.preview import with_lookups

        raise with_lookups(error, _preview) from None


def _preview(recipe: Recipe) -> "Preview":
    """The preview of a recipe on this machine, and of the place where it wants its result, if it names one."""
    from hub.client import LOG_IN, hub_of_this_machine
    from jobs.preview import make_preview

    hub, named = hub_of_this_machine(), recipe.output.repo_id is not None
    preview = make_preview(
        recipe, hub, free=shutil.disk_usage(".").free, folders_allowed=True, with_output=named and hub.signed_in
    )
    if not named or hub.signed_in:
        return preview
    what = f"Whether the result can become {recipe.output.repo_id} is not known"
    note = Problem(what, "nobody is signed in", LOG_IN, "output.repo_id", "warning")
    return replace(preview, problems=(*preview.problems, note))


def _print_plan(data: dict[str, Any], warnings: Iterable[Problem]) -> None:
    base = f", base {data['base']}" if data["base"] else ""
    print(f"{data['method']}, weights {', '.join(f'{weight:.3g}' for weight in data['weights'])}{base}")
    for output in data["outputs"]:
        print(f"  {output['folder'] or '(root)'}: {output['model']}, {output['parameters']:,} parameters")
    counts = ", ".join(f"{count} {action}" for action, count in data["tensors"].items())
    print(f"  tensors: {counts}; heads: {data['heads']}")
    print(f"  output {size(data['output_bytes'])}, {data['disk']}")
    for one in data["statistics"]:
        print(f"  {one['kind'].title()} of {one['model']}: {one['source']}")
    if data["expectation"]:
        print(f"  {data['expectation']}")
    for problem in warnings:
        print(f"  warning: {problem}")


@command
def merge(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Argument(help="A new or empty folder for the merged model.")],
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=0, help="0 is one per core.")] = 0,
    memory: Annotated[str, typer.Option(help="Memory budget, such as 4GB.")] = "2GB",
    check: Annotated[bool, typer.Option(help="Load the result with transformers and run it once.")] = True,
    progress: ShowProgress = "auto",
    json_: Json = False,
) -> None:
    """Merge on this machine. An interrupted merge goes on when started again."""
    from hub.client import hub_of_this_machine
    from jobs.evaluation_words import table
    from jobs.local import merge_here
    from merging import differences

    wish = _read(recipe)
    budget = parse_size(memory)
    _refuse_other_folder(out, recipe)
    work = merge_here(hub_of_this_machine(), wish, out, device=device, threads=threads, memory=budget, check=check)
    report = follow(work, progress)
    if json_:
        print(json.dumps(report.as_dict()))
    else:
        print(out)
        say(f"{report.method} on {report.device}: {report.parameters:,} parameters in {report.seconds:.1f} s")
        for name, reason in report.fallbacks.items():
            say(f"  averaged: {name} ({reason})")
        for line in differences.lines(report.differences):
            say(f"  {line}")
        for line in table(report.evaluation):
            say(line)


def _refuse_other_folder(out: Path, recipe: Path) -> None:
    """Nothing of the user's is overwritten."""
    if out.exists() and not out.is_dir():
        what = "the recipe itself" if recipe.exists() and out.samefile(recipe) else "a file"
        raise InputError(f"{out} is {what}", "the merged model becomes a folder", "Name a new folder", "out")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty", "nothing there is overwritten", "Name a new folder", "out")
    if out.resolve() == Path.cwd() or out.is_mount():  # the finished folder is moved to its place
        what = "the folder that you are in" if out.resolve() == Path.cwd() else "a disk of its own"
        raise InputError(f"{out} is {what}", "the result cannot take its place", "Name a new folder in it", "out")


@command
def statistics(
    model: Annotated[str, typer.Argument(help="A Hub id or a folder; with --show also a statistics repo or file.")],
    kind: Annotated[str, typer.Option(help="gram or fisher.")] = "gram",
    data: Annotated[
        str,
        typer.Option(help="id[:config][:split] of a Hub dataset, a .jsonl, .csv, .tsv, .txt, or a folder of images."),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="The file to write.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts; guessed by default.")] = None,
    target_column: Annotated[
        str | None, typer.Option(help="For T5 or BART: column of the answers; without one the model writes its own.")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="For vision models: column of the images.")] = None,
    examples: Annotated[int, typer.Option(min=1)] = 600,
    max_length: Annotated[int, typer.Option(min=2, help="In tokens.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    seed: Annotated[int, typer.Option()] = 0,
    numbers: Annotated[
        Literal["bfloat16", "float32"],
        typer.Option(help="How Gram matrices are stored: bfloat16 takes half the space."),
    ] = "bfloat16",
    variant: Annotated[
        Literal["auto", "exact", "sampled", "empirical"],
        typer.Option(help="Of a Fisher: every class, classes drawn by the model, or the labels of --label-column."),
    ] = "auto",
    label_column: Annotated[str | None, typer.Option(help="Column of the labels, for the empirical Fisher.")] = None,
    device: Device = "auto",
    publish: Annotated[bool, typer.Option(help="Publish to owner/<model>-merge-statistics.")] = False,
    publish_to: Annotated[
        Literal["own", "model", "pull-request"] | None,
        typer.Option(help="Publish to a repo of your own, to the model's repo, or as a pull request to it."),
    ] = None,
    private: Annotated[bool, typer.Option(help="Publish for you alone; always so for a restricted model.")] = False,
    few_texts_are_fine: Annotated[
        bool, typer.Option("--few-texts-are-fine", help="Publish also a Gram with fewer tokens than inputs.")
    ] = False,
    show: Annotated[bool, typer.Option(help="Collect nothing: say what statistics there are.")] = False,
    progress: ShowProgress = "auto",
    json_: Json = False,
) -> None:
    """Collect a model's Gram or Fisher statistics, so that others can merge it without its data."""
    from hub.client import hub_of_this_machine
    from jobs.local import collect_here, publish_here, raise_unless_publishable

    hub = hub_of_this_machine()
    if show:
        _show_statistics(hub, model, json_)
        return
    if kind not in ("gram", "fisher"):
        raise InputError(f"--kind {kind}", "there are two kinds", "Write gram or fisher", "kind")
    if kind == "gram" and (variant != "auto" or label_column):
        raise InputError("--variant and --label-column are of a Fisher", "a Gram has none", "Add --kind fisher", "kind")
    if not data:
        raise InputError("No data", "statistics are collected from text", "Name it with --data", "data")
    target = out or Path(f"{kind}.safetensors")
    if target.exists():
        raise InputError(f"{target} exists", "nothing is overwritten", "Name another file with --out", "out")
    if not os.access(target.parent, os.W_OK) or not target.parent.is_dir():
        raise InputError(
            f"{target} cannot be written", f"{target.parent} is no folder to write to", "Mend --out", "out"
        )
    place = publish_to or ("own" if publish else None)
    if place is not None:
        if ModelEntry(model=model).is_folder or Path(model).is_dir():
            raise InputError(f"{model} is a folder", "statistics are published for a model of the Hub", "Name its id")
        raise_unless_publishable(hub, model, kind, private=private, place=place)
    wish = Calibration(
        data=data,
        text_column=text_column,
        target_column=target_column,
        image_column=image_column,
        examples=examples,
        max_length=max_length,
        batch_size=batch_size,
        seed=seed,
        label_column=label_column,
        numbers=numbers,
        variant=variant,
    )
    path = follow(collect_here(hub, kind, model, wish, target, device=device), progress)
    held = _held(path, examples)
    link = ""
    if place is not None:
        sent = publish_here(hub, model, kind, path, private=private, place=place, few_texts=few_texts_are_fine)
        published = follow(sent, progress)
        link = published.url if place == "pull-request" else f"{published.repo_id}@{published.commit}"
    print(json.dumps({"path": str(path), "published": link, **held}) if json_ else link or path)


def _held(path: Path, wanted: int) -> dict[str, Any]:
    """Say what a new statistics file holds, and whether that is little; the same as plain data."""
    from hub.statistics import open_statistics
    from merging.summary import summarise

    found = open_statistics(path)
    summary = summarise(found.fact, found.metadata)
    fewer = f" (there are no more; {wanted:,} were asked for)" if summary.examples < wanted else ""
    full = f", {summary.tokens:,} tokens: {summary.facts()['Fullness']}" if summary.kind == "gram" else ""
    say(f"{summary.examples:,} examples{fewer}{full}.")
    for sentence in summary.warnings():
        say(f"warning: {sentence}")
    return {"examples": summary.examples, "tokens": summary.tokens, "warnings": list(summary.warnings())}


def _show_statistics(hub: "Hub", name: str, json_: bool) -> None:
    """What statistics there are of a model, in a statistics repo or in a file."""
    from hub.statistics_look import look

    found = look(hub, name, files_allowed=True)
    if json_:
        problems = [problem.as_dict() for problem in found.problems]
        shown = [summary.as_dict() for summary in found.summaries]
        print(json.dumps({"model": found.model, "statistics": shown, "problems": problems}))
        return
    for summary in found.summaries:
        print(*summary.lines(), sep="\n")
    for problem in found.problems:
        say(f"warning: {problem}")
    if not found.summaries:
        say(f"No statistics of {name} were found.")


@command
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Hub ids or folders; owner/name:task for one head.")],
    data: Annotated[str, typer.Option(help="id[:config][:split], or a local .jsonl, .csv, .tsv, .txt")] = "",
    label_column: Annotated[str | None, typer.Option(help="Column of the labels; guessed by default.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts; guessed by default.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="DATA=MODEL: which label of the data is which of the model. Several times.")
    ] = None,
    kind: Annotated[
        Literal["auto", "classification", "token-classification", "language-modelling"],
        typer.Option(help="By default what the models are made for."),
    ] = "auto",
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Also the models together.")] = False,
    examples: Annotated[int, typer.Option(min=1, max=20_000)] = 1000,
    max_length: Annotated[int, typer.Option(min=2, help="In tokens.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of examples, and of the intervals.")] = 0,
    device: Device = "auto",
    progress: ShowProgress = "auto",
    json_: Json = False,
) -> None:
    """Figures of models on labelled text, with 95 % intervals: accuracy and macro F1, entity F1, or perplexity."""
    from hub.client import hub_of_this_machine
    from jobs.evaluation_words import table
    from jobs.local import evaluate_here

    if not data:
        raise InputError("No data", "figures need labelled text", "Name it with --data", "data")
    pairs = [pair.partition("=") for pair in label or ()]
    if wrong := [first for first, sign, _ in pairs if not sign]:
        raise InputError(f"--label {wrong[0]}", "it names one label", "Write DATA=MODEL", "label")
    wish = EvaluationSet(
        data=data,
        kind=kind,
        text_column=text_column,
        label_column=label_column,
        labels={first: second for first, _, second in pairs},
        examples=examples,
        max_length=max_length,
        batch_size=batch_size,
        seed=seed,
    )
    found = follow(evaluate_here(hub_of_this_machine(), models, wish, ensemble=ensemble, device=device), progress)
    print(json.dumps(found) if json_ else "\n".join(table(found)))


@command
def push(
    folder: Annotated[Path, typer.Argument(help="A merged model, as `merge` wrote it.")],
    repo_id: Annotated[str, typer.Argument(help="owner/name of the new repo.")],
    private: Annotated[bool, typer.Option(help="Only you can see it; always so when a parent is restricted.")] = False,
    progress: ShowProgress = "auto",
    json_: Json = False,
) -> None:
    """Publish a merged folder as a new repo."""
    from hub.client import hub_of_this_machine
    from jobs.push import push_here

    pushed = follow(push_here(hub_of_this_machine(), folder, repo_id, private=private), progress)
    if pushed.note:
        say(f"note: {pushed.note}")
    url, commit = pushed.published.url, pushed.published.commit
    print(json.dumps({"url": url, "commit": commit, "private": pushed.private}) if json_ else url)


@command
def verify(
    repo_id: Annotated[str, typer.Argument(help="owner/name or owner/name@revision of a merge that was published.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where it is merged again, on a disk with room for it; removed at the end.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=0, help="0 is one per core.")] = 0,
    memory: Annotated[str, typer.Option(help="Memory budget, such as 4GB.")] = "2GB",
    progress: ShowProgress = "auto",
    json_: Json = False,
) -> None:
    """Merge a published merge again from its recorded revisions, and compare. Exit 1 when it is different."""
    from hub.client import hub_of_this_machine
    from jobs.verify_stages import verify_here

    work = verify_here(
        hub_of_this_machine(),
        repo_id,
        folder,
        tell=lambda found: say(f"Verifying {found.wish.verify}: {found.words}"),
        device=device,
        threads=threads,
        memory=parse_size(memory),
    )
    found = follow(work, progress)
    if json_:
        print(json.dumps(found.as_dict()))
    else:
        print(found.title, *found.sentences, sep="\n")
    if found.verdict == "different":
        raise typer.Exit(1)


@command
def submit(
    recipe: RecipeFile,
    wait: Annotated[bool, typer.Option(help="End when the job has ended.")] = False,
    progress: ShowProgress = "auto",
    json_: Json = False,
) -> None:
    """Hand a recipe to the queue. Prints the job's id, with --wait the link."""
    from hub.client import hub_of_this_machine

    service = _service()
    job = service.submit(_read(recipe), hub_of_this_machine(), folders_allowed=True)
    say(f"Job {job.id}")
    if not wait:
        print(json.dumps(job.as_dict()) if json_ else job.id)
        return
    job = follow(_until_ended(service, job), progress)
    print(json.dumps(job.as_dict()) if json_ else job.url)
    if job.status != "done":
        raise MergeError(f"Job {job.id} {job.status}", job.error)


@command
def jobs(json_: Json = False) -> None:
    """Your jobs, the newest first."""
    service, user = _service(), _user()
    mine = service.list(user)
    if json_:
        print(json.dumps([job.as_dict() for job in mine]))
        return
    for job in mine:
        print(f"{job.id}  {job.status:9}  {job.method:8}  {job.repo_id}  {job.url or job.error or job.stage}")
    if not service.worker_alive():
        say("No worker is running: start one with `cli.py worker`.")


@command
def cancel(job: Annotated[str, typer.Argument(help="A job's id.")], json_: Json = False) -> None:
    """Cancel a job of yours."""
    ended = _service().cancel(job, _user())
    print(json.dumps(ended.as_dict()) if json_ else f"{ended.id} {ended.status}")


@command
def worker(
    slot: Annotated[int, typer.Option(min=0, help="Tells the workers of one machine apart.")] = 0,
    beside_page: Annotated[bool, typer.Option("--beside-page", hidden=True)] = False,
) -> None:
    """Run the jobs of the queue until stopped."""
    from jobs.logs import set_up_logs
    from jobs.worker import run_worker

    settings = Settings()
    set_up_logs(settings.log)
    run_worker(settings, slot=slot, beside_page=beside_page)


@command
def demo(once: Annotated[bool, typer.Option(help="End after the link.")] = False) -> None:
    """The main job on real input, with a Hub on this machine: no account, no network."""
    from demo.__main__ import run_demo

    raise typer.Exit(run_demo(once=once))


def _until_ended(service: Any, job: "Job") -> "Generator[Progress, None, Job]":
    """Look at a job every second until it has ended; the names of its stages are said."""
    from jobs.store import StoreAway

    stage = ""
    while not job.ended:
        time.sleep(1)
        with suppress(StoreAway):  # the job goes on meanwhile
            job = service.get(job.id, job.user)
        if job.stage != stage:
            stage = job.stage
            say(f"  {stage}")
        if job.progress is not None:
            yield job.progress
    return job


def _service() -> Any:
    from jobs.service import JobService

    settings = Settings()
    try:
        return JobService(settings)
    except OSError as error:
        raise InputError(f"{settings.home} cannot be used", error.strerror or "", "Set MERGE_HOME") from None


def _user() -> str:
    from hub.client import hub_of_this_machine
    from hub.identity import whoami

    return whoami(hub_of_this_machine()).name


if __name__ == "__main__":
    run(app)
