"""What each stage of a statistics job does, on the same floor and by the same rules as those of a merge."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hub.client import Hub
from hub.repository import RemoteRepo, open_repo
from hub.statistics import open_statistics, path_of
from hub.statistics_look import weights_of
from jobs.collection import collect_statistics
from jobs.job import JobFolder, read_json, write_atomically
from jobs.local import local_model
from jobs.stage import job_folder
from jobs.stages import Steps, hub_of
from jobs.statistics_preview import preview_statistics, raise_if_telling
from merging.errors import InputError, MergeError, Problem, raise_errors
from merging.progress import Progress
from merging.recipe import Calibration
from merging.statistics import check_values
from merging.summary import summarise
from merging.wish import StatisticsWish, wish_from_yaml


@dataclass(frozen=True)
class StatisticsContext:
    """What a stage has to work with."""

    folder: JobFolder
    hub: Hub
    wish: StatisticsWish  # as submitted
    device: str = "auto"
    reserve: int = 0  # bytes of the disk that are not the job's

    @cached_property
    def pinned(self) -> StatisticsWish:
        """The wish that the stage pin wrote."""
        wish = wish_from_yaml(self.folder.pinned.read_text())
        assert isinstance(wish, StatisticsWish)
        return wish

    @property
    def files(self) -> dict[str, Path]:
        """Kind -> file, as they will lie in the repo."""
        return {kind: self.folder.output / path_of(kind) for kind in self.wish.collect}

    def repo(self) -> RemoteRepo:
        """The pinned model as the Hub shows it now: asks for access once more."""
        return open_repo(self.hub, self.pinned.model_id, self.pinned.revision, "model")


def pin(context: StatisticsContext) -> Steps:
    """Pin the model's revision, look at the disk and at the place where the statistics go."""
    yield Progress("pin", 0, 1, "steps", "reading headers")
    preview = preview_statistics(context.wish, context.hub, free=context.folder.room(context.reserve))
    raise_errors(preview.problems)
    if context.wish.text_is_handed_over and not context.folder.text.is_file():
        raise InputError(
            "The text of this job is gone", "it was handed over on another machine, or deleted", "Collect again with it"
        )
    write_atomically(context.folder.recipe, context.wish.to_yaml())
    write_atomically(context.folder.pinned, preview.wish.to_yaml())
    yield Progress("pin", 1, 1, "steps", preview.wish.model)
    return {}


def fetch(context: StatisticsContext) -> Steps:
    """Download the pinned weights, the tokenizer and the config."""
    yield from local_model(context.hub, context.pinned.model, context.folder.parent(0))
    return {}


def calibrate(context: StatisticsContext) -> Steps:
    """Collect each kind that is not there yet."""
    wish = context.pinned
    for place, (kind, path) in enumerate(context.files.items()):
        if path.is_file():
            continue
        work = collect_statistics(
            context.hub,
            "gram" if kind == "gram" else "fisher",
            context.folder.parent(0),
            _text(context),
            path,
            cache=context.folder.cache,
            files_allowed=wish.text_is_handed_over,
            device=context.device,
            model=wish.model_id,
            revision=wish.revision or "",
        )
        message = f"{kind} of {wish.model_id} ({place + 1} of {len(context.files)})"
        more = place + 1 < len(context.files)  # of another kind, which takes another time
        try:
            for step in work:
                yield replace(step, message=message, partial=more)
        except InputError as error:
            raise InputError.of(_without(problem, context.folder.text) for problem in error.problems) from None
    return {"collected": len(context.files)}


def _text(context: StatisticsContext) -> Calibration:
    """The text as the wish names it, or the one that was handed over with it."""
    wish = context.pinned.text
    if not context.pinned.text_is_handed_over:
        return wish
    return wish.model_copy(update={"data": str(context.folder.text), "text_column": "text"})


def _without(problem: Problem, path: Path) -> Problem:
    """The problem without the place where we keep the text."""
    return replace(problem, what=problem.what.replace(str(path), "The text"))


def check(context: StatisticsContext) -> Steps:
    """Read every value once, compare the weights with those on the Hub, and let nothing telling become public."""
    weights = weights_of(context.hub, context.repo())
    summaries = []
    for done, (kind, path) in enumerate(context.files.items()):
        yield Progress("check", done, len(context.files), "files", kind)
        check_values(path)
        found = open_statistics(path)
        summary = summarise(found.fact, found.metadata, weights)
        if summary.belongs is False:
            raise MergeError("The statistics are of other weights", "the model was changed meanwhile", "Try again")
        summaries.append(summary.as_dict())
    wish = context.pinned
    fix = "Tick private, or give more text" if wish.publish == "own" else "Give more text"
    if not wish.few_texts:
        raise_if_telling(context.hub, wish.model, context.files, private=wish.private, place=wish.publish, fix=fix)
    write_atomically(context.folder.report, json.dumps({"summaries": summaries}))
    return {"checked": len(summaries)}


def publish(context: StatisticsContext) -> Steps:
    """Publish all files in one commit; again after a kill, it is the same commit."""
    from hub.publish_statistics import publish_statistics
    from hub.upload import watched

    wish, repo = context.pinned, context.repo()
    yield Progress("publish", 0, 0, "bytes", f"to {wish.repo_id or wish.model_id}")
    published = yield from watched(
        lambda meter: publish_statistics(
            context.hub,
            repo.repo_id,
            context.files,
            private=wish.private or repo.restricted,
            place=wish.publish,
            job_id=context.folder.id,
            meter=meter,
        )
    )
    report = read_json(context.folder.report)
    for summary in report["summaries"]:
        summary["source"] = f"{published.repo_id}@{published.commit}:{path_of(summary['kind'])}"
    write_atomically(context.folder.report, json.dumps(report))
    write_atomically(context.folder.published, json.dumps(published.as_dict()))
    yield Progress("publish", 1, 1, "commits", published.url)
    return {"published": published.as_dict()}


def run_stage(name: str, path: Path, request: Mapping[str, Any]) -> Steps:
    """The stage of that name, of the statistics that the request asks for."""
    wish = wish_from_yaml(request["recipe_yaml"])
    assert isinstance(wish, StatisticsWish)
    context = StatisticsContext(
        folder=job_folder(path),
        hub=hub_of(request),
        wish=wish,
        device=request["device"],
        reserve=request["reserve"],
    )
    return (yield from STAGES[name](context))


STAGES: Mapping[str, Callable[[StatisticsContext], Steps]] = {
    function.__name__: function for function in (pin, fetch, calibrate, check, publish)
}
