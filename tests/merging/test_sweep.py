"""A sweep as it stands in a recipe: what it means, and every way in which it is wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from merging.checkpoint import open_parent
from merging.plan import Plan, make_plan
from merging.recipe import Recipe, recipe_from_dict
from merging.recipe_problems import recipe_problems
from merging.sweep import own_value, values_of, variant
from tests.tiny_models import save_tiny


def wish(sweep: dict[str, Any] | None, method: str = "regmean", **more: Any) -> Recipe:
    """A recipe of two models with that sweep, evaluated on something."""
    models = [{"model": f"ann/{task}", "task": task} for task in ("mood", "topic")]
    data = {"merge_method": method, "models": models, "evaluate": [{"data": "ann/rows"}], "sweep": sweep}
    return recipe_from_dict(data | more)


def told(recipe: Recipe) -> list[tuple[str, str]]:
    """Field and sentence of each problem of the sweep."""
    return [(one.where, str(one)) for one in recipe_problems(recipe) if one.where.startswith("sweep")]


def test_a_sweep_is_the_same_merge_at_other_values() -> None:
    """Of one shared parameter, or of what one model or every model has; nothing else changes."""
    recipe = wish({"parameter": "alpha", "values": [1, 0.25, "1e-3"]}, parameters={"ridge": 0.5})
    assert told(recipe) == []
    assert values_of(recipe) == (0.001, 0.25, 1.0)
    assert own_value(recipe) == 1.0
    other = variant(recipe, 0.25)
    assert (other.bound()["alpha"], other.bound()["ridge"]) == (0.25, 0.5)
    assert (other.sweep, other.evaluate, other.models) == (None, (), recipe.models)
    recipe = wish({"parameter": "weight", "model": "topic", "values": [0, 2]}, method="average")
    assert told(recipe) == []
    assert (variant(recipe, 2).bound()["weight"], own_value(recipe)) == ((1.0, 2.0), 1.0)
    recipe = wish({"parameter": "density", "values": [0.2, 0.5]}, method="ties", base_model="ann/base")
    assert told(recipe) == []
    assert (variant(recipe, 0.2).bound()["density"], own_value(recipe)) == ((0.2, 0.2), 1.0)


def test_a_value_that_differs_by_layer_or_model_is_no_single_one() -> None:
    """The published merge then stands at no place of the sweep."""
    assert own_value(wish({"parameter": "alpha", "values": [0, 1]}, parameters={"alpha": [0, 1]})) is None
    models = [{"model": "ann/a", "parameters": {"density": 0.1}}, "ann/b"]
    recipe = wish({"parameter": "density", "values": [0, 1]}, method="ties", base_model="ann/c", models=models)
    assert own_value(recipe) is None


WRONG: list[tuple[dict[str, Any], str, str]] = [
    (
        {"parameter": "alfa", "values": [0, 1]},
        "sweep.parameter",
        'alfa is not a parameter of regmean: it has weight, alpha, ridge. Did you mean "alpha"?',
    ),
    (
        {"parameter": "alpha", "values": [0.5]},
        "sweep.values",
        "The sweep has 1 value: it takes 2 to 12. Add some.",
    ),
    (
        {"parameter": "alpha", "values": [place / 20 for place in range(13)]},
        "sweep.values",
        "The sweep has 13 values: it takes 2 to 12. Remove some.",
    ),
    (
        {"parameter": "alpha", "values": [0, 1.5]},
        "sweep.values.1",
        "alpha = 1.5: it is out of range. Give a number between 0 and 1.",
    ),
    (
        {"parameter": "alpha", "values": ["much", 1]},
        "sweep.values.0",
        "alpha = 'much': it is not a number. Give a number, between 0 and 1.",
    ),
    (
        {"parameter": "alpha", "values": [0.5, 1, "5e-1"]},
        "sweep.values.2",
        "The sweep has alpha = 0.5 twice: both would be the same merge. Remove one.",
    ),
    (
        {"parameter": "alpha", "values": [0, 1], "model": "mood"},
        "sweep.model",
        "The sweep over alpha names a model: it is one value for all models. Leave the model out.",
    ),
    (
        {"parameter": "weight", "values": [0, 1]},
        "sweep.model",
        "The sweep over weight names no model: the same weight for all changes nobody's share. "
        "Name a task as its model.",
    ),
    (
        {"parameter": "weight", "values": [0, 1], "model": "news"},
        "sweep.model",
        "The sweep: there is no task news: the tasks are mood, topic. Pick one as its model.",
    ),
]


@pytest.mark.parametrize(("sweep", "where", "sentence"), WRONG)
def test_a_wrong_sweep_is_one_sentence_at_its_field(sweep: dict[str, Any], where: str, sentence: str) -> None:
    """And the recipe is one all the same, so that a form can show what else is known."""
    assert told(wish(sweep)) == [(where, sentence)]


def test_a_sweep_goes_over_a_number_and_needs_an_evaluation() -> None:
    """Both are told at once."""
    recipe = wish({"parameter": "normalize", "values": [0, 1]}, method="ties", base_model="ann/c", evaluate=[])
    assert told(recipe) == [
        (
            "sweep",
            "There is no text to try the sweep on: a sweep is read off an evaluation. "
            "Add a set, or leave the sweep out.",
        ),
        (
            "sweep.parameter",
            "normalize is true or false: a sweep goes over a number. Pick one of weight, density, lambda.",
        ),
    ]


def test_weights_that_cancel_are_named_by_the_value() -> None:
    """A sweep over one weight, in which one value leaves no share to anybody."""
    found = told(wish({"parameter": "weight", "model": "mood", "values": [-1, 2]}, method="average"))
    assert found == [
        ("sweep.values.0", "The weights sum to zero: -1, 1 cannot be turned into shares. Change one of them.")
    ]


def test_the_disk_of_a_sweep_is_planned(tmp_path: Path) -> None:
    """All models with their base, the merge and one more of it; the merge itself is planned as without a sweep."""
    folders = [save_tiny(tmp_path / name, seed=seed) for seed, name in enumerate(("mood", "topic", "base"))]
    parents = [replace(open_parent(f"ann/{one.name}", one), revision="0" * 40, stamp=()) for one in folders]

    def planned(sweep: dict[str, Any] | None) -> Plan:
        recipe = wish(sweep, method="task_arithmetic", base_model="ann/base")
        return make_plan(recipe, parents[:2], parents[2]).raise_if_impossible()

    with_sweep, without = planned({"parameter": "lambda", "values": [0.5, 1]}), planned(None)
    assert with_sweep.supply is not None
    weights = sum(one.weight_bytes for one in parents)
    assert with_sweep.disk_bytes == weights + 2 * with_sweep.output_bytes + with_sweep.supply.beside
    assert without.disk_bytes == with_sweep.disk_bytes - parents[2].weight_bytes
    assert with_sweep.fingerprint == without.fingerprint
