"""The plain weighted average."""

from typing import Annotated

import torch
from torch import Tensor

from merging.method import Option, Weights, merge_method, normalised, one_each
from merging.tensors import TensorGroup


@merge_method(
    title="Average",
    paper="Model soups (Wortsman et al., 2022), arXiv 2203.05482",
    splits="elements",
    aliases=("linear",),
)
def average(
    group: TensorGroup,
    *,
    weight: Weights = None,
    normalize: Annotated[bool, Option("Divide the weights by their sum")] = True,
) -> Tensor:
    """Weighted average of the models' weights: the baseline, and the only one that needs nothing else.

    W = Σ wᵢ Wᵢ / Σ wᵢ, or Σ wᵢ Wᵢ without `normalize`. Summed in the order of the recipe's models.
    """
    weights = one_each(group, weight)
    if normalize:
        weights = normalised(weights)
    merged = torch.mul(group.tensors[0], weights[0], out=group.empty())
    for tensor, share in zip(group.tensors[1:], weights[1:], strict=True):
        merged.add_(tensor, alpha=share)
    return merged
