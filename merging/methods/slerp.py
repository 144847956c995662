"""SLERP: on the arc between the base and a model."""

import math
from typing import Annotated

import torch
from torch import Tensor

from merging.method import Option, merge_method
from merging.task_vectors import scratch, totals
from merging.tensors import TensorGroup

PARALLEL = 0.9995  # a larger cosine, of either sign, and the arc is a straight line
TINY = 1e-8  # a shorter vector has no direction
SMALLER = 2.0**-80  # what values are multiplied by whose squares are too large for float32


@merge_method(
    title="SLERP",
    paper="Animating Rotation with Quaternion Curves (Shoemake, 1985), doi 10.1145/325334.325242",
    splits="elements",
    needs=("base",),
    minimum_models=1,
    maximum_models=1,
    breaks={
        "identity": "the model is merged with the base, halfway unless t is 1",
        "translation": "it works on the weights themselves, as directions from the origin",
    },
)
def slerp(
    group: TensorGroup,
    *,
    t: Annotated[
        float,
        Option("How far to go from the base (0) to the model (1)", minimum=0, maximum=1, by_layer=True),
    ] = 0.5,
) -> Tensor:
    """The point between the base and one model on the arc, not on the chord: the length of the weights is kept.

    W = [sin((1−t)Ω) W₀ + sin(tΩ) W₁] / sin Ω, with Ω the angle between the two tensors as flat vectors (Shoemake,
    section 3.3). Where they are parallel or opposite (|cos Ω| > 0.9995) it is W = (1−t) W₀ + t W₁. Weights have
    different lengths, so that the middle of the arc need not be halfway in angle.
    """
    assert group.base is not None, "slerp needs the base"
    here, there = _coefficients(group.once("cosine", lambda: _cosine(group)), t)
    merged = torch.mul(group.base, here, out=group.empty())
    return merged.add_(group.tensors[0], alpha=there)


def _cosine(group: TensorGroup) -> float:
    """cos Ω over the whole tensor; 0 where one of the two is zero."""
    dot, left, right = totals(group, 3, lambda block, place: _products(block, place, (1.0, 1.0)))
    if not math.isfinite(left) or not math.isfinite(right):  # their scales cancel out
        scales = (1.0 if math.isfinite(left) else SMALLER, 1.0 if math.isfinite(right) else SMALLER)
        dot, left, right = totals(group, 3, lambda block, place: _products(block, place, scales))
    if math.sqrt(left) <= TINY or math.sqrt(right) <= TINY:
        return 0.0
    return max(-1.0, min(1.0, dot / math.sqrt(left * right)))


def _products(block: TensorGroup, place: int, scales: tuple[float, float]) -> Tensor:
    """W₀ ⊙ W₁, W₀ ⊙ W₀, W₁ ⊙ W₁, of the two times their scales."""
    assert block.base is not None
    both, memory = (block.base.reshape(-1), block.tensors[0].reshape(-1)), scratch(block, 2)
    pair = ((0, 1), (0, 0), (1, 1))[place]
    one, other = (
        both[side] if scales[side] == 1 else torch.mul(both[side], scales[side], out=out)
        for side, out in zip(pair, memory, strict=True)
    )
    return torch.mul(one, other, out=memory[0])


def _coefficients(cosine: float, t: float) -> tuple[float, float]:
    """What the base and the model are multiplied by."""
    if abs(cosine) > PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
