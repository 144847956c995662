"""Laws that every registered merge method keeps, or names in `breaks` with its reason."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merging.methods  # noqa: F401
from merging.method import METHODS, MergeMethod
from merging.methods.fisher import _moments
from merging.tensors import Shared, TensorGroup
from tests.merging.blocks import merged_in_blocks

torch.set_num_threads(1)


def methods(test: Callable[[MergeMethod], bool] = lambda method: True) -> pytest.MarkDecorator:
    """Run a test for every registered method of which `test` is true."""
    chosen = [method for method in METHODS.values() if test(method)]
    return pytest.mark.parametrize("method", chosen, ids=[method.name for method in chosen])


def keeping(law: str) -> pytest.MarkDecorator:
    """Every method that does not declare to break the law on purpose."""
    return methods(lambda method: law not in method.breaks)


EVERY_METHOD = methods()


def group(method: MergeMethod, models: int, seed: int = 0, outputs: int = 6, **changes: object) -> TensorGroup:
    """A random group with all that the method needs: (outputs, 4) weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = tuple(draw(outputs, 4) for _ in range(models))
    rows = [draw(9, 4) for _ in range(models)]
    values: dict[str, object] = {
        "name": "layer.weight",
        "tensors": tensors,
        "base": draw(outputs, 4) if "base" in method.needs else None,
        "grams": tuple(x.T @ x / len(x) for x in rows) if "gram" in method.needs else None,
        "fishers": tuple(draw(outputs, 4).square() for _ in range(models)) if "fisher" in method.needs else None,
        **changes,
    }
    return TensorGroup(**values)  # type: ignore[arg-type]


def count(method: MergeMethod, wanted: int = 3) -> int:
    """As many models as the method takes, at most `wanted`."""
    return min(wanted, method.maximum_models or wanted)


def options(method: MergeMethod, moved: bool) -> dict[str, object]:
    """Its arguments: all at their defaults, or none of them, and another value for each model."""
    shared: dict[str, object] = {}
    own: list[dict[str, object]] = [{} for _ in range(count(method))]
    for parameter in method.parameters if moved else ():
        if parameter.per_model:
            for place, values in enumerate(own):
                values[parameter.name] = 0.3 + 0.2 * place
        elif parameter.kind in ("bool", "float"):
            shared[parameter.name] = not parameter.default if parameter.kind == "bool" else 0.3
    return method.values_for(method.bind(shared, own), "layer.weight", 0.5)


MOVED = pytest.mark.parametrize("moved", [False, True], ids=["defaults", "moved"])


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


@MOVED
@EVERY_METHOD
def test_shape_and_dtype_are_kept_and_inputs_left_alone(method: MergeMethod, moved: bool) -> None:
    """The result has the shape and dtype of the inputs, which are not changed, nor is the base."""
    here = group(method, count(method))
    inputs = (*here.tensors, *(() if here.base is None else (here.base,)))
    before = [tensor.clone() for tensor in inputs]
    merged = method.function(here, **options(method, moved))
    assert (merged.shape, merged.dtype) == (before[0].shape, before[0].dtype)
    assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True))


@EVERY_METHOD
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-4, 1.0, 1e4]), moved=st.booleans())
def test_finite_inputs_give_finite_results(method: MergeMethod, seed: int, scale: float, moved: bool) -> None:
    """No NaN and no infinity from finite weights of any usual size."""
    here = group(method, count(method), seed)
    grown = group(method, count(method), seed, tensors=tuple(tensor * scale for tensor in here.tensors))
    assert torch.isfinite(method.function(grown, **options(method, moved))).all()


@MOVED
@methods(lambda method: "base" in method.needs)
def test_models_that_learnt_nothing_give_the_base(method: MergeMethod, moved: bool) -> None:
    """No change since the base, no change to the base, whatever the parameters are."""
    here = group(method, count(method))
    assert here.base is not None
    same = group(method, count(method), tensors=(here.base,) * count(method))
    torch.testing.assert_close(method.function(same, **options(method, moved)), here.base)


@MOVED
@methods(lambda method: method.splits != "whole")
def test_an_empty_tensor_and_one_of_a_single_value_are_merged(method: MergeMethod, moved: bool) -> None:
    """Scalars and tensors without a value occur in checkpoints."""
    for outputs in (0, 1):
        one = group(method, count(method), outputs=outputs)
        merged = method.function(one, **options(method, moved))
        assert merged.shape == (outputs, 4)
        assert torch.isfinite(merged).all()


@methods(lambda method: method.splits == "elements")
def test_a_nan_is_never_merged_away(method: MergeMethod) -> None:
    """It reaches the result, where the engine sees it and names the model; no trimming hides it."""
    for place in range(count(method)):
        here = group(method, count(method), outputs=100)
        here.tensors[place][50, 1] = float("nan")
        for moved in (False, True):
            assert not torch.isfinite(method.function(here, **options(method, moved))).all()


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


@MOVED
@methods(lambda method: method.splits == "elements")
def test_merging_in_blocks_equals_merging_at_once(method: MergeMethod, moved: bool) -> None:
    """The bits do not depend on how a tensor is cut, nor on which block asks first for what needs all of it."""
    whole = group(method, count(method), outputs=2600)
    if whole.fishers is not None:
        whole = replace(whole, moments=tuple(_moments(values) for values in whole.fishers))
    merged = method.function(whole, **options(method, moved)).reshape(-1)
    for lengths in ([4096, 4096, 2208], [1, 4095, 3, 5000, 1301], [10400]):
        blocks = merged_in_blocks(method, replace(whole, shared=Shared()), lengths, **options(method, moved))
        assert torch.equal(blocks, merged), lengths


@MOVED
@methods(lambda method: method.splits == "rows")
def test_merging_rows_apart_equals_merging_at_once(method: MergeMethod, moved: bool) -> None:
    """What the method declares that it can be split by really does not change the result."""
    here = group(method, count(method))
    parts = [
        method.function(replace(here, tensors=tuple(t[rows] for t in here.tensors)), **options(method, moved))
        for rows in (slice(0, 2), slice(2, 6))
    ]
    whole = method.function(here, **options(method, moved))
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
