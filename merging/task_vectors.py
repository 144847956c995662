"""What methods with a base share: deltas, the election of a sign, and sums over a whole tensor.

A delta (task vector) is what a model learnt since the base, τᵢ = Wᵢ − W₀. All here is 1-D float32, block by block.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor

from merging.memory import Buffers
from merging.method import Option
from merging.tensors import TensorGroup

CHUNK = 1 << 12  # values that are summed at once, at multiples of it: the sum does not depend on the blocks

_buffers = Buffers()

Sparse = Callable[[TensorGroup, int, Tensor], Tensor]
"""(block, index of a model, memory) -> what is kept of the model's delta, in that memory."""

Factors = Annotated[
    Sequence[float] | None,
    Option("Factor on what this model learnt since the base", per_model=True, default=1.0, by_layer=True),
]
Densities = Annotated[
    Sequence[float] | None,
    Option(
        "Share of this model's changes that is kept; 1 keeps all",
        minimum=0,
        maximum=1,
        per_model=True,
        default=1.0,
        by_layer=True,
    ),
]
Scale = Annotated[float, Option("Factor on the merged change to the base", by_layer=True)]
INT8_MASK = {"int8_mask": "there it only saves memory; here no mask is stored"}


def scratch(group: TensorGroup, count: int) -> list[Tensor]:
    """Memory for `count` intermediate blocks: the same for every block of a thread."""
    like = group.tensors[0]
    return [_buffers.get(str(place), like.numel(), torch.float32, like.device) for place in range(count)]


def delta(group: TensorGroup, model: int, out: Tensor) -> Tensor:
    """τᵢ of this block, in `out`."""
    assert group.base is not None, "a delta needs the base"
    return torch.sub(group.tensors[model].reshape(-1), group.base.reshape(-1), out=out)


def elect(
    group: TensorGroup,
    sparse: Sparse,
    weights: Sequence[float],
    ratios: Sequence[float],
    *,
    normalize: bool,
    scale: float,
) -> Tensor:
    """W₀ + λ Σ_agree wᵢ τ̂ᵢ (with `normalize`: / Σ_agree wᵢ), value by value: TIES' elected sign and disjoint mean.

    τ̂ᵢ is what `sparse` keeps of τᵢ, times `ratios[i]`. The elected sign is that of Σ wᵢ τ̂ᵢ, + when it is zero; a
    model agrees where wᵢ τ̂ᵢ has it. Where none agrees, or their weights cancel out, nothing is divided.
    """
    assert group.base is not None, "an election needs the base"
    count = len(group.tensors)
    *parts, sign, share, agree = scratch(group, count + 3)
    sign.zero_()
    for model, part in enumerate(parts):
        sparse(group, model, part)
        factor = weights[model] * ratios[model]
        sign.add_(part if factor == 1 else part.mul_(factor))
    torch.ge(sign, 0, out=sign)  # comparisons into float32 are ten times as fast as into bool
    sign.mul_(2).sub_(1)
    merged = group.empty()
    flat = merged.view(-1).zero_()
    share.zero_()
    for part, weight in zip(parts, weights, strict=True):
        part.mul_(sign)
        if normalize:
            share.add_(torch.gt(part, 0, out=agree), alpha=weight)
        flat.add_(part.clamp_(min=0))
    flat.mul_(sign)
    if normalize:
        share.add_(torch.lt(torch.abs(share, out=agree), 1e-8, out=agree))
        flat.div_(share)
    return torch.add(group.base, merged, alpha=scale, out=merged)


def no_ratios(group: TensorGroup) -> list[float]:
    """Nothing is rescaled."""
    return [1.0] * len(group.tensors)


def l1_ratios(group: TensorGroup, sparse: Sparse) -> list[float]:
    """‖τᵢ‖₁ / ‖τ̂ᵢ‖₁ of each model over the whole tensor; 1 where nothing is kept."""
    count = len(group.tensors)
    sums = totals(group, 2 * count, lambda block, place: _magnitudes(block, sparse, *divmod(place, 2)))
    return [before / after if after > 0 else 1.0 for before, after in zip(sums[::2], sums[1::2], strict=True)]


def _magnitudes(block: TensorGroup, sparse: Sparse, model: int, kept: int) -> Tensor:
    out = scratch(block, 1)[0]
    return (sparse if kept else delta)(block, model, out).abs_()


def totals(group: TensorGroup, count: int, values: Callable[[TensorGroup, int], Tensor]) -> list[float]:
    """The sums of `values(block, i)` over the whole tensor for each i < count, the same however it is cut.

    `values` gives one value for each of the block, 1-D; the next call may use the same memory.
    """
    sums = [_Sum() for _ in range(count)]
    for block in group.blocks():
        for place, one in enumerate(sums):
            one.add(values(block, place))
    return [one.total() for one in sums]


class _Sum:
    """The sum of values that come in pieces of any length: by chunks at fixed places, these in float64."""

    def __init__(self) -> None:
        self._rest: Tensor | None = None  # what does not fill a chunk yet
        self._chunks: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        if self._rest is not None:
            missing = CHUNK - len(self._rest)
            first = torch.cat((self._rest, values[:missing]))
            values, self._rest = values[missing:], None
            if len(first) < CHUNK:
                self._rest = first
                return
            self._chunks.append(first.view(1, -1).sum(1))
        full = len(values) // CHUNK * CHUNK
        if full:
            self._chunks.append(values[:full].view(-1, CHUNK).sum(1))
        if full < len(values):
            self._rest = values[full:].clone()

    def total(self) -> float:
        parts = self._chunks if self._rest is None else [*self._chunks, self._rest.sum().view(1)]
        return float(torch.cat(parts).double().sum()) if parts else 0.0


def flat_blocks(group: TensorGroup) -> Iterator[tuple[int, list[Tensor]]]:
    """(index of the first value, |τᵢ| of every model) for each block of the tensor, see `selection.thresholds`."""
    for block in group.blocks():
        memory = scratch(block, len(block.tensors))
        yield block.start, [delta(block, model, out).abs_() for model, out in enumerate(memory)]
