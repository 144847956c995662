"""A sweep on the page: its picture, and its two fields in the form."""

import re
from typing import Any

import pytest

from merging.method import METHODS, find_method
from merging.recipe_problems import recipe_problems
from tests.ui.reports import a_set, score
from tests.ui.test_forms import form_of
from tests.ui.test_render import HOSTILE, safe
from ui.forms import fill_form, problems_by_field, read_form
from ui.sweep_chart import sweep
from ui.sweep_fields import choices


def swept(values: dict[float, float], metric: str = "accuracy", name: str = "alpha", **told: Any) -> dict[str, Any]:
    """An evaluation of one set, with such figures at these values."""
    points = [{"value": value} | score("merge", "Merge", figure, metric=metric) for value, figure in values.items()]
    average = score("average", "Average", 0.5, metric=metric)
    one = a_set("banking", [average], metric=metric, sweep=points)
    return {"sets": [one], "sweep": {"parameter": name, "model": "", "own": 1.0, "finding": "Found."} | told}


def test_a_sweep_is_a_line_with_a_band() -> None:
    """A point for each value, the published one a ring; words for those who hear it; all numbers in a table."""
    seen = safe(sweep(swept({0.0: 0.6, 1.0: 0.9, 0.5: 0.8})))
    spots = [attributes for tag, attributes in seen.tags if tag == "circle"]
    assert [one.get("class") for one in spots] == [None, None, "mm-ring"]
    assert [float(str(one["cx"])) for one in spots] == [44.0, 185.0, 326.0]
    down = [float(str(one["cy"])) for one in spots]
    assert down == sorted(down, reverse=True)
    (heard,) = [attributes["aria-label"] for _, attributes in seen.tags if attributes.get("role") == "img"]
    assert heard == "accuracy on banking by alpha: 60.0 % at 0, 80.0 % at 0.5, 90.0 % at 1"
    assert re.search(r"0\.5\s*banking\s*accuracy 80\.0 %\s*\(77\.0 to 83\.0 %\)", seen.words)
    assert "Found." in seen.words


def test_values_over_magnitudes_do_not_crowd() -> None:
    """They stand by their logarithm; names that would touch are left out."""
    seen = safe(sweep(swept({1e-6: 0.5, 1e-3: 0.5, 1.0: 0.5})))
    assert [float(str(one["cx"])) for tag, one in seen.tags if tag == "circle"] == [44.0, 185.0, 326.0]
    crowded = {0.0: 0.5, 1.0: 0.5} | {0.5 + place / 1000: 0.5 for place in range(5)}
    words = re.findall(r'text-anchor="middle">([^<]*)<', sweep(swept(crowded)))
    assert (words[0], words[-1], len(words)) == ("0", "1", 3)


@pytest.mark.parametrize(
    "strange",
    [
        swept({0.0: 1e308, 1.0: -1e308}, "perplexity"),
        swept({-1e308: 0.5, 1e308: 0.5}),
        swept({5e-324: 0.0, 1e308: 0.0}),
        swept({0.0: 7.0, 1.0: 7.0}, "perplexity", own=None),
        swept({0.0: 0.5}),
        swept({0.0: 0.5, 1.0: 0.6}) | {"sweep": None},
    ],
)
def test_a_stranger_s_sweep_does_not_break_the_page(strange: dict[str, Any]) -> None:
    """Figures and values of any size, or too few to draw a line."""
    safe(sweep(strange))


def test_a_stranger_s_words_stay_words() -> None:
    """The parameter, the finding and the name of the set."""
    report = swept({0.0: 0.5, 1.0: 0.6}, name=HOSTILE, finding=HOSTILE, model=HOSTILE)
    report["sets"][0]["name"] = HOSTILE
    fragment = sweep(report)
    assert "<img" not in fragment
    safe(fragment)


# The form


def a_form(method: str, parameter: str, values: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A form of two models with a set and these fields of a sweep."""
    draft, filled = form_of("ana/one", "ana/two", method=method)
    draft = draft | {"evaluate": [{"data": "ana/rows"}]}
    return draft, filled | {"sweep.parameter": parameter, "sweep.values": values}


def test_the_fields_of_a_sweep_are_the_recipe_s() -> None:
    """Values are written as people write them; a recipe fills the fields; a task that has no field is kept."""
    recipe = read_form(*a_form("regmean", "alpha", " 0, 0.25; 1e-3 1 "))
    assert recipe.sweep is not None
    assert recipe.sweep.values == (0, 0.25, 0.001, 1)
    assert read_form(*fill_form(recipe)) == recipe
    one = recipe.sweep.model_copy(update={"parameter": "weight", "model": "two"})
    weighted = recipe.model_copy(update={"sweep": one})
    assert read_form(*fill_form(weighted)).sweep == one


def test_no_values_mean_five_over_the_range() -> None:
    """So that to pick a parameter is enough."""
    for method, parameter, values in (
        ("regmean", "alpha", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("task_arithmetic", "lambda", (0.5, 0.75, 1.0, 1.25, 1.5)),
    ):
        sweep = read_form(*a_form(method, parameter, "")).sweep
        assert sweep is not None
        assert sweep.values == values


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_number_that_is_offered_can_be_swept(name: str) -> None:
    """With no values written, of every method; a number of another method is no wish."""
    method = find_method(name)
    for _, parameter in choices(method)[1:]:
        recipe = read_form(*a_form(name, parameter, ""))
        assert [one for one in recipe_problems(recipe) if one.where.startswith("sweep")] == []
    other = "alpha" if name != "regmean" else "lambda"
    assert read_form(*a_form(name, other, "0 1")).sweep is None


def test_what_is_wrong_with_a_sweep_stands_beside_the_sets() -> None:
    """Also a word that is no number, and a parameter that no method has."""
    for parameter, values, words in (("alpha", "0, much", "alpha = 'much'"), ("alfa", "0, 1", "alfa is not a")):
        problems = recipe_problems(read_form(*a_form("regmean", parameter, values)))
        (found,) = problems_by_field(problems, find_method("regmean"))["evaluate"]
        assert found.what.startswith(words)
