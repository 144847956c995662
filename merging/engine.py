"""Carries out a plan: shard by shard, block by block, never a model in memory.

Peak memory is what the budget allows: a block of every model per thread, and for methods with Gram matrices those of
the layers that are being solved. Steps are independent: they run on several threads and write at their own place. The
bytes do not depend on the number of threads, for arithmetic inside a step runs on one.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from merging.account import Account
from merging.blocks import Operands, ParentStatistics
from merging.checkpoint import ShardWriter
from merging.device import pick_device
from merging.differences import differences
from merging.errors import InputError
from merging.heads import arrange
from merging.journal import Journal
from merging.memory import return_freed_memory
from merging.parent import Parent, with_base
from merging.plan import Plan, memory_problem
from merging.products import Observer
from merging.progress import Progress
from merging.side_files import write_side_files
from merging.steps import Shard
from merging.work import Work

MEMORY = 2 * 1024**3  # bytes: the default budget


@dataclass(frozen=True)
class Report:
    """What a merge did, for the card, the job and whoever verifies it; an interrupted one in all of its starts."""

    method: str
    device: str
    cpu: str
    torch: str
    threads: int
    seconds: float
    parameters: int  # of one loadable model
    files: Mapping[str, str]  # weight file -> SHA-256
    tensors: Mapping[str, int]  # action -> number of output tensors
    fallbacks: Mapping[str, str] = field(default_factory=dict)  # tensor -> reason
    notes: tuple[str, ...] = ()
    differences: Mapping[str, Any] = field(default_factory=dict)  # of the models, see `merging.differences`
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # what a later stage finds, see docs/evaluation.md
    hashing: float = 0.0  # seconds of `seconds` that the hashes of the output took
    peak_memory: int = 0  # bytes: the most anonymous memory of the process seen while it merged

    def as_dict(self) -> dict[str, Any]:
        """The report in plain data."""
        return {**vars(self), "files": dict(self.files), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Report":
        """The report that `as_dict` gave."""
        return cls(**{**data, "notes": tuple(data["notes"])})


class Feed(Protocol):
    """Brings the inputs of a merge to the disk while it runs, and takes away what no later shard needs."""

    def begin(self, shards: Sequence[Shard]) -> None:
        """These output shards are left to be made, in this order: called once, before anything else."""
        ...

    def needs_room(self, shard: Shard) -> bool:
        """Whether the inputs of that shard fit on the disk only when those before it are released."""
        ...

    def bring(self, shard: Shard) -> Iterator[Progress]:
        """See to it that every input of that output shard is on disk."""
        ...

    def release(self, shard: Shard) -> None:
        """That output shard is finished."""
        ...


def merge(
    plan: Plan,
    parents: Sequence[Parent],
    out: Path,
    *,
    base: Parent | None = None,
    statistics: Sequence[ParentStatistics] = (),
    device: str = "auto",
    threads: int = 0,
    memory: int = MEMORY,
    feed: Feed | None = None,
) -> Generator[Progress, None, Report]:
    """Write the merged model into `out`, yielding progress in output bytes.

    `statistics` holds an opened file per parent and kind that the method needs. `threads=0` is one per core.
    `memory` (bytes) is what blocks and matrices of all threads together may take. Shards that an earlier,
    interrupted run of the same plan finished are kept. Without a `feed` every input is on disk. Closing the generator
    cancels.

    Raises InputError when a layer cannot be solved within `memory`, MergeError when a result is not finite, OSError
    when the disk fails.
    """
    plan.raise_if_impossible()
    if problem := memory_problem(plan, memory):
        raise InputError.of([problem])
    began = time.monotonic()
    return_freed_memory()
    target = pick_device(device)
    workers = threads or _cores()
    out.mkdir(parents=True, exist_ok=True)
    yield Progress("merge", 0, 0, message="looking at what is there")  # shards of an earlier start are hashed
    journal = Journal(out, _identity(plan, with_base(parents, base), statistics))
    arranged = arrange(parents, base)
    pairs = statistics or [{} for _ in parents]
    operands = Operands(plan, arranged.parents, arranged.base, pairs)
    work = Work(operands, target, workers, memory)
    work.notes.update(journal.told.get("notes", ()))
    account = Account(journal.told, target, began)

    def told() -> dict[str, Any]:
        return account.told(journal.hashing, work.peak_memory)

    total = plan.output_bytes
    left = [shard for shard in plan.shards if shard.path not in journal.finished]
    for shard in left:  # one that was never noted, or of other work, would take room beside the new one
        (out / shard.path).unlink(missing_ok=True)
    work.done = work.kept = sum(shard.nbytes for shard in plan.shards if shard.path in journal.finished)
    if feed:
        feed.begin(left)
    with one_torch_thread(), _Finisher(journal, feed, Observer(operands), told) as finisher:
        for shard in left:
            if feed:
                if feed.needs_room(shard):  # the plan's peak of the disk holds
                    yield from finisher.wait(work, total)
                yield from feed.bring(shard)
            yield from _write(shard, work, out, finisher, total)
        yield from finisher.wait(work, total)
    yield from write_side_files(plan, parents, out)
    actions = [step.action for step in plan.steps]
    report = Report(
        method=plan.recipe.method.name,
        threads=workers,
        parameters=plan.parameters(plan.outputs[0]),
        files=dict(journal.finished),
        tensors={action: actions.count(action) for action in ("merge", "average", "copy")},
        fallbacks=plan.fallbacks,
        notes=tuple(sorted(work.notes)),
        differences=differences(plan, operands.parents, operands.base, [journal.seen[s.path] for s in plan.shards]),
        **told(),
    )
    yield Progress("merge", total, total)
    return report


class _Finisher:
    """Syncs, names, hashes and notes a shard while the next one is merged: one at a time, in order.

    How its models differ is looked at beside the hashing, which leaves a core free where there is no next one: the many
    short calls of it, between those of the threads that merge, made an average half as slow again.
    """

    def __init__(
        self, journal: Journal, feed: Feed | None, observer: Observer, told: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._journal, self._feed, self._observer, self._told = journal, feed, observer, told
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._waiting: tuple[Shard, Future[None]] | None = None

    def __enter__(self) -> "_Finisher":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        self._looking.shutdown()

    def finish(self, shard: Shard, writer: ShardWriter, notes: Sequence[str]) -> None:
        """Take over a shard whose bytes are all written. The one before it was waited for."""

        def work() -> None:
            seen = self._looking.submit(self._observer.of, shard)
            writer.finish()
            self._journal.finish(shard.path, seen.result, lambda: {"notes": notes, **self._told()})

        self._waiting = shard, self._thread.submit(work)

    def wait(self, work: Work, total: int) -> Iterator[Progress]:
        """Until the last shard is done, saying so twice a second. Raises the OSError of that one."""
        while self._waiting and not self._waiting[1].done():
            yield Progress("merge", min(work.done, total), total, message="hashing the output", kept=work.kept)
            wait([self._waiting[1]], timeout=0.5)
        if self._waiting:
            shard, future = self._waiting
            future.result()
            self._waiting = None
            if self._feed:
                self._feed.release(shard)


def _write(shard: Shard, work: Work, out: Path, finisher: _Finisher, total: int) -> Iterator[Progress]:
    """Write one shard; it gets its name when it is whole."""
    path = out / shard.path
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(path, [step.spec for step in shard.steps])
    try:
        yield from work.write_shard(shard, writer)
        yield from finisher.wait(work, total)
    except BaseException:
        writer.abandon()
        raise
    finisher.finish(shard, writer, sorted(work.notes))


def _cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _identity(plan: Plan, parents: Sequence[Parent], statistics: Sequence[ParentStatistics]) -> str:
    """Equal for the same work on the same weights and statistics, which the sums in their headers tell apart."""
    weights = [parent.state for parent in parents]
    headers = [{kind: dict(files[kind].metadata) for kind in files} for files in statistics]
    return hashlib.sha256(json.dumps([plan.fingerprint, weights, headers], sort_keys=True).encode()).hexdigest()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Arithmetic inside a step on one thread: the bytes do not depend on how many steps run beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_to_end(generator: Generator[Progress, None, Report]) -> Report:
    """The report of a merge whose progress nobody watches."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return cast(Report, end.value)
