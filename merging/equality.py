"""Whether two tensors are the same: bit for bit, within a tolerance, or not. Read block by block, never whole."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from merging.tensors import TensorSpec

BLOCK = 1 << 20  # values that are compared at a time
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}
"""How far a value may lie from its counterpart, as a share of the largest absolute value of its tensor. Other
processors and GPUs add up in another order: in float32 a solve shows it by as much, in the halves a value is rounded to
the next number or the one behind it. Whole numbers have no tolerance."""

Reader = Callable[[int, int], Tensor]  # from values [start, stop) of the flattened tensor to a 1-D tensor


@dataclass(frozen=True)
class Difference:
    """How far two tensors of one name lie apart. None stands for what is no finite number."""

    tensor: str
    dtype: str  # `float32`
    absolute: float | None  # the largest of all values
    relative: float | None  # the same as a share of the largest absolute value of the tensor
    tolerance: float  # what `relative` may be

    @property
    def within(self) -> bool:
        """Whether the tensors are equal within the tolerance."""
        return self.relative is not None and self.relative <= self.tolerance

    @property
    def words(self) -> str:
        """`layer.weight by 1.2e-07 (3e-08 of its largest value)`."""
        if self.absolute is None or self.relative is None:
            return f"{self.tensor} by more than can be said"
        return f"{self.tensor} by {self.absolute:.2g} ({self.relative:.2g} of its largest value)"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def difference(name: str, spec: TensorSpec, ours: Reader, theirs: Reader) -> Difference | None:
    """How far two tensors of that shape and dtype lie apart, None where every bit is the same.

    The scale is that of `ours`. Where it is 0, any difference is too large.
    """
    absolute = scale = 0.0
    same = True
    for start in range(0, spec.numel, BLOCK):
        stop = min(start + BLOCK, spec.numel)
        one, other = ours(start, stop), theirs(start, stop)
        if torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
            scale = _larger(scale, one.double().abs().max().item())
            continue
        same = False
        one, other = one.double(), other.double()
        scale = _larger(scale, one.abs().max().item())
        absolute = _larger(absolute, (one - other).abs().max().item())
    if same:
        return None
    relative = absolute / scale if scale else (math.inf if absolute else 0.0)
    return Difference(
        name,
        str(spec.dtype).removeprefix("torch."),
        _finite(absolute),
        _finite(relative) if math.isfinite(absolute) else None,
        TOLERANCE.get(spec.dtype, 0.0),
    )


def _larger(one: float, other: float) -> float:
    """The larger number; NaN is larger than any."""
    return other if math.isnan(other) or other > one else one


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
