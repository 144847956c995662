"""Task arithmetic: what the models learnt, added to the base."""

from typing import Annotated

import torch
from torch import Tensor

from merging.method import Option, merge_method, normalised, one_each
from merging.task_vectors import INT8_MASK, Factors, Scale, delta, scratch
from merging.tensors import TensorGroup


@merge_method(
    title="Task arithmetic",
    paper="Editing Models with Task Arithmetic (Ilharco et al., 2023), arXiv 2212.04089",
    splits="elements",
    needs=("base",),
    minimum_models=1,
    breaks={"identity": "the changes are added up: copies of one model add its change several times"},
    ignores={**INT8_MASK, "rescale": "there it belongs to the methods that drop changes"},
)
def task_arithmetic(
    group: TensorGroup,
    *,
    weight: Factors = None,
    normalize: Annotated[bool, Option("Divide the sum of the changes by the sum of the weights")] = False,
    lambda_: Scale = 1.0,
) -> Tensor:
    """What each model learnt since the base, times its weight, added to the base.

    W = W₀ + λ Σ wᵢ τᵢ with τᵢ = Wᵢ − W₀ (Ilharco et al., section 2); with `normalize` divided by Σ wᵢ, which at λ = 1
    is the average (weights that cancel out divide nothing). A negative weight takes away what the model learnt. The
    paper finds λ from 0.3 to 0.4 good for several models: 1 is too much unless the weights say less.
    """
    assert group.base is not None, "task_arithmetic needs the base"
    weights = one_each(group, weight)
    merged, (part,) = group.empty(), scratch(group, 1)
    flat = merged.view(-1).zero_()
    for model, factor in enumerate(normalised(weights, may_cancel=True) if normalize else weights):
        flat.add_(delta(group, model, part), alpha=factor)
    return torch.add(group.base, merged, alpha=lambda_, out=merged)
