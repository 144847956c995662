"""Two tensors are compared bit for bit, then by how far their values lie apart."""

import math

import pytest
import torch
from torch import Tensor

from merging import equality
from merging.equality import Difference, difference
from merging.tensors import TensorSpec


def compared(one: Tensor, other: Tensor) -> Difference | None:
    """The difference of two tensors that lie in memory."""
    spec = TensorSpec("layer.weight", tuple(one.shape), one.dtype)
    flat, theirs = one.reshape(-1), other.reshape(-1)
    return difference(spec.name, spec, lambda start, stop: flat[start:stop], lambda start, stop: theirs[start:stop])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_tolerance_is_a_share_of_the_largest_value(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole tensor, whatever the block; what is just below is within, what is above is not."""
    monkeypatch.setattr(equality, "BLOCK", 3)
    one = torch.tensor([0.0, 8.0, 0.25, -0.5, 0.125], dtype=dtype)
    assert compared(one, one.clone()) is None
    for share, within in ((0.9, True), (1.2, False)):
        other = one.clone()
        other[4] += 8 * share * equality.TOLERANCE[dtype]
        found = compared(one, other)
        assert found is not None
        assert (found.within, found.dtype) == (within, str(dtype).removeprefix("torch."))
        assert found.absolute == pytest.approx(8 * share * equality.TOLERANCE[dtype], rel=0.1)
        assert found.relative == pytest.approx(share * equality.TOLERANCE[dtype], rel=0.1)


def test_the_next_number_of_a_half_is_within() -> None:
    """What another order of sums may give is no difference."""
    for dtype in (torch.float16, torch.bfloat16):
        one = torch.tensor([1.999, 1.0], dtype=dtype)
        other = one.clone()
        other.view(torch.int16)[:] += 1
        found = compared(one, other)
        assert found is not None
        assert found.within


def test_what_is_no_number_is_never_within() -> None:
    """NaN and infinity on either side, also where the other values are the same; a scale of 0."""
    one = torch.tensor([1.0, 2.0, 3.0])
    for strange in (math.nan, math.inf):
        other = one.clone()
        other[1] = strange
        for pair in ((one, other), (other, one)):
            found = compared(*pair)
            assert found is not None
            assert not found.within
            assert (found.absolute, found.relative) == (None, None)
            assert found.words == "layer.weight by more than can be said"
    found = compared(torch.zeros(3), torch.tensor([0.0, 1e-30, 0.0]))
    assert found is not None
    assert not found.within


def test_nan_of_the_same_bits_is_the_same() -> None:
    """Bits are compared first; the sign of a zero is a difference of 0."""
    nan = torch.tensor([math.nan, 1.0])
    assert compared(nan, nan.clone()) is None
    found = compared(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))
    assert found is not None
    assert (found.absolute, found.within) == (0.0, True)


def test_whole_numbers_have_no_tolerance() -> None:
    """One step of a counter is a difference."""
    found = compared(torch.tensor([1000, 2]), torch.tensor([1000, 3]))
    assert found is not None
    assert (found.absolute, found.tolerance, found.within) == (1.0, 0.0, False)
