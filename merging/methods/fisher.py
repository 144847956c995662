"""Fisher-weighted averaging."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from merging.method import Option, Shares, merge_method, normalised, weights_of
from merging.tensors import FisherMoments, TensorGroup


@merge_method(
    title="Fisher",
    paper="Merging Models with Fisher-Weighted Averaging (Matena & Raffel, 2022), arXiv 2111.09832",
    splits="elements",
    needs=("fisher",),
)
def fisher(
    group: TensorGroup,
    *,
    weight: Shares = None,
    normalize: Annotated[
        str,
        Option(
            "What each model's Fisher is divided by: nothing, its norm over the merged tensors, "
            "or its norm in this tensor",
            choices=("none", "model", "tensor"),
        ),
    ] = "tensor",
    floor: Annotated[
        float, Option("Least value of any Fisher entry, as a share of their mean over all models", minimum=0, maximum=1)
    ] = 1e-6,
) -> Tensor:
    """Average in which every single weight counts by how much the model's predictions depend on it.

    W = Σ λᵢ F̂ᵢ ⊙ Wᵢ / Σ λᵢ F̂ᵢ (Matena & Raffel, eq. 6), elementwise, all in the shape of the tensor.

    * λᵢ, the coefficients: `weight`, which the paper tries out on held-out data.
    * F̂ᵢ = max(Fᵢ / nᵢ, floor · m): Fᵢ is the diagonal Fisher as the file has it, a mean over examples.
    * nᵢ, by `normalize`: 1 ("none": the model with the larger gradients wins), the Euclidean norm of Fᵢ over all
      merged tensors ("model", the authors' code), or over this one ("tensor").
    * m: the mean of Fᵢ / nᵢ over all models, over the same tensors. One floor for all: where no model depends on a
      weight, it is the mean. The authors' floor of 1e-6 is absolute, and larger than most Fisher values.

    A Fisher of true answers (empirical) and one of the model's own (exact, sampled) are not to be mixed in a merge.

    Measured on three classifiers: no better than the average with any normalisation, and less
    steady. Divided by its norm in each tensor it does least harm, hence the default.
    """
    assert group.fishers is not None, "fisher needs Fisher statistics"
    weights = normalised(weights_of(group, weight))
    moments = group.moments or tuple(_moments(values) for values in group.fishers)
    scales = [1.0 / (_norm(moment, normalize) or 1.0) for moment in moments]
    common = floor * _mean(moments, scales, normalize)
    if common == 0.0:
        common = torch.finfo(torch.float32).tiny  # no Fisher anywhere: the mean
    numerator = torch.zeros_like(group.tensors[0])
    denominator = torch.zeros_like(group.tensors[0])
    for tensor, values, share, scale in zip(group.tensors, group.fishers, weights, scales, strict=True):
        importance = (values.to(tensor.dtype) * scale).clamp_(min=common).mul_(share)
        numerator.addcmul_(importance, tensor)
        denominator.add_(importance)
    return numerator.div_(denominator)


def _norm(moments: FisherMoments, normalize: str) -> float:
    if normalize == "none":
        return 1.0
    return math.sqrt(moments.squares if normalize == "model" else moments.tensor_squares)


def _mean(moments: Sequence[FisherMoments], scales: Sequence[float], normalize: str) -> float:
    """Mean of the scaled Fisher over all models: of this tensor when each tensor has its own norm, else of all."""
    parts = [(m.tensor_total, m.tensor_count) if normalize == "tensor" else (m.total, m.count) for m in moments]
    total = math.fsum(part * scale for (part, _), scale in zip(parts, scales, strict=True))
    return total / max(1, sum(count for _, count in parts))


def _moments(values: Tensor) -> FisherMoments:
    total, squares = float(values.sum(dtype=torch.float64)), float(values.double().square().sum())
    return FisherMoments(values.numel(), total, squares, values.numel(), total, squares)
