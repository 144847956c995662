"""Laws that every registered merge method keeps, or names in `breaks` with its reason."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merging.methods  # noqa: F401
from merging.method import METHODS, MergeMethod
from merging.tensors import TensorGroup

torch.set_num_threads(1)


def methods(test: Callable[[MergeMethod], bool] = lambda method: True) -> pytest.MarkDecorator:
    """Run a test for every registered method of which `test` is true."""
    chosen = [method for method in METHODS.values() if test(method)]
    return pytest.mark.parametrize("method", chosen, ids=[method.name for method in chosen])


def keeping(law: str) -> pytest.MarkDecorator:
    """Every method that does not declare to break the law on purpose."""
    return methods(lambda method: law not in method.breaks)


EVERY_METHOD = methods()


def group(method: MergeMethod, models: int, seed: int = 0, **changes: object) -> TensorGroup:
    """A random group with all that the method needs: (6, 4) weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = tuple(draw(6, 4) for _ in range(models))
    rows = [draw(9, 4) for _ in range(models)]
    values: dict[str, object] = {
        "name": "layer.weight",
        "tensors": tensors,
        "base": draw(6, 4) if "base" in method.needs else None,
        "grams": tuple(x.T @ x / len(x) for x in rows) if "gram" in method.needs else None,
        "fishers": tuple(draw(6, 4).square() for _ in range(models)) if "fisher" in method.needs else None,
        **changes,
    }
    return TensorGroup(**values)  # type: ignore[arg-type]


def count(method: MergeMethod, wanted: int = 3) -> int:
    """As many models as the method takes, at most `wanted`."""
    return min(wanted, method.maximum_models or wanted)


@keeping("identity")
def test_copies_of_one_model_give_that_model(method: MergeMethod) -> None:
    """Identity: merging a model with itself changes nothing."""
    whole = group(method, count(method))
    copies = group(method, count(method), tensors=(whole.tensors[0],) * count(method))
    torch.testing.assert_close(method.function(copies), whole.tensors[0])


@keeping("symmetry")
def test_order_of_models_does_not_matter(method: MergeMethod) -> None:
    """Symmetry: the same models in another order give the same result."""
    here = group(method, count(method))
    turned = {
        name: tuple(reversed(value)) if isinstance(value := getattr(here, name), tuple) else value
        for name in ("tensors", "grams", "fishers")
    }
    torch.testing.assert_close(
        method.function(here), method.function(group(method, count(method), **turned)), rtol=1e-5, atol=1e-5
    )


@keeping("translation")
def test_adding_a_constant_to_all_models_adds_it_to_the_result(method: MergeMethod) -> None:
    """Translation: the method works on differences."""
    here = group(method, count(method))
    base = None if here.base is None else here.base + 3
    moved = group(method, count(method), tensors=tuple(t + 3 for t in here.tensors), base=base)
    torch.testing.assert_close(method.function(moved), method.function(here) + 3, rtol=1e-4, atol=1e-4)


@EVERY_METHOD
def test_shape_and_dtype_are_kept_and_inputs_left_alone(method: MergeMethod) -> None:
    """The result has the shape and dtype of the inputs, which are not changed."""
    here = group(method, count(method))
    before = [tensor.clone() for tensor in here.tensors]
    merged = method.function(here)
    assert (merged.shape, merged.dtype) == (before[0].shape, before[0].dtype)
    assert all(torch.equal(now, then) for now, then in zip(here.tensors, before, strict=True))


@EVERY_METHOD
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_finite_inputs_give_finite_results(method: MergeMethod, seed: int, scale: float) -> None:
    """No NaN and no infinity from finite weights of any usual size."""
    here = group(method, count(method), seed)
    grown = group(method, count(method), seed, tensors=tuple(tensor * scale for tensor in here.tensors))
    assert torch.isfinite(method.function(grown)).all()


@methods(lambda method: bool(method.needs & {"gram", "fisher"}))
def test_all_zero_statistics_still_give_a_finite_merge(method: MergeMethod) -> None:
    """Inputs that no model ever saw keep the average."""
    here = group(method, count(method))
    zeros = {
        name: tuple(torch.zeros_like(t) for t in getattr(here, name))
        for name in ("grams", "fishers")
        if getattr(here, name) is not None
    }
    merged = method.function(group(method, count(method), **zeros))
    torch.testing.assert_close(merged, torch.stack(here.tensors).mean(0))


@EVERY_METHOD
def test_same_call_gives_the_same_bytes(method: MergeMethod) -> None:
    """Determinism: nothing depends on global random state."""
    first = method.function(group(method, count(method)))
    torch.manual_seed(99)
    assert torch.equal(first, method.function(group(method, count(method))))


@methods(lambda method: method.splits != "whole")
def test_merging_in_blocks_equals_merging_at_once(method: MergeMethod) -> None:
    """What the method declares that it can be split by really does not change the result."""
    here = group(method, count(method))
    whole = method.function(here)
    parts = []
    for rows in (slice(0, 2), slice(2, 6)):
        cut = {"tensors": tuple(t[rows] for t in here.tensors), "base": None if here.base is None else here.base[rows]}
        if here.fishers is not None:
            from merging.methods.fisher import _moments

            moments = tuple(_moments(values) for values in here.fishers)
            cut |= {"fishers": tuple(t[rows] for t in here.fishers), "moments": moments}
        parts.append(method.function(group(method, count(method), **cut)))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-6)


@EVERY_METHOD
def test_every_parameter_says_what_it_does(method: MergeMethod) -> None:
    """Forms and docs are made from these texts: none may be empty."""
    assert method.title
    assert method.paper
    assert len(method.summary) > 20
    for parameter in method.parameters:
        assert len(parameter.option.help) > 10
        bound = method.bind({}, [{}] * count(method))
        assert parameter.name in bound
