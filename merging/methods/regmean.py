"""RegMean: every linear layer solved in closed form from the inner products of its inputs."""

from typing import Annotated

import torch
from torch import Tensor

from merging.method import Option, Shares, merge_method, normalised, weights_of
from merging.tensors import TensorGroup


@merge_method(
    title="RegMean",
    paper="Dataless Knowledge Fusion by Merging Weights of Language Models (Jin et al., 2023), arXiv 2212.09849",
    splits="rows",
    needs=("gram",),
    linear_only=True,
)
def regmean(
    group: TensorGroup,
    *,
    weight: Shares = None,
    alpha: Annotated[
        float,
        Option(
            "Factor on the off-diagonals of every Gram matrix; 1 is the exact regression",
            minimum=0,
            maximum=1,
            by_layer=True,
        ),
    ] = 1.0,
    ridge: Annotated[
        float,
        Option(
            "Pull toward the average, as a share of the mean diagonal of the Gram sum",
            minimum=0,
            maximum=1,
            by_layer=True,
        ),
    ] = 1e-6,
) -> Tensor:
    """Each linear layer reproduces what every parent's layer does on that parent's own inputs, in closed form.

    W = W̄ + [Σ wᵢ (Wᵢ − W̄) G̃ᵢ] (Σ wᵢ G̃ᵢ + λI)⁻¹ with G̃ = αG + (1−α)·diag(G) and W̄ = Σ wᵢ Wᵢ: the paper's
    (Σ G̃ᵢ)⁻¹ Σ G̃ᵢ Wᵢ (Jin et al., section 3.3) written as a change to the average, with a ridge
    λ = ridge·trace(S)/in toward it, so that inputs no model ever saw keep the average. W is (out, in).
    Grams are means per real token. Everything that is not linear is averaged with the same weights. The solve is a
    Cholesky factorisation in float64; λ grows where it fails, and the report says so, as it tells of inputs that no
    model ever saw.
    """
    assert group.grams is not None, "regmean needs Gram matrices"
    weights = normalised(weights_of(group, weight))
    tensors = [tensor.double() for tensor in group.tensors]  # (out, in)
    shrunk, solver = f"shrunk by {alpha}", f"factor of {alpha} and {ridge}"
    grams = group.once(shrunk, lambda: [_shrink(gram.double(), alpha) for gram in group.grams or ()])  # (in, in)
    factor, remarks = group.once(solver, lambda: _factor(weights, grams, ridge))  # (in, in)
    for remark in remarks:
        group.note(f"{group.name}: {remark}")
    mean = torch.zeros_like(tensors[0])
    for tensor, share in zip(tensors, weights, strict=True):
        mean.add_(tensor, alpha=share)
    pull = torch.zeros_like(mean)  # Σ wᵢ (Wᵢ − W̄) G̃ᵢ
    for tensor, gram, share in zip(tensors, grams, weights, strict=True):
        pull.addmm_(tensor - mean, gram, alpha=share)
    return mean.add_(torch.cholesky_solve(pull.T, factor).T).to(group.tensors[0].dtype)


def _shrink(gram: Tensor, alpha: float) -> Tensor:
    """G̃ = αG + (1−α)·diag(G)."""
    shrunk = gram * alpha
    shrunk.diagonal().copy_(gram.diagonal())
    return shrunk


def _factor(weights: tuple[float, ...], grams: list[Tensor], ridge: float) -> tuple[Tensor, tuple[str, ...]]:
    """Cholesky factor of S + λI; λ grows tenfold until it succeeds. The texts say what a reader should know of S."""
    total = torch.zeros_like(grams[0])
    for gram, share in zip(grams, weights, strict=True):
        total.add_(gram, alpha=share)
    seen = total.diagonal()
    scale = float(seen.mean())
    if scale <= 0.0:
        eye = torch.eye(len(total), dtype=total.dtype, device=total.device)
        return eye, ("no input was ever seen, averaged",)
    unseen = int((seen == 0).sum())
    remarks = [f"{unseen} of {len(total)} inputs were never seen, averaged there"] if unseen else []
    strength = ridge * scale
    for attempt in range(12):
        jittered = total.clone()
        jittered.diagonal().add_(strength)
        factor, info = torch.linalg.cholesky_ex(jittered)
        if int(info) == 0:
            if attempt:
                remarks.append(f"the ridge was raised to {strength / scale:.0e} of the mean diagonal")
            return factor, tuple(remarks)
        strength = max(strength * 10, 1e-12 * scale)
    raise ArithmeticError("the Gram matrices have no positive definite sum")
