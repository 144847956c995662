"""The work of a merge, cut into tasks for several threads within one budget of memory, on a CPU or a GPU.

A tensor that is merged value by value is cut into spans that any thread may take; matrices that share their Gram
matrices stand together, so that these are factored once. How a task is carried out stands in `merging.blocks`.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from merging.blocks import Grams, Maker, Operands, ParentStatistics, Task, ranges
from merging.checkpoint import ShardWriter
from merging.crew import Crew, Stopped
from merging.errors import MergeError
from merging.memory import Budget, anonymous_memory
from merging.parent import Parent
from merging.plan import LAPACK_MEMORY, solve_bytes
from merging.progress import Progress
from merging.roles import inputs_of
from merging.steps import Shard, Step

BLOCK = 1 << 18  # values: smaller ones cost more calls, larger ones leave the caches
GPU_BLOCK = 1 << 24  # values
ROW_BLOCK = 1 << 22  # values of a matrix that is solved: large products are what BLAS is fast at
SPAN = 1 << 23  # values that one thread takes at a time
FLOPS, READS = 2e10, 1e9  # a core's multiply-adds and values a second, about: to begin with what takes longest


class Work:
    """Makes the shards of a plan."""

    def __init__(self, operands: Operands, device: torch.device, workers: int, memory: int) -> None:
        self._operands, self._method = operands, operands.method
        self._device, self._workers = device, workers
        self._block, self._rows, buffered = self._lengths(memory)
        self._budget = Budget(memory - buffered)
        self._streams = threading.local()
        self._lock = threading.Lock()
        self.notes: set[str] = set()
        self.done = self.kept = self.peak_memory = 0  # bytes; kept is what of done an earlier start had finished

    # How much at a time

    def _lengths(self, memory: int) -> tuple[int, int, int]:
        """Values of a block of a method that works value by value, of one that works by rows, bytes of all buffers."""
        share = memory // 4 // self._workers // 4  # values of which a quarter of the budget holds one per thread
        models = self._operands.models * (2 if "fisher" in self._method.needs else 1)
        each, of_rows = 3 * models + 6, models + 12  # float32 values in memory for each value of a block
        block = max(1 << 12, min(BLOCK if self._device.type == "cpu" else GPU_BLOCK, share // each))
        rows = max(1 << 12, min(ROW_BLOCK, share // of_rows))
        values = block * each + (0 if self._method.splits == "elements" else rows * of_rows)
        solver = LAPACK_MEMORY if "gram" in self._method.needs else 0
        return block, rows, 4 * values * self._workers + solver

    def _need(self, step: Step) -> tuple[int, bool]:
        """Bytes that a step holds beside the buffers, and whether it may keep all Gram matrices of its layer."""
        if self._operands.by_value(step):
            return 0, False
        whole = 0
        if self._method.splits == "whole" or step.role.kind == "conv1d":
            whole = step.spec.numel * 4 * (self._operands.models + 12)
        if "gram" not in self._method.needs:
            return whole, False
        least, one = solve_bytes(step)
        most = least + one * (len(step.inputs) - 1) + whole
        return (most, True) if most <= self._budget.size // self._workers else (least + whole, False)

    # The tasks of a shard

    def write_shard(self, shard: Shard, writer: ShardWriter) -> Iterator[Progress]:
        """Write every tensor of a shard. Closing the iterator stops the threads; the caller finishes the writer."""
        crew: Crew[Task] = Crew(self._workers, lambda task: self._run(task, writer, crew))
        total = self._operands.plan.output_bytes
        for _ in crew.run(self._tasks(shard)):
            self.peak_memory = max(self.peak_memory, anonymous_memory())
            yield Progress("merge", min(self.done, total), total, message=shard.path, kept=self.kept)

    def _tasks(self, shard: Shard) -> list[Task]:
        """The longest first, so that no thread is left alone with one at the end; equals in the order of the file."""
        bundles: dict[object, list[Step]] = {}
        for step in shard.steps:
            bundles.setdefault(self._gram_key(step) or step.name, []).append(step)
        tasks = [Task(tuple(steps), cost=self._cost(steps)) for steps in bundles.values()]
        return sorted(tasks, key=lambda task: -task.cost)

    def _gram_key(self, step: Step) -> tuple[str | None, ...] | None:
        if step.action != "merge" or "gram" not in self._method.needs:
            return None
        return tuple(files["gram"].gram_key(parent.disk(step.name)) for parent, files in self._operands.pairs)

    def _cost(self, steps: Sequence[Step]) -> float:
        step = steps[0]
        values = sum(step.spec.numel for step in steps) * len(step.inputs)
        if self._gram_key(step) is None:
            return values / READS
        width = inputs_of(step.role.kind, step.spec.shape)
        return (width**3 / 3 + values * width * 2) / FLOPS

    def _run(self, task: Task, writer: ShardWriter, crew: Crew[Task]) -> Sequence[Task]:
        """Do a task, or the first span of it; the other spans are left for whoever comes first."""
        step, rest = task.steps[0], []
        if self._operands.by_value(step) and task.stop < 0:
            spans = list(ranges(step.spec.numel, SPAN)) or [(0, 0)]
            rest = [replace(task, start=start, stop=stop) for start, stop in spans[1:]]
            task = replace(task, stop=spans[0][1])
        need, keep = self._need(step)
        with self._budget.take(need):
            try:
                written = self._attempt(task, writer, crew, self._device, keep)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                with self._lock:
                    self.notes.add(f"{step.name}: merged on the CPU, for the GPU's memory did not suffice")
                written = self._attempt(task, writer, crew, torch.device("cpu"), keep)
        with self._lock:
            self.done += written
            self.notes.update(task.shared.notes)
        return rest

    def _attempt(self, task: Task, writer: ShardWriter, crew: Crew[Task], device: torch.device, keep: bool) -> int:
        """Make what a task asks for on a device; the number of bytes written."""
        grams = self._grams(task.steps[0], device, keep)
        maker = Maker(self._operands, task, grams, device, (self._block, self._rows), writer, crew.check)
        try:
            with self._stream(device):
                for step in task.steps:
                    maker.make(step)
        except torch.OutOfMemoryError:
            writer.forget(maker.written)
            raise
        except (MergeError, OSError, Stopped):
            raise
        except Exception as error:
            name = task.steps[0].name
            raise MergeError(f"{name} could not be merged by {self._method.name}", str(error)) from error
        return maker.written

    def _stream(self, device: torch.device) -> AbstractContextManager[object]:
        """A stream of the GPU for each thread: one copies while another one computes."""
        if device.type != "cuda":
            return nullcontext()
        if not hasattr(self._streams, "own"):
            self._streams.own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._streams.own)

    def _grams(self, step: Step, device: torch.device, keep: bool) -> Grams | None:
        if self._gram_key(step) is None:
            return None

        def read(parent: Parent, files: ParentStatistics) -> Tensor:
            return files["gram"].gram(parent.disk(step.name)).to(device)

        return Grams([partial(read, parent, files) for parent, files in self._operands.pairs], keep)
