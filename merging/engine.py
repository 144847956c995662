"""Carries out a plan: block by block, never a model in memory.

Peak memory is a block of one tensor of every parent per thread, and for methods with Gram matrices those of
one layer. Steps are independent: they run on several threads and write at their own place. The bytes do not
depend on the number of threads, for arithmetic inside a step runs on one.
"""

import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from merging.alignment import reordered
from merging.checkpoint import ShardWriter, sha256_of
from merging.device import device_name, pick_device
from merging.errors import InputError, MergeError
from merging.heads import arrange
from merging.method import find_method
from merging.parent import Parent
from merging.plan import Plan, Shard, Step
from merging.progress import Progress
from merging.roles import inputs_of
from merging.side_files import write_side_files
from merging.statistics import Statistics
from merging.tensors import FisherMoments, TensorGroup

BLOCK = 1 << 18  # values: 1 MB of float32 stays in a core's cache
ROW_BLOCK = 1 << 22  # values of a matrix that is solved: large products are what BLAS is fast at

ParentStatistics = Mapping[str, Statistics]  # kind -> opened file


@dataclass(frozen=True)
class Report:
    """What a merge did, for the card, the job and whoever verifies it."""

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
    peak_memory: int = 0  # bytes: the most anonymous memory of the process seen while it merged

    def as_dict(self) -> dict[str, Any]:
        """The report in plain data."""
        return {**vars(self), "files": dict(self.files), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Report":
        """The report that `as_dict` gave."""
        return cls(**{**data, "notes": tuple(data["notes"])})


def merge(
    plan: Plan,
    parents: Sequence[Parent],
    out: Path,
    *,
    statistics: Sequence[ParentStatistics] = (),
    device: str = "auto",
    threads: int = 0,
    memory: int = 2 * 1024**3,
) -> Generator[Progress, None, Report]:
    """Write the merged model into `out`, yielding progress in output bytes.

    `statistics` holds an opened file per parent and kind that the method needs. `threads=0` is one per core;
    on a GPU it is one. `memory` (bytes) bounds the blocks of all threads together. Shards that an earlier,
    interrupted run of the same plan finished are kept. Closing the generator cancels.

    Raises MergeError when a result is not finite, OSError when the disk fails.
    """
    plan.raise_if_impossible()
    began = time.monotonic()
    target = pick_device(device)
    workers = 1 if target.type == "cuda" else threads or os.cpu_count() or 1
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out, _identity(plan, parents))
    left = [shard for shard in plan.shards if shard.path not in journal.finished]
    work = _Work(plan, arrange(parents).parents, statistics, target, memory // workers, out)
    total = plan.output_bytes
    with one_torch_thread():
        for shard in left:
            work.done = sum(other.nbytes for other in plan.shards if other.path in journal.finished)
            yield from work.write_shard(shard, workers, total)
            journal.finish(shard.path)
    yield from write_side_files(plan, parents, out)
    actions = [step.action for step in plan.steps]
    report = Report(
        method=plan.recipe.method.name,
        device=device_name(target),
        cpu=cpu_name(),
        torch=torch.__version__,
        threads=workers,
        seconds=round(time.monotonic() - began, 3),
        parameters=plan.parameters(plan.outputs[0]),
        files=dict(journal.finished),
        tensors={action: actions.count(action) for action in ("merge", "average", "copy")},
        fallbacks=plan.fallbacks,
        notes=tuple(sorted(set(work.notes))),
        peak_memory=work.peak_memory,
    )
    yield Progress("merge", total, total)
    return report


def _identity(plan: Plan, parents: Sequence[Parent]) -> str:
    """Equal for the same work on the same weights."""
    weights = [sorted(parent.weights.items()) for parent in parents]
    return hashlib.sha256(json.dumps([plan.fingerprint, weights]).encode()).hexdigest()


class Journal:
    """Which shards are finished, so that an interrupted merge goes on: kept beside the output, not in it."""

    def __init__(self, out: Path, identity: str) -> None:
        self._out = out
        self._path = out.with_name(out.name + ".journal.json")
        self._identity = identity
        self.finished: dict[str, str] = {}
        try:
            data = json.loads(self._path.read_text())
            if data["work"] == identity:
                self.finished = {
                    path: digest
                    for path, digest in data["shards"].items()
                    if (out / path).is_file() and sha256_of(out / path) == digest
                }
        except (OSError, ValueError, KeyError):
            pass  # nothing finished yet

    def finish(self, path: str) -> None:
        """Note a shard that has its final name."""
        self.finished[path] = sha256_of(self._out / path)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"work": self._identity, "shards": self.finished}))
        temporary.replace(self._path)


class _Work:
    """One merge under way: where its tensors come from, and how to make a block of an output tensor."""

    def __init__(
        self,
        plan: Plan,
        parents: Sequence[Parent],
        statistics: Sequence[ParentStatistics],
        device: torch.device,
        memory: int,
        out: Path,
    ) -> None:
        self.plan, self.parents, self.statistics = plan, parents, statistics
        self.device, self.memory, self.out = device, memory, out
        self.method = plan.recipe.method
        self.options = plan.recipe.bound()
        self.average_options = {
            name: value for name, value in self.options.items() if name in ("weight", "normalize") and value is not None
        }
        if self.method.name != "average":
            self.average_options.pop("normalize", None)
        self.notes: list[str] = []
        self.done = self.peak_memory = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._totals = self._fisher_totals() if "fisher" in self.method.needs else []

    def write_shard(self, shard: Shard, workers: int, total: int) -> Iterator[Progress]:
        """Write one shard on several threads."""
        path = self.out / shard.path
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = ShardWriter(path, [step.spec for step in shard.steps])
        pool = ThreadPoolExecutor(workers, thread_name_prefix="merge")
        try:
            pending = {pool.submit(self._bundle, bundle, writer) for bundle in self._bundles(shard)}
            while pending:
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                self.peak_memory = max(self.peak_memory, anonymous_memory())
                yield Progress("merge", min(self.done, total), total, message=shard.path)
        except BaseException:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            writer.abandon()
            raise
        pool.shutdown()
        writer.finish()

    def _bundles(self, shard: Shard) -> list[list[Step]]:
        """Steps that share the Gram matrices of all parents stand together: factored once."""
        bundles: dict[Any, list[Step]] = {}
        for step in shard.steps:
            bundles.setdefault(self._gram_key(step) or step.name, []).append(step)
        return list(bundles.values())

    def _gram_key(self, step: Step) -> tuple[str | None, ...] | None:
        if step.action != "merge" or "gram" not in self.method.needs:
            return None
        return tuple(
            files["gram"].gram_key(parent.disk(step.name))
            for parent, files in zip(self.parents, self.statistics, strict=True)
        )

    def _bundle(self, steps: list[Step], writer: ShardWriter) -> None:
        shared: dict[str, Any] = {}
        grams: tuple[Tensor, ...] | None = None
        if self._gram_key(steps[0]) is not None:
            grams = tuple(
                files["gram"].gram(parent.disk(steps[0].name)).to(self.device)
                for parent, files in zip(self.parents, self.statistics, strict=True)
            )
        for step in steps:
            try:
                self._step(step, writer, shared, grams)
            except (MergeError, OSError):
                raise
            except Exception as error:
                raise MergeError(f"{step.name} could not be merged by {self.method.name}", str(error)) from error
        self.notes += shared.get("notes", [])

    def _step(self, step: Step, writer: ShardWriter, shared: dict[str, Any], grams: tuple[Tensor, ...] | None) -> None:
        for parent in self._sources(step):
            if parent.source.specs[step.name].shape != step.spec.shape:
                raise MergeError(f"{step.name} of {parent.model} has another shape than planned", "", "Merge again")
        if step.action == "copy":
            source = self.parents[step.inputs[0]].source
            for start, stop in _ranges(step.spec.numel, BLOCK):
                self._store(step, writer, start, source.read(step.name, start, stop))
        elif step.action == "average":
            options = dict(self.average_options)
            if "weight" in options:
                options["weight"] = tuple(options["weight"][index] for index in step.inputs)
            average = partial(find_method("average").function, **options)
            self._blocks(step, writer, average, {}, None, elements=True)
        else:
            function = partial(self.method.function, **self.method.values_for(self.options, step.name))
            if step.role.kind == "conv1d" and self.method.splits != "elements":
                self._transposed(step, writer, function, shared, grams)
            else:
                self._blocks(step, writer, function, shared, grams, elements=self.method.splits == "elements")

    def _blocks(
        self,
        step: Step,
        writer: ShardWriter,
        function: Any,
        shared: dict[str, Any],
        grams: tuple[Tensor, ...] | None,
        *,
        elements: bool,
    ) -> None:
        """Merge a tensor in blocks: of values, of whole rows, or as one, as the method declared."""
        shape, size = step.spec.shape, step.spec.numel
        length = self._block_length(step, elements)
        for start, stop in _ranges(size, length):
            block = [self._load(source, step, start, stop) for source in self._sources(step)]
            if not elements:
                rows = (-1, *shape[1:]) if self.method.splits == "rows" else shape
                rows = (-1, inputs_of("patch", shape)) if step.role.kind == "patch" else rows
                block = [values.reshape(rows) for values in block]
            group = self._group(step, tuple(block), shared, grams, start, stop)
            self._store(step, writer, start, function(group))

    def _transposed(
        self, step: Step, writer: ShardWriter, function: Any, shared: dict[str, Any], grams: tuple[Tensor, ...] | None
    ) -> None:
        """A (in, out) weight is shown to the method as (out, in), whole."""
        size, shape = step.spec.numel, step.spec.shape
        tensors = tuple(
            self._load(source, step, 0, size).reshape(shape).T.contiguous() for source in self._sources(step)
        )
        merged = function(self._group(step, tensors, shared, grams, 0, size))
        self._store(step, writer, 0, merged.T.contiguous())

    def _block_length(self, step: Step, elements: bool) -> int:
        copies = 2 * len(step.inputs) * (2 if "fisher" in self.method.needs else 1) + 4
        affordable = max(1 << 14, self.memory // (4 * copies))
        if elements:
            return min(BLOCK, affordable) if self.device.type == "cpu" else min(1 << 25, affordable)
        if self.method.splits == "whole" or not step.spec.shape:
            return max(1, step.spec.numel)
        row = max(1, step.spec.numel // max(1, step.spec.shape[0]))
        return max(1, min(ROW_BLOCK, affordable // 2) // row) * row

    def _sources(self, step: Step) -> list[Parent]:
        return [self.parents[index] for index in step.inputs]

    def _load(self, parent: Parent, step: Step, start: int, stop: int) -> Tensor:
        if self._stop.is_set():
            raise InterruptedError("the merge was stopped")
        return parent.source.read(step.name, start, stop).to(self.device, torch.float32)

    def _group(
        self,
        step: Step,
        tensors: tuple[Tensor, ...],
        shared: dict[str, Any],
        grams: tuple[Tensor, ...] | None,
        start: int,
        stop: int,
    ) -> TensorGroup:
        fishers = moments = None
        if self._totals and step.action == "merge":
            files = [files["fisher"] for files in self.statistics]
            fishers = tuple(
                reordered(file, parent.disk(step.name), parent.rows.get(step.name), start, stop)
                .to(self.device)
                .reshape(tensors[0].shape)
                for parent, file in zip(self.parents, files, strict=True)
            )
            moments = tuple(
                FisherMoments(*total, *file.moments(parent.disk(step.name)))
                for total, parent, file in zip(self._totals, self.parents, files, strict=True)
            )
        return TensorGroup(
            name=step.name,
            tensors=tensors,
            grams=grams,
            fishers=fishers,
            moments=moments,
            seed=self.plan.recipe.seed,
            shared=shared,
        )

    def _fisher_totals(self) -> list[tuple[int, float, float]]:
        """(values, sum, sum of squares) of each parent's Fisher over all tensors that the method merges."""
        names = [step.name for step in self.plan.steps if step.action == "merge"]
        totals = []
        for parent, files in zip(self.parents, self.statistics, strict=True):
            parts = [files["fisher"].moments(parent.disk(name)) for name in names]
            counts, sums, squares = zip(*parts, strict=True) if parts else ((0,), (0.0,), (0.0,))
            totals.append((sum(counts), sum(sums), sum(squares)))
        return totals

    def _store(self, step: Step, writer: ShardWriter, start: int, values: Tensor) -> None:
        if step.spec.dtype.is_floating_point and not bool(torch.isfinite(values).all()):
            raise self._not_finite(step)
        stored = values.reshape(-1).to("cpu", step.spec.dtype)
        if step.spec.dtype == torch.float16 and not bool(torch.isfinite(stored).all()):
            raise InputError(
                f"{step.name} does not fit float16", "a value is too large", "Use bfloat16 or float32", "dtype"
            )
        writer.write(step.spec.name, start, stored)
        with self._lock:
            self.done += stored.numel() * step.spec.dtype.itemsize

    def _not_finite(self, step: Step) -> MergeError:
        for parent in self._sources(step):
            if not bool(torch.isfinite(parent.source.read(step.name).float()).all()):
                return InputError(f"{parent.model} holds NaN or infinity", f"in {step.name}", "Leave it out")
        return MergeError(f"{step.name} became NaN or infinite", f"merged by {self.method.name}", "Change a parameter")


def cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def anonymous_memory() -> int:
    """RssAnon of this process in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return 0


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


def _ranges(size: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, length):
        yield start, min(size, start + length)
