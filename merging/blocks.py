"""How an output tensor is made: blocks of every model are read, merged by the method, checked and written.

Every thread reads into memory of its own that it uses again for the next block: to allocate it anew costs more than
the arithmetic. On a GPU that memory is pinned, and each thread has its own stream.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from merging.alignment import reordered
from merging.checkpoint import ShardWriter
from merging.errors import InputError, MergeError
from merging.memory import Buffers
from merging.method import find_method
from merging.parent import Parent, with_base
from merging.plan import Plan
from merging.roles import inputs_of
from merging.statistics import Statistics
from merging.steps import Step
from merging.tensors import FisherMoments, Shared, TensorGroup, TensorSpec

CPU = torch.device("cpu")
ParentStatistics = Mapping[str, Statistics]  # kind -> opened file


@dataclass(frozen=True)
class Task:
    """What a thread takes at a time: a span of one tensor, or the whole of some that share their Gram matrices."""

    steps: tuple[Step, ...]
    start: int = 0  # values of the flattened tensor
    stop: int = -1  # -1: all of it
    cost: float = 0.0  # seconds, about
    shared: Shared = field(default_factory=Shared)


class Grams(Sequence[Tensor]):
    """The Gram matrices of one layer, (in, in) float32 each: read when asked for, all kept only if there is room."""

    def __init__(self, read: Sequence[Callable[[], Tensor]], keep: bool) -> None:
        self._read, self._keep = read, keep
        self._held: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._read)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        if index >= len(self._read):
            raise IndexError(index)
        if index not in self._held:
            if not self._keep:
                self._held.clear()
            self._held[index] = self._read[index]()
        return self._held[index]


class Operands:
    """What all tasks of a merge work on. The parents and the base are arranged: they have the plan's names."""

    def __init__(
        self,
        plan: Plan,
        parents: Sequence[Parent],
        base: Parent | None,
        statistics: Sequence[ParentStatistics],
    ) -> None:
        self.plan, self.parents, self.base, self.buffers = plan, parents, base, Buffers()
        self.pairs = tuple(zip(parents, statistics, strict=True))  # each parent with its statistics
        self.method = plan.recipe.method
        self.options = plan.recipe.bound()
        self.names = tuple(  # where a folder lies decides nothing
            f"{parent.model}@{parent.revision}" if parent.revision else str(place)
            for place, parent in enumerate(parents)
        )
        self._specs = {id(parent): parent.source.specs for parent in with_base(parents, base)}

    @property
    def models(self) -> int:
        """The number of models that a block is read of."""
        return len(self._specs)

    def by_value(self, step: Step) -> bool:
        """Whether a step works value by value, so that its tensor may be cut anywhere."""
        return step.action != "merge" or self.method.splits == "elements"

    def sources(self, step: Step) -> list[Parent]:
        """The parents that a step reads."""
        return [self.parents[index] for index in step.inputs]

    def dtype(self, parent: Parent, step: Step) -> torch.dtype:
        """How a parent stores the tensor of a step. Raises MergeError when it has another shape than planned."""
        spec: TensorSpec = self._specs[id(parent)][step.name]
        if spec.shape != step.spec.shape:
            raise MergeError(f"{step.name} of {parent.model} has another shape than planned", "", "Merge again")
        return spec.dtype

    def function(self, step: Step) -> Callable[[TensorGroup], Tensor]:
        """The method, or the average that stands in for it, with its parameters for that tensor."""
        values = self.method.values_for(self.options, step.name, self.plan.depths[step.name])
        if step.action == "merge":
            return partial(self.method.function, **values)
        options: dict[str, Any] = {}
        if self.method.name == "average":
            options["normalize"] = values["normalize"]
        if values.get("weight"):
            options["weight"] = tuple(values["weight"][index] for index in step.inputs)
        return partial(find_method("average").function, **options)

    @cached_property
    def fisher_totals(self) -> list[tuple[int, float, float]]:
        """(values, sum, sum of squares) of each parent's Fisher over all tensors that the method merges."""
        names = [step.name for step in self.plan.steps if step.action == "merge"]
        totals = []
        for parent, files in self.pairs:
            parts = [files["fisher"].moments(parent.disk(name)) for name in names]
            counts, sums, squares = zip(*parts, strict=True) if parts else ((0,), (0.0,), (0.0,))
            totals.append((sum(counts), sum(sums), sum(squares)))
        return totals


class Maker:
    """Carries out one task on one device."""

    def __init__(
        self,
        operands: Operands,
        task: Task,
        grams: Grams | None,
        device: torch.device,
        lengths: tuple[int, int],  # values of a block, of a block of rows
        writer: ShardWriter,
        check: Callable[[], None],  # raises when the merge was stopped
    ) -> None:
        self._operands, self._task, self._grams, self._device = operands, task, grams, device
        self._lengths, self._writer, self._check = lengths, writer, check
        self.written = 0  # bytes

    def make(self, step: Step) -> None:
        """Write the part of a tensor that the task asks for."""
        if step.action == "copy":
            self._copy(step)
        elif self._operands.by_value(step):
            self._by_value(step)
        elif step.role.kind == "conv1d":
            self._transposed(step)
        else:
            self._by_rows(step)

    def _copy(self, step: Step) -> None:
        parent = self._operands.parents[step.inputs[0]]
        dtype = self._operands.dtype(parent, step)
        for start, stop in ranges(self._task.stop, self._lengths[0], self._task.start):
            self._check()
            raw = self._buffer("raw", stop - start, dtype)
            parent.source.fill(step.name, start, raw)
            self._store(step, start, raw)

    def _by_value(self, step: Step) -> None:
        function, load = self._operands.function(step), self._loader(step, self._lengths[0])
        for start, stop in ranges(self._task.stop, self._lengths[0], self._task.start):
            self._store(step, start, function(load(start, stop)))

    def _by_rows(self, step: Step) -> None:
        """Blocks of whole rows, or the tensor as one, as the method declared."""
        function, shape, size = self._operands.function(step), step.spec.shape, step.spec.numel
        inner = (inputs_of("patch", shape),) if step.role.kind == "patch" else shape[1:]
        length = size
        if self._operands.method.splits == "rows" and shape:
            row = max(1, math.prod(inner))
            length = max(1, self._lengths[1] // row) * row
        load, block = self._loader(step, length), (-1, *inner) if shape else ()
        for start, stop in ranges(size, max(1, length)):
            self._store(step, start, function(_shaped(load(start, stop), lambda values: values.reshape(block))))

    def _transposed(self, step: Step) -> None:
        """A (in, out) weight is shown to the method as (out, in), whole."""
        size, shape = step.spec.numel, step.spec.shape
        group = _shaped(self._loader(step, size)(0, size), lambda values: values.reshape(shape).T.contiguous())
        self._store(step, 0, self._operands.function(step)(group).T.contiguous())

    def _loader(self, step: Step, length: int, use: str = "") -> Callable[[int, int], TensorGroup]:
        """What reads values [start:stop] of every model, at most `length`; `use` keeps its memory apart.

        All that is the same for every block of a tensor is done here, once.
        """
        operands, merges = self._operands, step.action == "merge"
        reads = [self._reader(parent, step, length, f"{use}{i}") for i, parent in enumerate(operands.sources(step))]
        base = operands.base if merges else None
        read_base = self._reader(base, step, length, f"{use}base") if base else None
        result = self._buffer(f"{use}result", length, torch.float32, self._device)
        makes_fishers = merges and "fisher" in operands.method.needs
        moments = self._moments(step) if makes_fishers else None
        again = None if use else partial(self._again, step)
        names, seed, size = operands.names if merges else (), operands.plan.recipe.seed, step.spec.numel

        def load(start: int, stop: int) -> TensorGroup:
            self._check()
            if self._device.type == "cuda":  # the copies of the block before have left the pinned memory
                torch.cuda.current_stream(self._device).synchronize()
            return TensorGroup(
                name=step.name,
                tensors=tuple([read(start, stop) for read in reads]),
                base=read_base(start, stop) if read_base else None,
                grams=self._grams,
                fishers=self._fishers(step, start, stop) if makes_fishers else None,
                moments=moments,
                models=names,
                start=start,
                size=size,
                seed=seed,
                shared=self._task.shared,
                again=again,
                buffer=lambda: result[: stop - start],
            )

        return load

    def _again(self, step: Step) -> Iterator[TensorGroup]:
        """Every block of the tensor, into other memory than the one at hand."""
        load = self._loader(step, self._lengths[0], "again ")
        for start, stop in ranges(step.spec.numel, self._lengths[0]):
            yield load(start, stop)

    def _reader(self, parent: Parent, step: Step, length: int, place: str) -> Callable[[int, int], Tensor]:
        """What reads values [start:stop] of a parent in float32 on the device, in memory of the thread and `place`."""
        fill, name, dtype = parent.source.fill, step.name, self._operands.dtype(parent, step)
        cuda = self._device.type == "cuda"
        values = self._buffer(f"values {place}", length, torch.float32, self._device)
        direct = not cuda and dtype == torch.float32
        raw = values if direct else self._buffer(f"raw {place}" if cuda else "raw", length, dtype, pinned=cuda)
        moved = self._buffer(f"moved {place}", length, dtype, self._device) if cuda else raw

        def read(start: int, stop: int) -> Tensor:
            count = stop - start
            into = raw if count == length else raw[:count]
            fill(name, start, into)
            if direct:
                return into
            if cuda:
                into = moved[:count].copy_(into, non_blocking=True)
            return (values if count == length else values[:count]).copy_(into)

        return read

    def _moments(self, step: Step) -> tuple[FisherMoments, ...]:
        pairs = zip(self._operands.fisher_totals, self._operands.pairs, strict=True)
        return tuple(
            FisherMoments(*total, *files["fisher"].moments(parent.disk(step.name))) for total, (parent, files) in pairs
        )

    def _fishers(self, step: Step, start: int, stop: int) -> tuple[Tensor, ...]:
        values: list[Tensor] = []
        for parent, files in self._operands.pairs:
            file, disk = files["fisher"], parent.disk(step.name)
            part = self._buffer(f"fisher {len(values)}", stop - start, torch.float32)
            if step.name in parent.rows:
                part = reordered(file, disk, parent.rows[step.name], start, stop)
            else:
                file.fill(disk, start, part)
            values.append(part.to(self._device))
        return tuple(values)

    def _buffer(
        self, use: str, length: int, dtype: torch.dtype, device: torch.device = CPU, *, pinned: bool = False
    ) -> Tensor:
        return self._operands.buffers.get(use, length, dtype, device, pinned=pinned)

    def _store(self, step: Step, start: int, values: Tensor) -> None:
        """Check that the values are finite, and write them in the dtype of the output."""
        dtype, values = step.spec.dtype, values.reshape(-1)
        if values.is_floating_point() and not _finite(values):
            raise self._not_finite(step)
        stored = values
        if values.dtype != dtype or values.device != CPU:
            cuda = values.device != CPU
            stored = self._buffer("stored", values.numel(), dtype, pinned=cuda)
            stored.copy_(values.to(dtype) if cuda else values, non_blocking=cuda)
            if cuda:
                torch.cuda.current_stream(self._device).synchronize()
        if dtype == torch.float16 and not _finite(stored):
            raise InputError(
                f"{step.name} does not fit float16", "a value is too large", "Use bfloat16 or float32", "dtype"
            )
        self._writer.write(step.spec.name, start, stored)
        self.written += stored.numel() * dtype.itemsize

    def _not_finite(self, step: Step) -> MergeError:
        base = self._operands.base if step.action == "merge" else None
        for parent in with_base(self._operands.sources(step), base):
            length = self._lengths[0]
            parts = (parent.source.read(step.name, *part) for part in ranges(step.spec.numel, length))
            if not all(_finite(part) for part in parts):
                return InputError(f"{parent.model} holds NaN or infinity", f"in {step.name}", "Leave it out")
        method = self._operands.method.name
        return MergeError(f"{step.name} became NaN or infinite", f"merged by {method}", "Change a parameter")


def _shaped(group: TensorGroup, change: Callable[[Tensor], Tensor]) -> TensorGroup:
    """The group with every tensor of it changed alike; its result has the shape that they get."""
    tensors = tuple(change(values) for values in group.tensors)
    return replace(
        group,
        tensors=tensors,
        base=None if group.base is None else change(group.base),
        fishers=None if group.fishers is None else tuple(change(values) for values in group.fishers),
        again=None,
        buffer=lambda: group.empty().reshape(tensors[0].shape),
    )


def _finite(values: Tensor) -> bool:
    """Whether all values are finite: their sum tells, but where it overflows."""
    total = float(values.sum(dtype=torch.float32 if values.dtype != torch.float64 else None))
    return math.isfinite(total) or bool(torch.isfinite(values).all())


def ranges(stop: int, length: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """[start, stop) in pieces of at most `length`."""
    for begin in range(start, stop, length):
        yield begin, min(stop, begin + length)
