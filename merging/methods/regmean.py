"""RegMean: every linear layer solved in closed form from the inner products of its inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from merging.method import Option, Shares, merge_method, normalised, one_each
from merging.tensors import TensorGroup

ROWS = 512  # of a Gram matrix that are float64 at a time


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

    W = W₁ + [Σ wᵢ (Wᵢ − W₁) (G̃ᵢ + λI)] (Σ wᵢ G̃ᵢ + λI)⁻¹ with G̃ = αG + (1−α)·diag(G) and Σ wᵢ = 1: the paper's
    (Σ G̃ᵢ)⁻¹ Σ G̃ᵢ Wᵢ (Jin et al., section 3.3) written as a change to the first model, which saves its product, with
    a ridge λ = ridge·trace(S)/in toward the average Σ wᵢ Wᵢ, so that inputs no model ever saw keep it. W is (out, in).
    Grams are means per real token. Everything that is not linear is averaged with the same weights. The solve is a
    Cholesky factorisation in float64; λ grows where it fails, and the report says so, as it tells of inputs that no
    model ever saw.
    """
    assert group.grams is not None, "regmean needs Gram matrices"
    grams, weights = group.grams, normalised(one_each(group, weight))
    solver = group.once(f"solver of {alpha} and {ridge}", lambda: _solver(weights, grams, alpha, ridge))
    for remark in solver.remarks:
        group.note(f"{group.name}: {remark}")
    first = group.tensors[0].to(torch.float64)  # (out, in), like all below
    change = torch.zeros_like(first)
    for index in range(1, len(weights)):
        delta = group.tensors[index] - first
        change.add_(delta, alpha=weights[index] * solver.ridge)
        _add_product(change, delta, grams[index], alpha, weights[index])
    solution = change.T  # (in, out), in place from here on
    torch.linalg.solve_triangular(solver.factor, solution, upper=False, out=solution)
    torch.linalg.solve_triangular(solver.factor.mT, solution, upper=True, out=solution)
    return change.add_(first).to(group.tensors[0].dtype)


@dataclass(frozen=True)
class _Solver:
    """S + λI, ready to be solved with."""

    factor: Tensor  # its lower Cholesky factor, (in, in) float64, stored by columns
    ridge: float  # λ
    remarks: tuple[str, ...]  # what a reader of the report should know


def _add_product(target: Tensor, delta: Tensor, gram: Tensor, alpha: float, share: float) -> None:
    """target += share · delta · G̃ with G̃ = αG + (1−α)·diag(G), without a float64 copy of G."""
    for start in range(0, len(gram), ROWS):
        rows = gram[start : start + ROWS].double()
        target.addmm_(delta[:, start : start + ROWS], rows, alpha=share * alpha)
    if alpha != 1.0:
        target.addcmul_(delta, gram.diagonal().double(), value=share * (1 - alpha))


def _sum(weights: tuple[float, ...], grams: Sequence[Tensor], alpha: float, out: Tensor) -> Tensor:
    """S = Σ wᵢ G̃ᵢ in `out`, (in, in) float64; the same matrix stored by columns, as LAPACK wants it."""
    for index, share in enumerate(weights):
        gram = grams[index]
        for start in range(0, len(gram), ROWS):  # torch would make a float64 copy of the whole of it
            rows, part = out[start : start + ROWS], gram[start : start + ROWS]
            rows.add_(part, alpha=share) if index else rows.copy_(part).mul_(share)
        del gram  # before the next one is read: one at a time is in memory where they are read on demand
    seen = out.diagonal().clone()
    if alpha != 1.0:
        out.mul_(alpha)
        out.diagonal().copy_(seen)
    return out.T


def _solver(weights: tuple[float, ...], grams: Sequence[Tensor], alpha: float, ridge: float) -> _Solver:
    """The Cholesky factor of S + λI; λ grows tenfold until it succeeds."""
    memory = torch.empty_like(grams[0], dtype=torch.float64)  # to take it anew for each attempt would cost as much
    total = _sum(weights, grams, alpha, memory)
    seen = total.diagonal().clone()
    scale = float(seen.mean())
    if scale <= 0.0:
        eye = torch.eye(len(total), dtype=total.dtype, device=total.device)
        return _Solver(eye, 1.0, ("no input was ever seen, averaged",))
    unseen = int((seen == 0).sum())
    remarks = [f"{unseen} of {len(total)} inputs were never seen, averaged there"] if unseen else []
    strength, info = ridge * scale, torch.empty((), dtype=torch.int32, device=total.device)
    for attempt in range(12):
        if attempt:  # the failed factorisation overwrote it
            total = _sum(weights, grams, alpha, memory)
        total.diagonal().copy_(seen + strength)
        torch.linalg.cholesky_ex(total, out=(total, info))  # in place: a wide layer's S has gigabytes
        if int(info) == 0:
            if attempt:
                remarks.append(f"the ridge was raised to {strength / scale:.0e} of the mean diagonal")
            return _Solver(total, strength, tuple(remarks))
        strength = max(strength * 10, 1e-12 * scale)
    raise ArithmeticError("the Gram matrices have no positive definite sum")
