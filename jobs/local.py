"""The same stages without a queue: what the command line does on this machine."""

import errno
import fcntl
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hub.client import Hub
from hub.download import fetch
from hub.labelled import load_labelled
from hub.publish import Published
from hub.publish_statistics import publish_statistics
from hub.repository import RemoteRepo, open_repo
from hub.resolve import resolve
from hub.statistics import path_of
from hub.statistics_place import publishing_problems
from hub.upload import watched
from jobs import stages
from jobs.collection import collect_statistics
from jobs.job import JobFolder, read_json, write_atomically
from jobs.stages import StageContext
from jobs.statistics_preview import raise_if_telling
from merging.checkpoint import open_parent
from merging.compatibility import quantised
from merging.device import pick_device
from merging.engine import Report
from merging.errors import InputError, MergeError, raise_errors
from merging.evaluation.facts import Example, kind_name, label_names, wanted_kind
from merging.evaluation.labels import match_labels
from merging.parent import Parent
from merging.plan import make_plan
from merging.progress import Progress
from merging.recipe import Calibration, EvaluationSet, ModelEntry, Recipe, recipe_from_dict
from merging.wish import Place

MARK = ".merge-my-models"  # in a work folder that we made; locked while a merge uses it
REPORT = ".merge-report.json"  # in a merged folder: what its card tells; hidden, so never published


def work_folder(out: Path) -> Path:
    """Where a merge into `out` keeps what is not finished."""
    out = out.resolve()
    return out.with_name(out.name + ".work")


@contextmanager
def _claimed(work: Path) -> Iterator[None]:
    """The work folder for this process alone. Raises InputError for a folder of the user's, or one in use."""
    try:
        if work.exists() and not (work / MARK).is_file() and (not work.is_dir() or any(work.iterdir())):
            raise InputError(
                f"{work} was not made by a merge", "nothing in it is touched", "Move it, or name another OUT", "out"
            )
        work.mkdir(parents=True, exist_ok=True)
        mark = (work / MARK).open("a")
    except OSError as error:
        raise InputError(f"{work} cannot be written", error.strerror or "", "Name another OUT", "out") from None
    with mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{work} is in use", "another merge to the same place is running", "Wait for it, or name another OUT"
            ) from None
        yield


def _discard(work: Path) -> None:
    """Delete what merges left in a work folder, and it with them if nothing else is in it."""
    shutil.rmtree(work / "jobs", ignore_errors=True)
    (work / MARK).unlink(missing_ok=True)
    if not any(work.iterdir()):
        work.rmdir()


def merge_here(
    hub: Hub,
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    threads: int = 0,
    memory: int = 2 << 30,
    check: bool = True,
) -> Generator[Progress, None, Report]:
    """Merge into the new folder `out`, which appears when it is whole and checked.

    Until then everything is in `<out>.work`, from which an interrupted merge of the same recipe goes on.
    """
    pick_device(device)  # before anything is made
    out, work = out.resolve(), work_folder(out)
    folder = JobFolder(work, "merge")
    with _claimed(work):
        if folder.recipe.exists() and folder.recipe.read_text() != recipe.to_yaml():
            shutil.rmtree(folder.path)  # another recipe's unfinished work
        folder.path.mkdir(parents=True, exist_ok=True)
        context = StageContext(
            folder, hub, recipe, folders_allowed=True, device=device, threads=threads, memory=memory, publishes=False
        )
        at: object = None
        try:
            for stage in _stages(recipe, check):
                at = stage
                yield from stage(context)
            at = _put
            report = _put(folder, out)
        except BaseException as error:
            if folder.pinned.exists() and not _hopeless(error, at):
                error.add_note(f"What was done is kept in {work}: the same command goes on from there.")
            else:
                _discard(work)  # nothing was begun, or the same command would end the same way
            raise
        _discard(work)
    return Report.from_dict(report)


def _hopeless(error: BaseException, stage: object) -> bool:
    """Whether the same command would end the same way: the input is at fault, or what the method makes of it."""
    kind = MergeError if stage is stages.merge else InputError
    return stage in (stages.merge, stages.check) and isinstance(error, kind) and not error.passing


def _put(folder: JobFolder, out: Path) -> dict[str, Any]:
    """The result to its place, whole and with its report, at once; the report."""
    report = dict(read_json(folder.report) or {})
    report.pop("checks", None)
    try:
        write_atomically(folder.output / REPORT, json.dumps(report))
        if out.exists():
            out.rmdir()  # empty: the command line refuses any other
        folder.output.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MergeError(f"{out} cannot be made", error.strerror or "", "Make room for it, then start again") from None
    return report


def _stages(recipe: Recipe, check: bool) -> tuple[Callable[[StageContext], stages.Steps], ...]:
    """The stages of a merge that stays on this machine."""
    last = [stages.check] * check + [stages.evaluate] * bool(recipe.evaluate)
    return (stages.pin, stages.fetch, stages.calibrate, stages.merge, *last)


def collect_here(
    hub: Hub, kind: str, model: str, wish: Calibration, out: Path, *, device: str = "auto"
) -> Generator[Progress, None, Path]:
    """Gram or Fisher statistics of a model of the Hub, or of a folder, into the new file `out`."""
    pick_device(device)
    with TemporaryDirectory(prefix="merge-", dir=out.resolve().parent) as name:
        folder, parent = yield from local_model(hub, model, Path(name))
        return (
            yield from collect_statistics(
                hub,
                "gram" if kind == "gram" else "fisher",
                folder,
                wish,
                out,
                cache=Path(name) / "cache",
                files_allowed=True,
                device=device,
                model=parent.model,
                revision=parent.revision,
            )
        )


def evaluate_here(
    hub: Hub, models: Sequence[str], wish: EvaluationSet, *, ensemble: bool = False, device: str = "auto"
) -> Generator[Progress, None, dict[str, Any]]:
    """The `evaluation` of models on one set; `owner/name:task` or `folder:task` names one head of a merge.

    With `ensemble` also their ensembles: the instance-wise one where a folder has Gram statistics beside its weights.
    """
    from merging.evaluation.comparison import Candidate, Comparison, LabelledSet

    pick_device(device)
    with TemporaryDirectory(prefix="merge-") as name:
        candidates = []
        for number, model in enumerate(models):
            yield Progress("evaluate", number, len(models), "models", model)
            repo, _, task = model.partition(":")
            folder, _ = yield from local_model(hub, repo, Path(name) / str(number), task=task)
            grams = folder / path_of("gram")
            candidates.append(Candidate("parent", model, folder, grams=grams if grams.is_file() else None))
        kind = wanted_kind(wish, 0, [("", own.config) for own in candidates])
        rows = load_labelled(
            hub,
            wish,
            by_word=kind == "token-classification",
            labelled=kind != "language-modelling",
            cache_dir=Path(name) / "cache",
            files_allowed=True,
        )
        for own in candidates:
            _raise_unless_fitting(own.title, own.config, kind, rows.examples, wish)
        one = LabelledSet(wish.model_copy(update={"kind": kind}), rows.examples, rows.revision, wish.data)
        comparison = Comparison(candidates, [one], Path(name) / "answers", device, ensembles=ensemble)
        if rows.unlabelled:
            comparison.notes.append(f"{rows.unlabelled:,} rows without a label were left out.")
        return (yield from comparison.run())


def _raise_unless_fitting(
    title: str, config: Mapping[str, Any], kind: str, examples: Sequence[Example], wish: EvaluationSet
) -> None:
    """InputError for a model that is made for another kind of task, or lacks a label of the data."""
    if kind_name(config) != kind:
        made = (config.get("architectures") or ["without a class"])[0]
        raise InputError(f"{title} is a {made}", f"it is not made for {kind}", "Evaluate another model", "models")
    labels = {name for one in examples for name in ((one.label,) if isinstance(one.label, str) else one.label or ())}
    names = {"data_name": wish.data, "model_name": title, "where": "label"}
    match_labels(labels, label_names(config), wish.labels, **names)


def publish_here(
    hub: Hub, model: str, kind: str, path: Path, *, private: bool, place: Place = "own", few_texts: bool = False
) -> Generator[Progress, None, Published]:
    """Publish a statistics file of a model: private when asked, or when the model is. See `hub.publish_statistics`.

    Raises InputError for a public Gram with fewer tokens than inputs, unless `few_texts` says that this is fine.
    """
    if not few_texts:
        ways = "Collect from more text, add --private, or add --few-texts-are-fine"
        if place != "own":
            ways = "Collect from more text, or add --few-texts-are-fine"
        fix = f"{ways}; the file is kept at {path}"
        raise_if_telling(hub, model, {kind: path}, private=private, place=place, fix=fix)
    repo = _model_repo(hub, model)
    private = private or repo.restricted
    files = {kind: path}
    return (
        yield from watched(
            lambda meter: publish_statistics(hub, repo.repo_id, files, private=private, place=place, meter=meter)
        )
    )


def raise_unless_publishable(hub: Hub, model: str, kind: str, *, private: bool, place: Place) -> None:
    """InputError for what keeps statistics from being published there: asked before the work, not after it."""
    repo = _model_repo(hub, model)
    raise_errors(publishing_problems(hub, repo.repo_id, [kind], place, private=private or repo.restricted))


def _model_repo(hub: Hub, model: str) -> RemoteRepo:
    entry = ModelEntry(model=model)
    return open_repo(hub, entry.repo_id, entry.revision, "model")


def local_model(
    hub: Hub, model: str, target: Path, *, task: str = ""
) -> Generator[Progress, None, tuple[Path, Parent]]:
    """The files of one model on this disk: the folder that it is, or fetched into `target`."""
    entry = ModelEntry(model=model)
    if entry.is_folder or Path(model).is_dir():
        folder = Path(model).expanduser()
        if task and not (folder / task).is_dir():
            raise _no_task(model, task)
        return folder / task, _plain(open_parent(f"{model}:{task}" if task else model, folder / task))
    wish: dict[str, Any] = {"merge_method": "average", "models": [{"model": model}]}
    parent = _plain(resolve(hub, recipe_from_dict(wish)).raise_if_impossible().parents[0])
    files = make_plan(recipe_from_dict(wish), [parent]).fetch[0]
    if task:
        files = tuple(name for name in parent.files if name.startswith(f"{task}/"))
        if not files:
            raise _no_task(model, task)
    yield from fetch(hub, parent, files, target)
    return target / task, parent


def _plain(parent: Parent) -> Parent:
    """The parent itself. Raises InputError for one whose weights are codes, before anything of it is fetched."""
    raise_errors(quantised([parent]))
    return parent


def _no_task(model: str, task: str) -> InputError:
    return InputError(f"{model} has no task {task}", "no such folder in it", "Name one of its folders", "models")
