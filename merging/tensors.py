"""The seam between merging and the places that tensors come from.

A checkpoint on disk, the headers of a remote checkpoint, a statistics file and a test fixture are all a
`TensorSource`. Names are the names *on disk* (safetensors names), never those of `state_dict()`.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}  # the safetensors codes that can be merged or copied
CODES: dict[torch.dtype, str] = {dtype: code for code, dtype in DTYPES.items()}
MERGED_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}  # what a recipe may ask for


@dataclass(frozen=True)
class TensorSpec:
    """What a header says of a tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size on disk in bytes."""
        return self.numel * self.dtype.itemsize


def main_dtype(specs: Iterable[TensorSpec]) -> torch.dtype:
    """The floating-point format of most values; float32 where there is none."""
    counts: Counter[torch.dtype] = Counter()
    for spec in specs:
        if spec.dtype.is_floating_point:
            counts[spec.dtype] += spec.numel
    return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)


@dataclass(frozen=True)
class Header:
    """The first bytes of a safetensors file, checked. Tensors stand in the order in which their bytes lie."""

    specs: Mapping[str, TensorSpec]
    offsets: Mapping[str, int]  # absolute, in bytes from the start of the file
    metadata: Mapping[str, str]
    start: int  # where the tensors begin


class TensorSource(Protocol):
    """Named tensors whose shapes are known before any weight is read."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Every tensor by its name on disk."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The values `[start:stop]` of the flattened tensor, 1-D, in its own dtype, on the CPU.

        `stop=None` reads to the end. Raises KeyError for an unknown name.
        """
        ...

    def fill(self, name: str, start: int, out: Tensor) -> None:
        """Read as many values from `start` on as `out` holds, into it: 1-D, contiguous, the tensor's own dtype."""
        ...


class MemorySource:
    """Tensors that are in memory: for tests, notebooks and small results."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self.specs: Mapping[str, TensorSpec] = {
            name: TensorSpec(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """See `TensorSource.read`."""
        return self._tensors[name].reshape(-1)[start:stop]

    def fill(self, name: str, start: int, out: Tensor) -> None:
        """See `TensorSource.fill`."""
        out.copy_(self.read(name, start, start + out.numel()))


class HeaderSource:
    """Headers alone: everything is known but the values, and `read` refuses."""

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        self.specs = specs

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Always raises: a plan must not touch weights."""
        raise RuntimeError(f"{name}: only the header of this checkpoint is here, its values are not")

    def fill(self, name: str, start: int, out: Tensor) -> None:
        """Always raises, like `read`."""
        self.read(name)


@dataclass(frozen=True)
class TensorGroup:
    """One parameter (or a block of it) as every model has it: what a merge method works on.

    Linear weights are always (out, in) here, also those that GPT-2 stores as (in, out). A method that
    declares `splits="elements"` gets 1-D blocks, `"rows"` blocks of whole rows, `"whole"` the tensor itself.
    A group holds statistics, and the base, only when the method declared that it needs them. The tensors are not
    the method's own: it writes its result into `empty()`, and never into `tensors` or `base`.
    """

    name: str
    tensors: tuple[Tensor, ...]  # one a model, same shape, float32 (float64 when the inputs are)
    base: Tensor | None = None  # same shape, when the method needs "base"
    grams: Sequence[Tensor] | None = None  # (in, in) a model, mean of x xᵀ per real token, when it needs "gram"
    fishers: tuple[Tensor, ...] | None = None  # same shape as the tensors, when it needs "fisher"
    moments: "tuple[FisherMoments, ...] | None" = None  # of the whole Fisher file and of this tensor
    models: tuple[str, ...] = ()  # their names, which set the random values of `uniform` apart
    start: int = 0  # index of the first value of this block in the flattened tensor
    size: int = -1  # values of the whole tensor; -1 when the block is the tensor
    seed: int = 0  # of the recipe
    shared: "Shared" = field(default_factory=lambda: Shared())  # lives as long as the Gram (or the tensor) does
    again: "Callable[[], Iterator[TensorGroup]] | None" = None  # see `blocks`
    buffer: Callable[[], Tensor] | None = None  # see `empty`

    def blocks(self) -> "Iterator[TensorGroup]":
        """Every block of this tensor in order, read once more: for a threshold or a norm of the whole tensor."""
        return iter((self,)) if self.again is None else self.again()

    def empty(self) -> Tensor:
        """A tensor like `tensors[0]`, not initialised, for the result: the same memory for every block of a thread."""
        return torch.empty_like(self.tensors[0]) if self.buffer is None else self.buffer()

    def uniform(self, model: int) -> Tensor:
        """Random float32 values in [0, 1), one for each value of this block, drawn for the model of that index.

        They follow from the recipe's seed, the names of model and tensor, and the place in the tensor: the same
        whatever the blocks, the threads and the device are.
        """
        who = self.models[model] if self.models else str(model)
        digest = hashlib.sha256(f"{self.seed}:{who}:{self.name}".encode()).digest()
        source = np.random.PCG64DXSM(int.from_bytes(digest[:16], "little"))
        ahead, odd = divmod(self.start, 2)  # one 64-bit draw makes two values
        count = self.tensors[0].numel()
        drawn = source.advance(ahead).random_raw((count + odd + 1) // 2).view(np.int32)[odd : odd + count]
        bits = torch.from_numpy(drawn).bitwise_and_((1 << 23) - 1).bitwise_or_(0x3F800000)  # of a float32 in [1, 2)
        return bits.view(torch.float32).sub_(1).reshape(self.tensors[0].shape).to(self.tensors[0].device)

    def once(self, key: str, make: Callable[[], T]) -> T:
        """`make()`, computed once for all blocks, all threads, and all matrices that share these statistics."""
        with self.shared.lock:
            if key not in self.shared.values:
                self.shared.values[key] = make()
            value: T = self.shared.values[key]
        return value

    def note(self, text: str) -> None:
        """Something that the report should say of this tensor."""
        with self.shared.lock:
            if text not in self.shared.notes:
                self.shared.notes.append(text)


@dataclass
class Shared:
    """What the blocks of a tensor, or the matrices that share their statistics, have computed together."""

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock, repr=False)


@dataclass(frozen=True)
class FisherMoments:
    """Sums over the merged part of one model's Fisher file: what a normalisation needs before the first block."""

    count: int  # values in the merged part of the model
    total: float  # their sum
    squares: float  # the sum of their squares
    tensor_count: int  # the same for the tensor at hand
    tensor_total: float
    tensor_squares: float
