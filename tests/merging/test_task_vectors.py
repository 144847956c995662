"""Methods with a base: exact selection, seeded dropping, sums that do not depend on blocks, values over the layers."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from merging import selection
from merging.layers import ByLayer, depths
from merging.method import find_method
from merging.methods.dare_ties import dare_ties
from merging.selection import thresholds
from merging.task_vectors import l1_ratios, totals
from merging.tensors import TensorGroup
from tests.merging.blocks import in_blocks

torch.set_num_threads(1)

KINDS = {
    "normal": lambda noise: noise,
    "few distinct values": lambda noise: (noise * 3).round(),
    "all equal": lambda noise: torch.full_like(noise, -0.25),
    "all zero": lambda noise: noise * 0,
    "mostly zero": lambda noise: noise * (noise > 1),
    "subnormal": lambda noise: noise * 1e-41,
    "bfloat16": lambda noise: noise.bfloat16().float(),
}


def largest(values: Tensor, count: int) -> Tensor:
    """The values with all but the `count` largest magnitudes zeroed, by sorting the whole tensor."""
    mask = torch.zeros_like(values)
    mask[torch.argsort(values.abs(), descending=True, stable=True)[:count]] = 1
    return values * mask


def chosen(tensors: Sequence[Tensor], counts: Sequence[int], lengths: Sequence[int]) -> list[Tensor]:
    """What the thresholds keep of each tensor, searched and trimmed in blocks of these lengths."""
    starts = [sum(lengths[:place]) for place in range(len(lengths))]
    blocks = list(zip(starts, lengths, strict=True))

    def magnitudes() -> Iterator[tuple[int, list[Tensor]]]:
        for start, length in blocks:
            yield start, [tensor[start : start + length].abs() for tensor in tensors]

    kept = [tensor.clone() for tensor in tensors]
    found = thresholds(magnitudes, counts, len(tensors[0]))
    for threshold, values in zip(found, kept, strict=True):
        for start, length in blocks:
            threshold.trim(values[start : start + length], start)
    return kept


@pytest.mark.parametrize(
    "limits",
    [{}, {"SAMPLED": 8}, {"SAMPLED": 8, "DEVIATIONS": 0}, {"COLLECTED": 0}, {"SHARED": 1}],
    ids=["whole sample", "small sample", "misleading sample", "nothing collected", "all collected"],
)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=st.sampled_from([1, 2, 7, 500, 5000]), seed=st.integers(0, 10**6))
def test_the_largest_are_those_that_sorting_finds(
    limits: dict[str, int], data: st.DataObject, size: int, seed: int
) -> None:
    """To the last of equal magnitudes, for any blocks, any number of values and every way to search."""
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    tensors = [make(noise) for make in KINDS.values()]
    counts = [data.draw(st.integers(0, size), label=kind) for kind in KINDS]
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=4), label="cuts")})
    lengths = [stop - start for start, stop in pairwise(cuts)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(selection, name, value)
        kept = chosen(tensors, counts, lengths)
    for kind, values, tensor, count in zip(KINDS, kept, tensors, counts, strict=True):
        assert torch.equal(values, largest(tensor, count)), kind


def test_a_search_that_keeps_all_or_nothing_reads_nothing() -> None:
    """Density 0 and 1, and an empty tensor, need no threshold."""

    def never() -> Iterator[tuple[int, list[Tensor]]]:
        raise AssertionError("read")

    kept_all, nothing = thresholds(never, [9, 0], 9)
    values = torch.tensor([3.0, -4.0, 0.0])
    assert torch.equal(kept_all.trim(values.clone(), 6), values)
    assert not nothing.trim(values.clone(), 6).any()
    assert thresholds(never, [0], 0)


def random_group(size: int, **more: object) -> TensorGroup:
    """Two models and their base."""
    generator = torch.Generator().manual_seed(1)
    base, *tensors = (torch.randn(size, generator=generator) for _ in range(3))
    return TensorGroup(name="w", tensors=tuple(tensors), base=base, **{"models": ("a", "b"), **more})  # type: ignore[arg-type]


def test_sums_do_not_depend_on_the_blocks() -> None:
    """To the last bit; and they are right."""
    group = random_group(30_000)
    expected = totals(group, 2, lambda block, place: block.tensors[place])
    for lengths in ([30_000], [1, 29_999], [5000] * 6, [4096, 100, 3996, 21_808], [7] * 4285 + [5]):
        blocks = in_blocks(group, lengths)
        assert totals(blocks[-1], 2, lambda block, place: block.tensors[place]) == expected
    for one, tensor in zip(expected, group.tensors, strict=True):
        assert one == pytest.approx(float(tensor.double().sum()), abs=1e-3)


def dropped(group: TensorGroup, density: float, **options: object) -> Tensor:
    """The first model's change after dropping: the second one has weight 0."""
    assert group.base is not None
    return dare_ties(group, density=(density, density), weight=(1.0, 0.0), **options) - group.base  # type: ignore[arg-type]


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_keeps_its_share_and_the_norm(density: float) -> None:
    """The share kept is the density within four deviations, the L1 norm is that of all changes, the mean is kept."""
    group = random_group(200_000)
    assert group.base is not None
    whole, kept = group.tensors[0] - group.base, dropped(group, density)
    share = float((kept != 0).double().mean())
    assert abs(share - density) < 4 * (density * (1 - density) / 200_000) ** 0.5
    assert float(kept.abs().double().sum()) == pytest.approx(float(whole.abs().double().sum()), rel=1e-5)
    plain = dropped(group, density, rescale=False)
    torch.testing.assert_close(plain, whole * (kept != 0), rtol=1e-5, atol=1e-6)


def test_dare_drops_otherwise_for_another_seed_model_or_tensor() -> None:
    """And alike for the same; the place of a model in the recipe does not matter."""
    group = random_group(1000)
    first = dropped(group, 0.5) != 0
    for more in ({"seed": 1}, {"models": ("c", "b")}):
        assert 0.4 < float((first == (dropped(random_group(1000, **more), 0.5) != 0)).float().mean()) < 0.6
    assert torch.equal(first, dropped(random_group(1000, models=("a", "z")), 0.5) != 0)


def test_what_is_dropped_whole_is_not_rescaled() -> None:
    """No division by a norm of zero."""
    group = random_group(3)
    assert l1_ratios(group, lambda block, model, out: out.zero_()) == [1.0, 1.0]


def test_random_values_are_uniform_and_follow_from_their_place() -> None:
    """Between 0 and 1 with the right moments, and the same in any block."""
    whole = random_group(100_001)
    values = whole.uniform(0)
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    assert float(values.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(values.var()) == pytest.approx(1 / 12, abs=0.002)
    blocks = in_blocks(whole, [1, 2, 4097, 90_000, 5901])
    assert torch.equal(torch.cat([block.uniform(0) for block in blocks]), values)
    assert abs(float(torch.corrcoef(torch.stack([values, whole.uniform(1)]))[0, 1])) < 0.02


def test_depth_is_read_from_the_names() -> None:
    """Layers are counted in their own stack; what is in no layer counts as the first, as in mergekit."""
    names = [f"model.layers.{layer}.mlp.experts.7.w1.weight" for layer in range(5)]
    found = depths([*names, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
    assert list(found.values()) == [0, 0.25, 0.5, 0.75, 1, 0, 0, 0]
    names = [
        "encoder.block.0.layer.1.wi.weight",
        "encoder.block.1.layer.1.wi.weight",
        "decoder.block.0.layer.2.x.weight",
    ]
    assert list(depths([*names, "shared.weight"]).values()) == [0, 1, 1, 0]
    assert list(depths(["h.0.attn.c_attn.weight", "h.2.x.bias", "wte.weight", "2_Dense/linear.weight"]).values()) == [
        0,
        1,
        0,
        0,
    ]
    assert depths(["bert.encoder.layer.0.x.bias"]) == {"bert.encoder.layer.0.x.bias": 1}


def test_a_gradient_is_exact_at_its_ends() -> None:
    """A rounded density would keep one value less than asked for."""
    assert [ByLayer((("", (1.0, 0.7, 0.1)),)).of("x", depth) for depth in (0, 0.5, 1)] == [1.0, 0.7, 0.1]


RECIPE = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]


def test_the_slerp_recipe_that_everybody_pastes_is_read() -> None:
    """Values over the layers with straight lines between them, other ones for attention and MLP, one for the rest."""
    method = find_method("slerp")
    bound = method.bind({"t": RECIPE}, [{}])
    assert str(bound["t"]) == "0 → 0.5 → 0.3 → 0.7 → 1 in self_attn, 1 → 0.5 → 0.7 → 0.3 → 0 in mlp, else 0.5"

    def t(name: str, depth: float) -> float:
        return float(method.values_for(bound, name, depth)["t"])

    assert [t("a.self_attn.q", place / 4) for place in range(5)] == pytest.approx([0, 0.5, 0.3, 0.7, 1])
    assert [t("a.mlp.up", depth) for depth in (0, 0.125, 0.9, 1)] == pytest.approx([1, 0.75, 0.12, 0])
    assert t("norm", 0.4) == 0.5


def test_each_model_may_have_its_own_values_over_the_layers() -> None:
    """A gradient of density and of weight, as in mergekit's own example; `lambda` reaches the argument `lambda_`."""
    method = find_method("ties")
    own = [{"density": [1, 0.7, 0.1], "weight": 1.0}, {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 0}]}]
    bound = method.bind({"normalize": True, "int8_mask": True, "lambda": 0.4}, own)
    values = method.values_for(bound, "a.mlp.up", 0.25)
    assert values == {
        "weight": (1.0, 0.5),
        "density": (pytest.approx(0.85), 1.0),
        "normalize": True,
        "rescale": False,
        "lambda_": 0.4,
    }
    assert method.values_for(bound, "a.norm", 1.0)["weight"] == (1.0, 0.0)
    assert bound["weight"][1] == ByLayer((("mlp", (0.5,)), ("", (0.0,))))
    assert method.effective_weights(bound, 2) == pytest.approx((0.8, 0.2))
