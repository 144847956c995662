"""Golden values from independent sources: hand computation, closed forms, least squares."""

import math

import pytest
import torch
from torch import Tensor

from merging.methods.average import average
from merging.methods.dare_ties import dare_ties
from merging.methods.fisher import fisher
from merging.methods.regmean import regmean
from merging.methods.slerp import slerp
from merging.methods.task_arithmetic import task_arithmetic
from merging.methods.ties import ties
from merging.tensors import TensorGroup

X1 = torch.tensor([[1.0, 0], [1, 1], [0, 2]], dtype=torch.float64)
X2 = torch.tensor([[2.0, 1], [0, 1]], dtype=torch.float64)
W1 = torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64)
W2 = torch.tensor([[0.0, 1], [1, -1]], dtype=torch.float64)
SUMS = (X1.T @ X1, X2.T @ X2)
MEANS = (X1.T @ X1 / 3, X2.T @ X2 / 2)


def solve(grams: tuple[Tensor, ...], **options: object) -> Tensor:
    """RegMean of the two matrices with no ridge worth speaking of."""
    group = TensorGroup(name="w", tensors=(W1, W2), grams=grams)
    return regmean(group, **{"ridge": 0.0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("grams", "alpha", "expected"),
    [
        (SUMS, 1.0, [[0.090909, 1.818182], [0.454545, 3.090909]]),
        (SUMS, 0.9, [[0.125900, 1.794296], [0.629502, 2.971478]]),
        (SUMS, 0.5, [[0.232704, 1.735849], [1.163522, 2.679245]]),
        (SUMS, 0.0, [[0.333333, 1.714286], [1.666667, 2.571429]]),
        (MEANS, 1.0, [[0.000000, 1.750000], [0.250000, 2.750000]]),
        (MEANS, 0.9, [[0.038401, 1.720219], [0.442006, 2.601097]]),
        (MEANS, 0.5, [[0.150000, 1.650000], [1.000000, 2.250000]]),
        (MEANS, 0.0, [[0.250000, 1.625000], [1.500000, 2.125000]]),
    ],
)
def test_regmean_equals_the_closed_form(grams: tuple[Tensor, ...], alpha: float, expected: list[list[float]]) -> None:
    """The paper's formula, computed by hand for sums and for token means."""
    torch.testing.assert_close(
        solve(grams, alpha=alpha), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_regmean_with_weights() -> None:
    """Weights .75 and .25 multiply the Gram matrices."""
    expected = torch.tensor([[0.3, 1.9], [1.0, 3.5]], dtype=torch.float64)
    torch.testing.assert_close(solve(MEANS, weight=(0.75, 0.25)), expected, rtol=0, atol=1e-6)


def test_regmean_ridge_pulls_toward_the_average() -> None:
    """Delta form with a ridge of 1e-3 of the mean diagonal."""
    expected = torch.tensor([[0.000832, 1.749335], [0.253161, 2.747173]], dtype=torch.float64)
    torch.testing.assert_close(solve(MEANS, ridge=1e-3), expected, rtol=0, atol=1e-6)


def test_regmean_sends_a_dead_input_to_the_average() -> None:
    """An input that is zero in all models keeps the mean of its column, where plain jitter would make it zero."""
    grams = (torch.diag(torch.tensor([1.0, 0.0])).double(), torch.diag(torch.tensor([2.0, 0.0])).double())
    expected = torch.tensor([[1 / 3, 1.5], [5 / 3, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(solve(grams, ridge=1e-6), expected, rtol=0, atol=2e-6)


def test_regmean_equals_least_squares_on_the_joined_data() -> None:
    """At alpha 1 two linear models merge into the least-squares fit of what both say on their own data."""
    generator = torch.Generator().manual_seed(3)
    x1, x2 = (torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in (40, 40))
    w1, w2 = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    fit = torch.linalg.lstsq(torch.cat([x1, x2]), torch.cat([x1 @ w1.T, x2 @ w2.T])).solution.T
    group = TensorGroup(name="w", tensors=(w1, w2), grams=(x1.T @ x1 / 40, x2.T @ x2 / 40))
    assert float((regmean(group, ridge=0.0) - fit).abs().max()) < 1e-12


def test_regmean_gives_each_input_to_its_only_user() -> None:
    """Models with disjoint inputs: every column comes from the model that saw it."""
    grams = (torch.diag(torch.tensor([1.0, 0.0])).double(), torch.diag(torch.tensor([0.0, 5.0])).double())
    expected = torch.stack([W1[:, 0], W2[:, 1]], dim=1)
    torch.testing.assert_close(solve(grams), expected, rtol=0, atol=1e-9)


THETAS = (torch.tensor([1.0, 2, 3, 4], dtype=torch.float64), torch.tensor([3.0, 0, -1, 8], dtype=torch.float64))
FISHERS = (torch.tensor([1.0, 4, 0, 0.5], dtype=torch.float64), torch.tensor([3.0, 1, 0, 0.25], dtype=torch.float64))


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("none", [2.5, 1.6, 1.0, 5.333333]),
        ("model", [2.594149, 1.506788, 1.0, 5.582576]),
        ("tensor", [2.594149, 1.506788, 1.0, 5.582576]),
    ],
)
def test_fisher_equals_the_definition(normalize: str, expected: list[float]) -> None:
    """Weighted by the Fisher values, raw or divided by each model's norm; no Fisher anywhere is the mean."""
    group = TensorGroup(name="w", tensors=THETAS, fishers=FISHERS)
    merged = fisher(group, normalize=normalize, root=False)
    torch.testing.assert_close(merged, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=3e-5)


@pytest.mark.parametrize("normalize", ["none", "model", "tensor"])
def test_roots_of_fisher_are_normalised_by_their_own_norm(normalize: str) -> None:
    """As if the files held the roots; in a merge of one tensor the model is that tensor."""
    roots = [values.sqrt() for values in FISHERS]
    roots = [values if normalize == "none" else values / values.norm() for values in roots]
    seen = FISHERS[0] > 0
    expected = (roots[0] * THETAS[0] + roots[1] * THETAS[1]) / (roots[0] + roots[1])
    merged = fisher(TensorGroup(name="w", tensors=THETAS, fishers=FISHERS), normalize=normalize, floor=0)
    torch.testing.assert_close(merged[seen], expected[seen], rtol=1e-12, atol=0)


@pytest.mark.parametrize("root", [False, True])
def test_the_floor_is_a_share_of_the_mean(root: bool) -> None:
    """With a floor of 1, what is below the mean over all models counts as that mean; roots by the root of the mean."""
    fishers = (FISHERS[0], torch.zeros(4, dtype=torch.float64))
    merged = fisher(TensorGroup(name="w", tensors=THETAS, fishers=fishers), normalize="none", floor=1, root=root)
    mean = float(FISHERS[0].mean())
    least = (math.sqrt(mean) if root else mean) / 2
    first = (FISHERS[0].sqrt() if root else FISHERS[0]).clamp(min=least)
    torch.testing.assert_close(merged, (first * THETAS[0] + least * THETAS[1]) / (first + least))


def test_fisher_of_one_sided_importance_is_that_model() -> None:
    """Where only one model's predictions depend on a weight, its value wins."""
    fishers = (torch.tensor([5.0, 0.0]), torch.tensor([0.0, 5.0]))
    group = TensorGroup(name="w", tensors=(torch.tensor([1.0, 2]), torch.tensor([3.0, 4])), fishers=fishers)
    torch.testing.assert_close(fisher(group), torch.tensor([1.0, 4.0]), rtol=0, atol=1e-4)


def test_average_is_the_weighted_mean() -> None:
    """Shares are the weights divided by their sum; without normalising, the weighted sum."""
    group = TensorGroup(name="w", tensors=THETAS)
    torch.testing.assert_close(average(group, weight=(3.0, 1.0)), THETAS[0] * 0.75 + THETAS[1] * 0.25)
    torch.testing.assert_close(average(group, weight=(3.0, 1.0), normalize=False), THETAS[0] * 3 + THETAS[1])


def test_a_raised_ridge_is_noted() -> None:
    """With no ridge and a singular sum the factorisation needs one, and the report will say so."""
    grams = (torch.diag(torch.tensor([1.0, 0.0])).double(), torch.diag(torch.tensor([2.0, 0.0])).double())
    group = TensorGroup(name="w", tensors=(W1, W2), grams=grams)
    regmean(group, ridge=0.0)
    assert group.shared.notes == [
        "w: 1 of 2 inputs were never seen, averaged there",
        "w: the ridge was raised to 1e-12 of the mean diagonal",
    ]


CHANGES = ((0.5, -0.2, 0.1, 0.9, 0.0), (-0.3, -0.4, 0.05, 0.3, 0.6), (0.4, 0.1, -0.8, 0.2, -0.7))
CHANGED = TensorGroup(name="w", tensors=tuple(1 + torch.tensor(change) for change in CHANGES), base=torch.ones(5))


def close(merged: Tensor, expected: object) -> None:
    """Equal to six places."""
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"density": 0.6}, [1.45, 0.7, 0.2, 1.9, 0.3]),
        ({"density": 0.6, "lambda_": 0.5}, [1.225, 0.85, 0.6, 1.45, 0.65]),
        ({"density": 0.6, "normalize": False}, [1.9, 0.4, 0.2, 1.9, 0.3]),
        ({"density": 0.6, "weight": (1.0, 1.0, 2.0)}, [1.433333, 0.7, 0.2, 1.9, 0.3]),
        ({}, [1.45, 0.7, 0.2, 1.466667, 0.3]),
        ({"density": 0.0}, [1.0, 1.0, 1.0, 1.0, 1.0]),
        ({"density": 0.01}, [1.0, 1.0, 0.2, 1.9, 1.6]),
        ({"density": 0.6, "rescale": True}, [1.497204, 0.639904, 0.073684, 1.95625, 0.189474]),
    ],
)
def test_ties_equals_the_definition(options: dict[str, object], expected: list[float]) -> None:
    """Computed by hand from three changes to a base of ones; of equal magnitudes the lower index is kept.

    A density that would keep less than one value keeps one. Rescaled by the L1 norms 1.7/1.6, 1.65/1.3, 2.2/1.9.
    """
    if "density" in options:
        options = {**options, "density": (options["density"],) * 3}
    close(ties(CHANGED, **options), expected)  # type: ignore[arg-type]


def test_an_election_without_a_winner_is_positive() -> None:
    """Changes that cancel out elect +; where no change is left, nothing changes."""
    tensors = (torch.tensor([1.5, 0.5, 1.0]), torch.tensor([0.5, 1.5, 1.0]))
    for method in (ties, dare_ties):
        close(method(TensorGroup(name="w", tensors=tensors, base=torch.ones(3))), [1.5, 1.5, 1.0])


def test_task_arithmetic_equals_the_definition() -> None:
    """The weighted sum of the changes on the base; at weights that sum to 1 the weighted average."""
    close(task_arithmetic(CHANGED, weight=(0.4, 0.4, 0.4)), [1.24, 0.8, 0.74, 1.56, 0.96])
    close(task_arithmetic(CHANGED, weight=(0.8, 0.8, 0.8), lambda_=0.5), [1.24, 0.8, 0.74, 1.56, 0.96])
    close(task_arithmetic(CHANGED, normalize=True), average(CHANGED).tolist())
    close(task_arithmetic(CHANGED, weight=(-1.0, 0.0, 0.0)), [0.5, 1.2, 0.9, 0.1, 1.0])
    opposed = task_arithmetic(CHANGED, weight=(1.0, -1.0, 0.0), normalize=True)  # nothing to divide by
    close(opposed, task_arithmetic(CHANGED, weight=(1.0, -1.0, 0.0)).tolist())


def test_dare_without_dropping_is_the_election_alone() -> None:
    """At density 1 nothing is random: the stronger side's changes, added up, or their mean with `normalize`."""
    close(dare_ties(CHANGED), [1.9, 0.4, 0.2, 2.4, 0.3])
    close(dare_ties(CHANGED, normalize=True), ties(CHANGED).tolist())
    close(dare_ties(CHANGED, density=(0.0, 0.0, 0.0)), [1.0] * 5)


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (0.25, [[1.545443, 1.736529], [2.266204, 3.811647]]),
        (0.5, [[1.917721, 1.278480], [1.278480, 3.196201]]),
        (0.0, [[1.0, 2.0], [3.0, 4.0]]),
        (1.0, [[2.0, 0.0], [-1.0, 1.0]]),
    ],
)
def test_slerp_equals_the_definition(t: float, expected: list[list[float]]) -> None:
    """The arc between two matrices with a cosine of 0.223607; its ends are the base and the model."""
    base, model = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[2.0, 0], [-1, 1]])
    close(slerp(TensorGroup(name="w", tensors=(model,), base=base), t=t), expected)


@pytest.mark.parametrize(
    ("model", "expected"),
    [([2.0, 4.0], [1.25, 2.5]), ([-1.0, -2.0], [0.5, 1.0]), ([0.0, 0.0], [0.92388, 1.847759])],
    ids=["parallel", "opposite", "zero"],
)
def test_slerp_of_vectors_without_an_arc(model: list[float], expected: list[float]) -> None:
    """Parallel and opposite ones are mixed on the line between them; a zero one stands at a right angle."""
    close(slerp(TensorGroup(name="w", tensors=(torch.tensor(model),), base=torch.tensor([1.0, 2.0])), t=0.25), expected)


@pytest.mark.parametrize("sizes", [(1e25, 1e-3), (1e-3, 1e25), (1e30, 1e30)])
def test_slerp_of_values_whose_squares_are_too_large(sizes: tuple[float, float]) -> None:
    """An angle of 60° is one at every size: the same shares as for small values."""
    left, right = sizes
    base, model = torch.zeros(10_000), torch.zeros(10_000)
    base[::2], model[::2], model[1::2] = left, right * math.cos(math.pi / 3), right * math.sin(math.pi / 3)
    merged = slerp(TensorGroup(name="w", tensors=(model,), base=base), t=0.25)
    here, there = (math.sin(share * math.pi / 3) / math.sin(math.pi / 3) for share in (0.75, 0.25))
    expected = [here * left + there * right * math.cos(math.pi / 3), there * right * math.sin(math.pi / 3)]
    close(merged[:2] / torch.tensor(expected), [1.0, 1.0])
