"""TIES: only the largest changes, and only those that agree in sign."""

from functools import partial
from typing import Annotated

from torch import Tensor

from merging.method import Option, merge_method, one_each
from merging.selection import thresholds
from merging.task_vectors import INT8_MASK, Densities, Factors, Scale, delta, elect, flat_blocks, l1_ratios, no_ratios
from merging.tensors import TensorGroup


@merge_method(
    title="TIES",
    paper="TIES-Merging (Yadav et al., 2023), arXiv 2306.01708",
    splits="elements",
    needs=("base",),
    minimum_models=1,
    ignores=INT8_MASK,
)
def ties(
    group: TensorGroup,
    *,
    weight: Factors = None,
    density: Densities = None,
    normalize: Annotated[bool, Option("Divide by the weights of the models that agree, value by value")] = True,
    rescale: Annotated[bool, Option("Give each model's kept changes the L1 norm that all of them had")] = False,
    lambda_: Scale = 1.0,
) -> Tensor:
    """The largest changes of each model; where models disagree in sign, only those on the stronger side count.

    Trim, elect, merge (Yadav et al., section 4): τ̂ᵢ keeps the int(density · n) values of τᵢ = Wᵢ − W₀ of largest
    magnitude in this tensor (at least one; of equal ones those with the lower index), the elected sign is that of
    Σ wᵢ τ̂ᵢ (+ when it is zero), and W = W₀ + λ Σ_agree wᵢ τ̂ᵢ / Σ_agree wᵢ, value by value. The paper keeps 20 % with
    λ = 1, and its code chooses over the whole model where this, like other merging tools, chooses in each tensor.
    The choice is exact, however large the tensor is.
    """
    densities = one_each(group, density)
    size = group.tensors[0].numel() if group.size < 0 else group.size
    counts = [max(int(share * size), int(share > 0)) for share in densities]
    kept = group.once(f"thresholds of {counts}", lambda: thresholds(partial(flat_blocks, group), counts, size))

    def trimmed(block: TensorGroup, model: int, out: Tensor) -> Tensor:
        return kept[model].trim(delta(block, model, out), block.start)

    ratios = group.once(f"ratios of {counts}", lambda: l1_ratios(group, trimmed)) if rescale else no_ratios(group)
    return elect(group, trimmed, one_each(group, weight), ratios, normalize=normalize, scale=lambda_)
