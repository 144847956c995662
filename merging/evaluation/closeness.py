"""How close a text is to what a parent's Gram matrix was collected from: the weights of an instance-wise ensemble.

Synthetic Model Combination (Chan and van der Schaar 2022, arXiv 2210.05320, section 3) weighs the models of an ensemble
anew for each example, by the density that each model's own domain has there; of the domains nothing is known but what
their owners publish. Here that is the Gram matrix G = mean x xᵀ of one layer's inputs, a Gaussian around the origin: an
example whose real tokens are x₁ … x_T is as close to a parent as the mean log-density of its tokens, per input,

    c = −(1/n) · ( mean_t x_tᵀ (G + λI)⁻¹ x_t + log det (G + λI) ),   λ = RIDGE · tr(G)/n,

and the weight of a parent is softmax(c / TEMPERATURE) over the parents. The first term is about 1 in a parent's own
domain. Taken from the paper: weights for each example from densities of each model's domain, and a sum of predictions
so weighted. Not taken: the learned representation; the layer is the second block's first one, whose inputs have seen
their context and are still nearly those of the common base. (Which layers tell domains apart: docs/evaluation.md.)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.evaluation.answers import Floats
from merging.layers import layer_of
from merging.loading import Loaded
from merging.naming import prove_names
from merging.offload import Parameters
from merging.statistics import Statistics

RIDGE = 1e-3
TEMPERATURE = 0.05
BLOCK = 1  # the second one


class NoCloseness(MergeError):
    """A model's statistics do not tell how close a text is, with the reason."""


class Closeness:
    """Measures a model's texts while it answers: `watch` around each forward pass, then `found` has c of each."""

    def __init__(self, loaded: Loaded, folder: Path, grams: Path, examples: int) -> None:
        """Raises NoCloseness where the file `grams` has no Gram of a block of the model, or no usable one."""
        self.found: Floats = np.full(examples, np.nan)
        statistics = Statistics(grams)
        try:
            disk, self._module = _layer(loaded, folder, statistics)
            gram = statistics.gram(disk).double()
        finally:
            statistics.close()
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        root, failed = torch.linalg.cholesky_ex(gram)
        if int(failed):
            raise NoCloseness(f"The Gram matrix of {disk} cannot be inverted")
        self._shift = float(2 * root.diagonal().log().mean())
        inverse = torch.linalg.solve_triangular(root, torch.eye(len(gram), dtype=torch.float64), upper=False)
        self._whiten = inverse.T.float().to(loaded.device)  # x (G + λI)⁻¹ xᵀ = |x · whiten|²

    @contextmanager
    def watch(self, chosen: Sequence[int], inputs: Mapping[str, Tensor]) -> Iterator[None]:
        """Measure the texts of the forward pass within; `chosen` are their places."""
        mask = inputs["attention_mask"]

        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            x = x.reshape(*mask.shape, -1).float()
            each = (x @ self._whiten).square().mean(-1)
            mean = (each * mask).sum(1) / mask.sum(1)
            self.found[list(chosen)] = -(mean.double().cpu().numpy() + self._shift)

        handle = self._module.register_forward_pre_hook(see, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def shares(closeness: Sequence[Floats]) -> Floats:
    """(models, examples): the weight of each model for each example, from the closeness of each."""
    scaled = np.stack(closeness) / TEMPERATURE
    scaled = np.exp(scaled - scaled.max(0))
    weights: Floats = scaled / scaled.sum(0)
    return weights


def _layer(loaded: Loaded, folder: Path, statistics: Statistics) -> tuple[str, nn.Module]:
    """(disk name, module) of the first layer of the block whose inputs the statistics know."""
    modules = dict(loaded.model.named_modules())
    numbered: dict[str, int] = {}
    for name, module in modules.items():
        place = layer_of(f"{name}.weight")
        if place is not None and isinstance(getattr(module, "weight", None), Tensor):
            numbered[name] = place[1]
    block = min(BLOCK, max(numbered.values(), default=0))
    parameters = Parameters(loaded.model)
    mine = {f"{name}.weight": parameters[f"{name}.weight"] for name, number in numbered.items() if number == block}
    checkpoint = Checkpoint(folder)
    try:
        names = prove_names(mine, checkpoint, getattr(loaded.model, "base_model_prefix", "")).disk
    finally:
        checkpoint.close()
    for parameter, disk in names.items():
        if statistics.gram_key(disk) is not None:
            return disk, modules[parameter.removesuffix(".weight")]
    raise NoCloseness("The Gram statistics know no layer of its first blocks")
