"""DARE with TIES: changes dropped at random, the rest scaled up, and only those that agree in sign."""

from typing import Annotated

import torch
from torch import Tensor

from merging.method import Option, merge_method, one_each
from merging.task_vectors import INT8_MASK, Densities, Factors, Scale, delta, elect, l1_ratios, no_ratios
from merging.tensors import TensorGroup


@merge_method(
    title="DARE TIES",
    paper="Language Models are Super Mario (Yu et al., 2024), arXiv 2311.03099",
    splits="elements",
    needs=("base",),
    minimum_models=1,
    breaks={"identity": "the changes are added up: copies of one model add its change several times"},
    ignores=INT8_MASK,
)
def dare_ties(
    group: TensorGroup,
    *,
    weight: Factors = None,
    density: Densities = None,
    normalize: Annotated[bool, Option("Divide by the weights of the models that agree, value by value")] = False,
    rescale: Annotated[bool, Option("Give each model's kept changes the L1 norm that all of them had")] = True,
    lambda_: Scale = 1.0,
) -> Tensor:
    """A random share of each model's changes, scaled up; where models disagree in sign, only the stronger side counts.

    Each value of τᵢ = Wᵢ − W₀ is kept with the probability `density`, by random numbers that follow from the recipe's
    seed, the model and the tensor; then τ̂ᵢ = τᵢ ⊙ mᵢ · ‖τᵢ‖₁ / ‖τᵢ ⊙ mᵢ‖₁ over the tensor, and TIES' election:
    W = W₀ + λ Σ_agree wᵢ τ̂ᵢ. The paper scales by 1 / density (Yu et al., section 3), which the ratio of the norms is on
    average.
    """
    densities = one_each(group, density)

    def dropped(block: TensorGroup, model: int, out: Tensor) -> Tensor:
        delta(block, model, out)
        if densities[model] < 1:
            chosen = block.uniform(model).reshape(-1)
            out.mul_(torch.lt(chosen, densities[model], out=chosen))
        return out

    rescaled = rescale and min(densities) < 1
    ratios = group.once(f"ratios of {densities}", lambda: l1_ratios(group, dropped)) if rescaled else no_ratios(group)
    return elect(group, dropped, one_each(group, weight), ratios, normalize=normalize, scale=lambda_)
