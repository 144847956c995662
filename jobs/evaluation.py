"""The stage that compares a merge with its parents, their plain average and their ensembles.

It never costs the merge: what goes wrong becomes a sentence in the report. Repeatable after a kill: rows, the plain
average and what each model said are kept in the job's folder until the figures stand in the report.
"""

import json
import shutil
import sys
import time
import traceback
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hub.datasets import is_local
from hub.labelled import Labelled, load_labelled
from jobs.child import scrub
from jobs.evaluation_sweep import sweep
from jobs.job import JobFolder, read_json, write_atomically
from jobs.stages import StageContext, Steps
from jobs.unchanged import dated, keep_if_of
from merging.errors import InputError, MergeError, Problem
from merging.evaluation.facts import Example, wanted_kind
from merging.parent import Parent
from merging.plan import make_plan
from merging.progress import Progress
from merging.recipe import EvaluationSet, Recipe

if TYPE_CHECKING:  # it imports transformers
    from merging.evaluation.comparison import Candidate


def evaluate(context: StageContext) -> Steps:
    """Fill `evaluation` of the report: figures, or one sentence why there are none. See docs/evaluation.md."""
    folder, began = context.folder, time.monotonic()
    if not (read_json(folder.report) or {}).get("evaluation"):
        try:
            found = yield from _compare(context)
        except Exception as error:
            found = _without_figures(_told(context, error), began)
        _note(folder, found)
    shutil.rmtree(folder.evaluation, ignore_errors=True)
    fetched = [folder.parent(index) for index, entry in enumerate(context.pinned.models) if not entry.is_folder]
    for place in [*fetched, folder.base]:
        for path in place.glob("**/*.safetensors"):
            path.unlink(missing_ok=True)
    return {"evaluated": len(read_json(folder.report)["evaluation"]["sets"])}


def _told(context: StageContext, error: Exception) -> Problem:
    """What a person reads of an error; all of one that nobody foresaw goes to the log of a job."""
    if isinstance(error, MergeError):
        return error.problem
    if context.publishes:  # of a library, on a model or data of strangers
        print(scrub("".join(traceback.format_exception(error)), str(context.hub.token or "")), file=sys.stderr)
    return Problem("The evaluation failed", type(error).__name__, "See the log")


def give_up(folder: JobFolder, problem: Problem) -> None:
    """Note that there are no figures, for the stage itself could not."""
    if not (read_json(folder.report) or {}).get("evaluation"):
        _note(folder, _without_figures(problem, time.monotonic()))
    shutil.rmtree(folder.evaluation, ignore_errors=True)


def plain_average(recipe: Recipe) -> Recipe:
    """The same models averaged with equal weights."""
    models = tuple(entry.model_copy(update={"parameters": {}, "statistics": {}}) for entry in recipe.models)
    changes: dict[str, Any] = {
        "merge_method": "average",
        "models": models,
        "parameters": {},
        "base_model": None,
        "evaluate": (),
        "sweep": None,
    }
    return recipe.model_copy(update=changes)


def is_plain_average(recipe: Recipe) -> bool:
    """Whether the merge is that average itself."""
    weights = recipe.effective_weights
    even = max(weights) - min(weights) < 1e-9 and abs(sum(weights) - 1) < 1e-9
    return recipe.method.name == "average" and even


def read_set(context: StageContext, number: int, kind: str) -> Labelled:
    """The rows of one evaluation set: those that were handed over, those of its data, or as an earlier start read them.

    Raises InputError in the words of whoever named the data.
    """
    wish, kept = context.pinned.evaluate[number], context.folder.evaluation / f"set-{number}.json"
    if known := read_json(kept):
        return Labelled(tuple(map(Example.from_dict, known["rows"])), known["revision"], unlabelled=known["unlabelled"])
    path = context.folder.rows(number)
    source = wish
    if wish.is_handed_over:
        if not path.is_file():
            why = "it was handed over on another machine, or deleted"
            raise InputError("Its text is gone", why, "Evaluate again with it")
        source = wish.model_copy(update={"data": str(path), "text_column": "text", "label_column": "label"})
    try:
        found = load_labelled(
            context.hub,
            source,
            by_word=kind == "token-classification",
            labelled=kind != "language-modelling",
            cache_dir=context.folder.cache,
            files_allowed=context.folders_allowed or wish.is_handed_over,
        )
    except InputError as error:
        told = wish.title if is_local(wish.data) else wish.data  # never a path of this machine
        raise InputError.of(replace(p, what=p.what.replace(source.data, told)) for p in error.problems) from None
    rows = [example.as_dict() for example in found.examples]
    write_atomically(kept, json.dumps({"rows": rows, "revision": found.revision, "unlabelled": found.unlabelled}))
    return found


def _compare(context: StageContext) -> Generator[Progress, None, dict[str, Any]]:
    from merging.evaluation.comparison import Comparison, LabelledSet

    yield Progress("evaluate", 0, 0, "examples", "reading the labelled text")
    recipe, notes = context.pinned, list[str]()
    sources = context.remote()
    parents = sources[0]
    made = {"recipe": recipe.to_yaml(), "merge": read_json(context.folder.report)["files"]}
    of = made | {"parents": [one.state for one in parents], "rows": [dated(wish.data) for wish in recipe.evaluate]}
    keep_if_of(context.folder.evaluation, of)
    configs = list(zip(recipe.tasks, [parent.config for parent in parents], strict=True))
    sets = []
    for number, wish in enumerate(recipe.evaluate):
        try:
            found = read_set(context, number, wanted_kind(wish, number, configs))
        except InputError as error:
            notes.append(f"{wish.title}: there are no figures. {error}")
            continue
        if found.unlabelled:
            notes.append(f"{wish.title}: {found.unlabelled:,} rows without a label were left out.")
        sets.append(LabelledSet(wish, found.examples, found.revision, _public(wish), number))
    if not sets:
        return {"sets": [], "seconds": 0.0, "notes": notes}
    yield from _bring(context, parents)
    opened, _ = context.opened((parents, None))
    average = yield from _average(context, opened, notes)
    candidates = [*_parents(context), *average, *_merged(context)]
    comparison = Comparison(
        candidates, sets, context.folder.evaluation, context.device, is_plain_average(recipe), notes=notes
    )
    figures = yield from comparison.run()
    shutil.rmtree(context.folder.evaluation / "average", ignore_errors=True)  # its room is that of a sweep's merge
    if recipe.sweep is None or not comparison.questions:
        return figures
    try:
        return (yield from sweep(context, sources, comparison, figures))
    except Exception as error:  # the other figures stand
        return figures | {"notes": [*figures["notes"], f"There is no sweep. {_told(context, error)}"]}


def _public(wish: EvaluationSet) -> str:
    """The data as others may read of them: nothing of files, and of what was handed over."""
    return "" if wish.is_handed_over or is_local(wish.data) else wish.data


def _bring(context: StageContext, parents: Sequence[Parent]) -> Generator[Progress, None, None]:
    """Every weight of the parents is here: they were kept while they were merged, unless no shard read them."""
    from hub.download import fetch

    for index, parent in enumerate(parents):
        if not parent.revision:
            continue
        files = [name for name in parent.weights if not (context.folder.parent(index) / name).is_file()]
        for step in fetch(context.hub, parent, files, context.folder.parent(index)) if files else ():
            yield replace(step, stage="evaluate", partial=True)


def _average(
    context: StageContext, parents: Sequence[Parent], notes: list[str]
) -> Generator[Progress, None, list["Candidate"]]:
    """The parents' plain average as candidates, made in the job's folder; none where the merge is one."""
    from merging.engine import merge
    from merging.evaluation.comparison import Candidate

    if is_plain_average(context.pinned):
        notes.append("The merge is the plain average itself.")
        return []
    plan = make_plan(plain_average(context.pinned), parents)
    if plan.errors:
        notes.append(f"There is no plain average to compare with. {plan.errors[0]}")
        return []
    out = context.folder.evaluation / "average"
    work = merge(plan, parents, out, device=context.device, threads=context.threads, memory=context.memory)
    for step in work:
        yield replace(step, stage="evaluate", message="making the plain average", partial=True)
    return [Candidate("average", "Average", out / folder, folder) for folder in _folders(plan.as_dict())]


def _parents(context: StageContext) -> list["Candidate"]:
    from merging.evaluation.comparison import Candidate

    found = []
    for index, (entry, task) in enumerate(zip(context.pinned.models, context.pinned.tasks, strict=True)):
        grams = context.folder.statistics(index, "gram")
        title = entry.short_name if entry.is_folder else entry.repo_id
        files = context.files_of(index)
        found.append(Candidate("parent", title, files, task, grams if grams.is_file() else None))
    return found


def _merged(context: StageContext) -> list["Candidate"]:
    from merging.evaluation.comparison import Candidate

    out, plan = context.folder.output, read_json(context.folder.plan)
    return [Candidate("merge", "Merge", out / folder, folder) for folder in _folders(plan)]


def _folders(plan: dict[str, Any]) -> list[str]:
    """The folder of each task's model, or the one at the root where there is one for all."""
    return [output["folder"] for output in plan["outputs"] if output["folder"]] or [""]


def _without_figures(problem: Problem, began: float) -> dict[str, Any]:
    seconds = round(time.monotonic() - began, 1)
    return {"sets": [], "seconds": seconds, "notes": [f"There are no figures. {problem}"]}


def _note(folder: JobFolder, evaluation: dict[str, Any]) -> None:
    write_atomically(folder.report, json.dumps((read_json(folder.report) or {}) | {"evaluation": evaluation}))
