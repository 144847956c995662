"""Fisher-weighted averaging."""

import math
from typing import Annotated

import torch
from torch import Tensor

from merging.method import Option, Shares, merge_method, normalised, one_each
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
    root: Annotated[bool, Option("Take the square roots of the Fisher values; the paper takes the values")] = True,
    floor: Annotated[
        float, Option("Least value of any Fisher entry, as a share of their mean over all models", minimum=0, maximum=1)
    ] = 1e-6,
) -> Tensor:
    """Average in which every single weight counts by how much the model's predictions depend on it.

    W = Σ λᵢ F̂ᵢ ⊙ Wᵢ / Σ λᵢ F̂ᵢ (Matena & Raffel, eq. 6), elementwise, all in the shape of the tensor.

    * λᵢ, the coefficients: `weight`, which the paper tries out on held-out data.
    * F̂ᵢ = max(Fᵢᵖ / nᵢ, floor · m): Fᵢ is the diagonal Fisher as the file has it, a mean over examples. p is ½ with
      `root`, else 1, as in the paper.
    * nᵢ, by `normalize`: 1 ("none": the model with the larger gradients wins), the Euclidean norm of Fᵢᵖ over all
      merged tensors ("model", with p = 1 the authors' code), or over this one ("tensor").
    * m: the mean over all models of (mean of Fᵢ)ᵖ / nᵢ, over the same tensors. One floor for all: where no model
      depends on a weight, it is the mean. The authors' floor of 1e-6 is absolute, and larger than most Fisher values.

    A Fisher of true answers (empirical) and one of the model's own (exact, sampled) are not to be mixed in a merge.

    The default is not the paper's, which on three classifiers was no better than the average with any normalisation,
    and less steady: of a trained model's Fisher a few large values outweigh all others. Their roots, normalised in each
    tensor, were better than the average with each of five seeds, by 0.6 to 4 points; RegMean by 11 to 13.
    """
    assert group.fishers is not None, "fisher needs Fisher statistics"
    weights = normalised(one_each(group, weight))
    moments = group.moments or tuple(_moments(values) for values in group.fishers)
    sizes = [_sizes(moment, normalize, root) for moment in moments]
    scales = [1.0 / (norm or 1.0) for norm, _ in sizes]
    common = floor * sum(mean * scale for (_, mean), scale in zip(sizes, scales, strict=True)) / len(sizes)
    if common == 0.0:
        common = torch.finfo(torch.float32).tiny  # no Fisher anywhere: the mean
    numerator = torch.zeros_like(group.tensors[0])
    denominator = torch.zeros_like(group.tensors[0])
    for tensor, values, share, scale in zip(group.tensors, group.fishers, weights, scales, strict=True):
        used = values.sqrt() if root else values
        importance = used.to(tensor.dtype).mul(scale).clamp_(min=common).mul_(share)
        numerator.addcmul_(importance, tensor)
        denominator.add_(importance)
    return numerator.div_(denominator)


def _sizes(moments: FisherMoments, normalize: str, root: bool) -> tuple[float, float]:
    """(the norm that one model's Fisher, or its root, is divided by; the mean of that Fisher, or its root)."""
    count, total, squares = moments.count, moments.total, moments.squares
    if normalize == "tensor":
        count, total, squares = moments.tensor_count, moments.tensor_total, moments.tensor_squares
    norm, mean = (total, math.sqrt(total / max(1, count))) if root else (squares, total / max(1, count))
    return 1.0 if normalize == "none" else math.sqrt(norm), mean


def _moments(values: Tensor) -> FisherMoments:
    total, squares = float(values.sum(dtype=torch.float64)), float(values.double().square().sum())
    return FisherMoments(values.numel(), total, squares, values.numel(), total, squares)
