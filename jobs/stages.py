"""What each stage of a job does: thin glue over `hub` and `merging`. Runs in a child process, see `stage.py`.

Every stage may be run again after a kill at any point: downloads and finished shards are kept, small files are
written under another name and renamed, publishing twice publishes once.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hub.client import Hub
from hub.resolve import check_output, resolve, result_is_private
from jobs.child import ROOT
from jobs.collection import collect_statistics
from jobs.job import JobFolder, read_json, write_atomically
from jobs.recall import Sources, recall, remember
from jobs.stage import job_folder
from jobs.unchanged import dated, keep_if_of
from merging.checkpoint import open_parent
from merging.errors import InputError, MergeError, raise_errors
from merging.machine import available_memory
from merging.parent import Parent, with_base
from merging.plan import Plan, make_plan, memory_problem
from merging.progress import Progress
from merging.recipe import Recipe, StatisticsKind, recipe_from_yaml
from merging.recipe_problems import recipe_problems
from merging.statistics import Statistics, check_values
from merging.supply import disk_problem

CHECK_SHARE = 0.8  # of the available memory that the check of a model may take
CHECK_LEAST = 2 << 30  # bytes: with less, importing torch and transformers alone does not end
Result = dict[str, Any]
Steps = Generator[Progress, None, Result]


@dataclass(frozen=True)
class StageContext:
    """What a stage has to work with."""

    folder: JobFolder
    hub: Hub
    recipe: Recipe  # as submitted
    folders_allowed: bool = False
    device: str = "auto"
    threads: int = 0
    memory: int = 2 << 30  # bytes
    reserve: int = 0  # bytes of the disk that are not the job's
    public_url: str = ""
    publishes: bool = True  # False on the command line's own machine: the result stays a folder

    @cached_property
    def pinned(self) -> Recipe:
        """The recipe that the stage pin wrote."""
        return recipe_from_yaml(self.folder.pinned.read_text())

    @property
    def kinds(self) -> tuple[StatisticsKind, ...]:
        """The kinds of statistics that the method needs."""
        needs = self.recipe.method.needs
        return tuple(kind for kind in ("gram", "fisher") if kind in needs)

    def remote(self) -> Sources:
        """What the Hub shows now, at the pinned revisions: asks for access once more."""
        resolved = resolve(self.hub, self.pinned, folders_allowed=self.folders_allowed).raise_if_impossible()
        pinned = [set(entry.statistics) for entry in self.pinned.models]
        parents = tuple(
            replace(parent, statistics={kind: fact for kind, fact in parent.statistics.items() if kind in kinds})
            for parent, kinds in zip(resolved.parents, pinned, strict=True)
        )
        return parents, resolved.base

    def files_of(self, index: int) -> Path:
        """Where the files of a parent lie."""
        entry = self.pinned.models[index]
        return Path(entry.model).expanduser() if entry.is_folder else self.folder.parent(index)

    def opened(self, sources: Sources) -> Sources:
        """These models as the files on the disk have them, with their statistics; weights may be fetched later."""
        parents, base = sources
        opened = []
        for index, parent in enumerate(parents):
            facts = {kind: file.fact for kind, file in self.statistics(index).items()}
            opened.append(replace(_opened(parent, self.files_of(index)), statistics=facts))
        return tuple(opened), base and _opened(base, self.folder.base)

    def statistics(self, index: int) -> dict[str, Statistics]:
        """The statistics files of a parent that are on disk."""
        paths = {kind: self.folder.statistics(index, kind) for kind in self.kinds}
        return {kind: Statistics(path) for kind, path in paths.items() if path.is_file()}


def _opened(parent: Parent, folder: Path) -> Parent:
    if not parent.revision:
        return parent  # a folder of this machine
    revision, calibration = parent.revision, parent.calibration
    return open_parent(parent.model, folder, revision=revision, calibration=calibration, remote=parent)


def pin(context: StageContext) -> Steps:
    """Pin every revision, plan from headers, look at the disk and at the output's name."""
    yield Progress("pin", 0, 1, "steps", "reading headers")
    resolved = resolve(context.hub, context.recipe, folders_allowed=context.folders_allowed)
    resolved.raise_if_impossible(recipe_problems(context.recipe))
    plan = make_plan(resolved.recipe, resolved.parents, resolved.base).raise_if_impossible()
    room = context.folder.room(context.reserve)
    too_large = disk_problem(plan.disk_bytes, room) or memory_problem(plan, context.memory)
    raise_errors([too_large] if too_large else [])
    raise_errors(check_output(context.hub, context.recipe) if context.publishes else [])
    _keep_collected(context, resolved.parents)
    write_atomically(context.folder.recipe, context.recipe.to_yaml())
    write_atomically(context.folder.plan, json.dumps(plan.as_dict()))
    write_atomically(context.folder.pinned, resolved.recipe.to_yaml())
    yield Progress("pin", 1, 1, "steps", f"{len(plan.steps)} tensors")
    missing = sum(kind not in parent.statistics for parent in resolved.parents for kind in context.kinds)
    return {"missing_statistics": missing}


def _keep_collected(context: StageContext, parents: Sequence[Parent]) -> None:
    """Statistics that an earlier start has collected stay if they are of these weights and this text."""
    for index, (entry, parent) in enumerate(zip(context.recipe.models, parents, strict=True)):
        if entry.calibration is not None:
            of = [parent.state, entry.calibration.model_dump(mode="json"), dated(entry.calibration.data)]
            keep_if_of(context.folder.statistics(index, "").parent, of)


def fetch(context: StageContext) -> Steps:
    """Download what the merge does not fetch itself, and plan again from the files: it must be the same plan.

    These are statistics, small files, and the weights of models that statistics are to be collected of.
    """
    from hub.download import fetch as download
    from hub.download import fetch_statistics

    parents, base = context.remote()
    plan = make_plan(context.pinned, parents, base).raise_if_impossible()
    wanted = _wanted(context, plan, parents, base)
    done = kept = 0
    total = sum(fact.nbytes for parent in parents for fact in parent.statistics.values() if parent.revision)
    total += sum(source.files.get(name, 0) for source, names, _ in wanted for name in names)
    for index, parent in enumerate(parents):  # before any weights: they may be refused by their values
        for kind, fact in parent.statistics.items():
            path = context.folder.statistics(index, kind)
            message = f"{kind.title()} statistics of {parent.model}"
            found = nbytes = fact.nbytes if parent.revision else 0
            yield Progress("fetch", done, total, message=message, kept=kept)
            for step in fetch_statistics(context.hub, fact, path):
                found = step.kept
                yield Progress("fetch", done + step.done, total, message=message, kept=kept + found)
            check_values(path)
            done, kept = done + nbytes, kept + found
    for source, names, folder in wanted:
        found = 0
        for step in download(context.hub, source, names, folder):
            found = step.kept
            yield Progress("fetch", done + step.done, total, message=step.message, kept=kept + found)
        done, kept = done + sum(source.files.get(name, 0) for name in names), kept + found
    _agree(plan, make_plan(context.pinned, *context.opened((parents, base))), context.folder)
    yield Progress("fetch", total, total, kept=kept)
    return {"bytes": total}


def _wanted(
    context: StageContext, plan: Plan, parents: Sequence[Parent], base: Parent | None
) -> list[tuple[Parent, tuple[str, ...], Path]]:
    """What is fetched before the merge: (model, its files, the folder that they come into)."""
    found = []
    for index, parent in enumerate(parents):
        missing = [kind for kind in context.kinds if kind not in parent.statistics]
        whole = any(
            not context.folder.statistics(index, kind).is_file() for kind in missing
        )  # they are collected of it
        names = tuple(name for name in plan.fetch[index] if whole or name not in parent.weights)
        found.append((parent, names, context.folder.parent(index)))
    if base:
        found.append((base, tuple(name for name in plan.fetch_base if name not in base.weights), context.folder.base))
    return [one for one in found if one[0].revision]  # others are folders of this machine


def _agree(headers: Plan, files: Plan, folder: JobFolder) -> None:
    """The plan of the preview, of the headers and of the files are one."""
    files.raise_if_impossible()
    first = (read_json(folder.plan) or {}).get("fingerprint")
    if not first == headers.fingerprint == files.fingerprint:
        raise MergeError("The downloaded files are not what was planned", "a model was changed meanwhile", "Try again")


def calibrate(context: StageContext) -> Steps:
    """Collect the statistics that are not published, from the text that the recipe names."""
    missing = [
        (index, kind)
        for index in range(len(context.pinned.models))
        for kind in context.kinds
        if not context.folder.statistics(index, kind).is_file()
    ]
    for place, (index, kind) in enumerate(missing):
        for step in _collect(context, index, kind):
            message = f"{kind} of {context.pinned.models[index].repo_id} ({place + 1} of {len(missing)})"
            done, total = place * step.total + step.done, len(missing) * step.total  # they have about as many texts
            yield Progress("calibrate", done, total, step.unit, message)
    return {"collected": len(missing)}


def _collect(context: StageContext, index: int, kind: StatisticsKind) -> Generator[Progress, None, None]:
    entry = context.pinned.models[index]
    if entry.calibration is None:
        raise InputError(f"{entry.model} has no {kind} statistics", "and no text to collect them from", "Name some")
    yield from collect_statistics(
        context.hub,
        kind,
        context.files_of(index),
        entry.calibration,
        context.folder.statistics(index, kind),
        cache=context.folder.cache,
        files_allowed=context.folders_allowed,
        device=context.device,
        model=entry.repo_id,
        revision=entry.revision or "",
    )


def merge(context: StageContext) -> Steps:
    """Merge into the job's output folder, fetching weights as they are needed.

    Shards that an earlier start finished are kept; what only they needed is not fetched again.
    """
    from hub.feed import HubFeed
    from merging.engine import merge as run

    sources = context.remote()
    remember(context.folder, sources)
    parents, base = context.opened(sources)
    plan = make_plan(context.pinned, parents, base).raise_if_impossible()
    assert plan.supply is not None
    files = [context.statistics(index) for index in range(len(parents))]
    limit = max(plan.disk_bytes, (read_json(context.folder.plan) or {}).get("disk_bytes", 0))
    with HubFeed(context.hub, plan.supply, with_base(parents, base), limit) as feed:
        report = yield from feed.watched(
            run(
                plan,
                parents,
                context.folder.output,
                base=base,
                statistics=files,
                device=context.device,
                threads=context.threads,
                memory=context.memory,
                feed=feed,
            )
        )
    write_atomically(context.folder.report, json.dumps(report.as_dict()))
    return {"seconds": report.seconds}


def check(context: StageContext) -> Steps:
    """Load each model of the output in a process of its own, with bounded memory, and run it once."""
    outputs = read_json(context.folder.plan)["outputs"]
    names = [output["folder"] or "root" for output in outputs]
    yield Progress("check", 0, len(names), "models", names[0])
    command = [sys.executable, "-m", "merging.check"]
    command += [str(context.folder.output / output["folder"]) for output in outputs]
    command += ["--parameters", *(str(output["parameters"]) for output in outputs)]
    command += ["--files", *(",".join(output["files"]) for output in outputs)]
    command += ["--memory", str(max(CHECK_LEAST, int(CHECK_SHARE * available_memory())))]
    found: list[Result] = []
    with TemporaryFile("w+") as prose:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=prose, text=True, cwd=ROOT)
        for line in process.stdout or ():
            found.append(json.loads(line) | {"folder": names[len(found)]})
            yield Progress("check", len(found), len(names), "models", found[-1]["folder"])
        if process.wait() != 0:
            prose.seek(0)
            said = prose.read().strip().splitlines()
            reason = said[-1] if said else f"its process ended with status {process.returncode}"
            raise MergeError("The merged model did not pass its check", reason, "Nothing was published")
    report = read_json(context.folder.report)
    notes = [f"{one['folder']}: {one['note']}" for one in found if "note" in one]
    report |= {"checks": found, "notes": sorted({*report["notes"], *notes})}
    write_atomically(context.folder.report, json.dumps(report))
    return {"checked": len(found)}


def evaluate(context: StageContext) -> Steps:
    """Compare the merge with its parents: see `jobs.evaluation`."""
    from jobs.evaluation import evaluate as run

    return (yield from run(context))


def publish(context: StageContext) -> Steps:
    """Write the card and publish all files in one commit; again after a kill, it is the same commit."""
    from hub.card import render_card
    from hub.merge_report import REPORT_FILE, public_report
    from hub.pictures import write_pictures
    from hub.publish import publish as upload
    from hub.publish import without_local_paths
    from hub.upload import watched
    from merging.engine import Report

    repo_id = context.pinned.output.repo_id
    assert repo_id is not None
    yield Progress("publish", 0, 0, "bytes", f"to {repo_id}")
    (parents, base), withdrawn = _seen(context)
    report = Report.from_dict(
        {key: value for key, value in read_json(context.folder.report).items() if key != "checks"}
    )
    public = without_local_paths(context.pinned)
    write_atomically(context.folder.output / "recipe.yaml", public.without_output().to_yaml())
    drawn = write_pictures(report.as_dict(), context.folder.output)
    url = context.public_url
    card = render_card(public, parents, report, base=base, repo_id=repo_id, service_url=url, pictures=drawn)
    write_atomically(context.folder.output / "README.md", card)
    write_atomically(context.folder.output / REPORT_FILE, public_report(report.as_dict()))
    published = yield from watched(
        lambda meter: upload(
            context.hub,
            context.folder.output,
            repo_id,
            private=withdrawn or result_is_private(context.pinned, parents, base),
            job_id=context.folder.id,
            message=f"Merge by {context.pinned.method.name}",
            meter=meter,
        )
    )
    write_atomically(context.folder.published, json.dumps(published.as_dict()))
    yield Progress("publish", 1, 1, "commits", published.url)
    return {"published": published.as_dict()}


def _seen(context: StageContext) -> tuple[Sources, bool]:
    """The models as the Hub shows them now, else as it showed them when they were merged; whether one is withdrawn."""
    try:
        return context.remote(), False
    except InputError as error:
        noted = None if error.passing else recall(context.folder)
        if noted is None:
            raise
        context.folder.append_log("publish", f"{error} It could be read when it was merged: the result is private.")
        return noted, True


def run_stage(name: str, path: Path, request: Mapping[str, Any]) -> Steps:
    """The stage of that name, of the merge that the request asks for."""
    return (yield from STAGES[name](_context(path, request)))


def hub_of(request: Mapping[str, Any]) -> Hub:
    """The Hub as the job's owner sees it."""
    scopes = None if request["scopes"] is None else frozenset(request["scopes"])
    return Hub(request["endpoint"], request["token"], scopes, request["own_machine"])


def _context(path: Path, request: Mapping[str, Any]) -> StageContext:
    return StageContext(
        folder=job_folder(path),
        hub=hub_of(request),
        recipe=recipe_from_yaml(request["recipe_yaml"]),
        folders_allowed=request["folders_allowed"],
        device=request["device"],
        threads=request["threads"],
        memory=request["memory"],
        reserve=request["reserve"],
        public_url=request["public_url"] or "",
    )


STAGES: Mapping[str, Callable[[StageContext], Steps]] = {
    function.__name__: function for function in (pin, fetch, calibrate, merge, check, evaluate, publish)
}
