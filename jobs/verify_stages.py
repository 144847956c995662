"""What each stage of a verification does: the merge again, in a folder of its own, and the comparison."""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hub.client import Hub
from hub.repository import open_repo
from jobs import stages
from jobs.job import JobFolder, read_json, write_atomically
from jobs.stage import job_folder
from jobs.stages import StageContext, Steps, hub_of
from jobs.verify import VerifyPlan, verifiable
from jobs.verify_compare import MadeAgain
from jobs.verify_compare import compare as compare_all
from jobs.verify_result import Verification, keep
from merging.device import pick_device
from merging.errors import InputError, raise_errors
from merging.plan import memory_problem
from merging.progress import Progress
from merging.recipe import recipe_from_yaml
from merging.supply import disk_problem
from merging.wish import VerifyWish, wish_from_yaml


@dataclass(frozen=True)
class VerifyContext:
    """What a stage has to work with."""

    folder: JobFolder
    hub: Hub
    wish: VerifyWish
    device: str = "auto"
    threads: int = 0
    memory: int = 2 << 30  # bytes
    reserve: int = 0  # bytes of the disk that are not the job's

    @cached_property
    def merge(self) -> StageContext:
        """The merge that is made again, as the stage pin has written it down."""
        recipe = recipe_from_yaml(self.folder.recipe.read_text())
        return StageContext(
            self.folder,
            self.hub,
            recipe,
            device=self.device,
            threads=self.threads,
            memory=self.memory,
            publishes=False,
        )


def pin(context: VerifyContext) -> Steps:
    """Read the published recipe at its commit, plan from headers, look at the disk."""
    yield Progress("pin", 0, 1, "steps", "reading headers")
    found = verifiable(context.hub, context.wish.repo_id, context.wish.commit)
    room = context.folder.room(context.reserve)
    problem = disk_problem(found.disk_bytes, room, "this verification") or memory_problem(found.plan, context.memory)
    raise_errors([problem] if problem else [])
    write_atomically(context.folder.recipe, found.recipe.to_yaml())
    write_atomically(context.folder.plan, json.dumps(found.plan.as_dict()))
    write_atomically(context.folder.pinned, found.pinned.to_yaml())
    yield Progress("pin", 1, 1, "steps", found.words)
    return {}


def fetch(context: VerifyContext) -> Steps:
    """Statistics and small files of the parents; weights come while they are merged."""
    return (yield from stages.fetch(context.merge))


def merge(context: VerifyContext) -> Steps:
    """Merge again."""
    return (yield from stages.merge(context.merge))


def compare(context: VerifyContext) -> Steps:
    """Compare with what is published at that commit, and write down what was found."""
    wish, folder = context.wish, context.folder
    plan, report = read_json(folder.plan), read_json(folder.report)
    work = MadeAgain(
        context.hub,
        open_repo(context.hub, wish.repo_id, wish.commit),
        folder.output,
        [output["folder"] for output in plan["outputs"]],
        report["files"],
    )
    found = yield from compare_all(work, folder.compared)
    write_atomically(folder.report, json.dumps(report | {"verification": found.as_dict()}))
    keep(folder.home, found)
    yield Progress("compare", 1, 1, "steps", found.title)
    return {"verification": found.as_dict()}


def verify_here(
    hub: Hub,
    repo_id: str,
    place: Path | None = None,
    *,
    tell: Callable[[VerifyPlan], None],
    device: str = "auto",
    threads: int = 0,
    memory: int = 2 << 30,
) -> Generator[Progress, None, Verification]:
    """The same without a queue, in a new folder in `place` that is removed at the end. `tell` gets what it will take.

    `repo_id` is `owner/name[@revision]`. Raises InputError for what cannot be verified.
    """
    pick_device(device)
    name, _, revision = repo_id.partition("@")
    yield Progress("pin", 0, 1, "steps", "reading headers")
    found = verifiable(hub, name, revision or None)
    tell(found)
    try:
        scratch = TemporaryDirectory(prefix="merge-verify-", dir=place)
    except OSError as error:
        raise InputError(f"{place} cannot be written", error.strerror or "", "Name another --folder") from None
    with scratch as path:
        folder = JobFolder(Path(path), "verify")
        folder.create()
        context = VerifyContext(folder, hub, found.wish, device, threads, memory)
        for stage in STAGES.values():
            yield from stage(context)
        return Verification.from_dict(read_json(folder.report)["verification"])


def run_stage(name: str, path: Path, request: Mapping[str, Any]) -> Steps:
    """The stage of that name, of the verification that the request asks for."""
    wish = wish_from_yaml(request["recipe_yaml"])
    assert isinstance(wish, VerifyWish)
    context = VerifyContext(
        job_folder(path),
        hub_of(request),
        wish,
        request["device"],
        request["threads"],
        request["memory"],
        request["reserve"],
    )
    return (yield from STAGES[name](context))


STAGES: Mapping[str, Callable[[VerifyContext], Steps]] = {
    function.__name__: function for function in (pin, fetch, merge, compare)
}
