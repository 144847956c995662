"""Recipes: strict data, and one clear sentence for each thing that can be wrong."""

import base64
import zlib
from pathlib import Path
from typing import Any

import pytest

from merging.errors import PROBLEMS_LIMIT, InputError
from merging.recipe import (
    HANDED_OVER,
    Recipe,
    RecipeError,
    distinctive,
    recipe_from_dict,
    recipe_from_link,
    recipe_from_yaml,
    valid_repo_id,
)

GOOD = """
merge_method: regmean
models:
  - model: demo/minilm-banking
    parameters: {weight: 2}
  - model: demo/minilm-sentiment@0123456789abcdef0123456789abcdef01234567
    statistics: {gram: demo/minilm-sentiment-merge-statistics}
    calibration: {data: "demo/skills:sentiment:train", examples: 300}
parameters: {alpha: 0.9}
dtype: bfloat16
output: {repo_id: demo/merged, private: true}
"""


PAIR = {"models": [{"model": "ana/one"}, {"model": "ana/two"}]}


def test_a_recipe_survives_its_own_yaml() -> None:
    """YAML out and in again is the same recipe."""
    recipe = recipe_from_yaml(GOOD)
    assert recipe_from_yaml(recipe.to_yaml()) == recipe
    assert recipe.models[1].revision == "0123456789abcdef0123456789abcdef01234567"
    assert recipe.tasks == ("banking", "sentiment")
    assert recipe.effective_weights == pytest.approx((2 / 3, 1 / 3))


def test_a_link_carries_the_recipe_but_not_where_the_result_goes() -> None:
    """Output name and visibility never travel in a link."""
    recipe = recipe_from_yaml(GOOD)
    opened = recipe_from_link(recipe.to_link())
    assert opened == recipe.without_output()
    assert opened.output.repo_id is None
    assert opened.output.private is None


def test_a_link_with_an_output_in_it_loses_it() -> None:
    """Somebody who packs an output into a link by hand gains nothing."""
    packed = base64.urlsafe_b64encode(zlib.compress(GOOD.encode())).decode()
    assert recipe_from_link(packed).output.repo_id is None


@pytest.mark.parametrize("packed", ["", "!!!", "AAAA", base64.urlsafe_b64encode(zlib.compress(b"a" * 10**8)).decode()])
def test_a_damaged_or_exploding_link_is_one_sentence(packed: str) -> None:
    """Cut, garbled or a zip bomb: refused without unpacking more than a bounded text."""
    with pytest.raises(InputError, match=r"recipe link (cannot be read|is too long)|recipe is not"):
        recipe_from_link(packed)


@pytest.mark.parametrize(
    ("text", "where", "sentence"),
    [
        (
            "merge_method: regmaen\nmodels: [{model: a/b}]",
            "merge_method",
            "There is no merge method 'regmaen': the methods are average, dare_ties, fisher, regmean, slerp, "
            'task_arithmetic, ties. Did you mean "regmean"?',
        ),
        (
            "merge_method: average\nmodel: 1\nmodels: [{model: a/b}]",
            "model",
            'Unknown key model: a recipe has no such field. Did you mean "models"?',
        ),
        (
            "merge_method: average\nmodels: [{model: a/b, wieght: 2}]",
            "models.0.wieght",
            "Unknown key models.0.wieght: a recipe has no such field.",
        ),
        (
            "merge_method: regmean\nmodels: [{model: a/b}]\nparameters: {alhpa: 1}",
            "parameters.alhpa",
            'alhpa is not a parameter of regmean: it has weight, alpha, ridge. Did you mean "alpha"?',
        ),
        (
            "merge_method: regmean\nmodels: [{model: a/b}]\nparameters: {alpha: 1.5}",
            "parameters.alpha",
            "alpha = 1.5: it is out of range. Give a number between 0 and 1.",
        ),
        (
            "merge_method: average\nmodels: [{model: a/b, parameters: {weight: heavy}}]",
            "models.0.parameters.weight",
            "weight = 'heavy': it is not a number. Give a number, of any size.",
        ),
        (
            "merge_method: regmean\nmodels: [{model: a/b, parameters: {weight: -1}}]",
            "models.0.parameters.weight",
            "weight = -1: it is out of range. Give a number of at least 0.",
        ),
        (
            "merge_method: average\nmodels: [{model: a/b, parameters: {weight: .nan}}]",
            "models.0.parameters.weight",
            "weight = nan: it is not a number.",
        ),
        (
            "merge_method: average\nmodels: [{model: a/b, parameters: {weight: 1e999}}]",
            "models.0.parameters.weight",
            "weight = inf: it is not a finite number. Give a number, of any size.",
        ),
        (
            "merge_method: average\nmodels: [{model: a/b, parameters: {weight: null}}]",
            "models.0.parameters.weight",
            "weight is empty: it needs a value, and one that is too large to be a finite number counts as none. "
            "Leave it at 1.0.",
        ),
        (
            "merge_method: average\nmodels: [{model: a/b, parameters: {weight: 1}}, "
            "{model: a/c, parameters: {weight: -1}}]",
            "parameters.weight",
            "The weights sum to zero: 1, -1 cannot be turned into shares. Change one of them.",
        ),
        (
            "merge_method: fisher\nmodels: [{model: a/b}]\nparameters: {normalize: yes please}",
            "parameters.normalize",
            "normalize = 'yes please': it is one of none, model, tensor.",
        ),
        ("merge_method: average", "models", "models is missing: a recipe needs it. Add `models:`."),
        (
            "merge_method: average\nmodels: [{model: a/b}]\noutput: {repo_id: no slash}",
            "output.repo_id",
            "output.repo_id = 'no slash': a repo id is owner/name",
        ),
        ("merge_method: average\nmodels: [{model: a/b}]\ndtype: int4", "dtype", "dtype = 'int4': "),
        ("a: [", "", "The recipe is not valid YAML: line 1"),
        (
            "merge_method: average\nmodels: [{model: a/b}]\nmerge_method: fisher",
            "",
            "The key merge_method stands twice: lines 1 and 3. Leave one out.",
        ),
        (
            "merge_method: average\nmodels:\n- model: a/b\n  parameters:\n    weight: 1\n    weight: 2",
            "",
            "The key weight stands twice: lines 5 and 6. Leave one out.",
        ),
        ("# nothing yet", "", "The recipe is empty. Begin with `merge_method:` and `models:`."),
        ("- just\n- a list", "", "The recipe is not a mapping: it is list."),
        ("a: &x 1\nb: *x", "", "The recipe uses a YAML anchor, alias or tag: line 1."),
        ("a: !!python/object/apply:os.system [ls]", "", "The recipe uses a YAML anchor, alias or tag: line 1."),
        ("a: " + "x" * 300_000, "", "The recipe is too long"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_in_one_sentence(text: str, where: str, sentence: str) -> None:
    """Each fault names its field, its reason and what to do."""
    with pytest.raises(InputError) as caught:
        recipe_from_yaml(text)
    assert str(caught.value.problems[0]).startswith(sentence)
    assert caught.value.problems[0].where == where


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["minilm-banking", "minilm-sentiment"], ["banking", "sentiment"]),
        (["bert-a-ft", "bert-b-ft"], ["a", "b"]),
        (["same", "same"], ["same-1", "same-2"]),
        (["alone"], ["alone"]),
        (["x-", "x-y"], ["task-1", "y"]),
    ],
)
def test_tasks_are_what_sets_the_names_apart(names: list[str], short: list[str]) -> None:
    """Shared beginnings and endings of the names are dropped."""
    assert distinctive(names) == short


@pytest.mark.parametrize(
    ("repo_id", "valid"),
    [
        ("a/b", True),
        ("a/b.c-d_e", True),
        ("a", False),
        ("a/b/c", False),
        ("a/../b", False),
        ("-a/b", False),
        ("a/b--c", False),
        ("a/b.git", False),
        ("a/" + "b" * 97, False),
        ("a/b\0", False),
        ("a/b.", False),
    ],
)
def test_repo_ids(repo_id: str, valid: bool) -> None:
    """What the Hub accepts as the name of a repo."""
    assert valid_repo_id(repo_id) is valid


def test_a_parameter_may_have_other_values_in_some_layers() -> None:
    """As mergekit writes it; the first case that fits counts, the default stands behind where no case fits all."""
    cases = [{"filter": "attention", "value": 0.5}, {"filter": "*", "value": 0.9}]
    recipe = recipe_from_dict(PAIR | {"merge_method": "regmean", "parameters": {"alpha": cases}})
    alpha = recipe.bound()["alpha"]
    names = ("a.attention.q", "a.mlp")
    assert [recipe.method.values_for({"alpha": alpha}, name, 0.0)["alpha"] for name in names] == [0.5, 0.9]
    few = recipe_from_dict(PAIR | {"merge_method": "regmean", "parameters": {"alpha": cases[:1]}}).bound()["alpha"]
    assert few.of("a.mlp", 0.5) == 1.0
    assert (str(alpha), str(few)) == ("0.5 in attention, else 0.9", "0.5 in attention, else 1")


@pytest.mark.parametrize(
    ("alpha", "sentence"),
    [
        ([{"filter": "attention", "value": 2}], "alpha = 2: it is out of range. Give a number between 0 and 1."),
        ([{"filters": "attention", "value": 1}], "parameters.alpha.0 = \"{'filters': 'attention', 'value': 1}\""),
        ([0.5, {"value": 1}], "parameters.alpha.0 = '0.5': a value for some layers is written {filter: text, value"),
        ([], "parameters.alpha is an empty list: it needs a value. Give numbers, between 0 and 1."),
        ([0.5, 2], "alpha = 2: it is out of range. Give a number between 0 and 1."),
        ([0.5, [1, 0]], "parameters.alpha = '[0.5, [1, 0]]': a list of values over the layers holds numbers"),
        ([{"value": [0, "much"]}], "alpha = 'much': it is not a number. Give a number, between 0 and 1."),
    ],
)
def test_bad_values_for_layers_are_named(alpha: object, sentence: str) -> None:
    """With the place in the list."""
    with pytest.raises(InputError) as error:
        recipe_from_dict(PAIR | {"merge_method": "regmean", "parameters": {"alpha": alpha}})
    assert str(error.value).startswith(sentence)


def based(*models: Any, base: str | None = "org/base", method: str = "task_arithmetic", **more: Any) -> Recipe:
    """A recipe of a method that needs a base."""
    return recipe_from_dict({"merge_method": method, "models": list(models), "base_model": base, **more})


@pytest.mark.parametrize(
    ("entry", "base"),
    [
        ("org/base", "org/base"),
        ("org/base", "org/base@main"),
        ("./m/base", "./m/../m/base/"),
        ("./base", "./base/"),
        ("~/base", f"{Path.home()}/base"),
    ],
)
def test_a_base_among_the_models_is_left_out_while_the_recipe_is_read(entry: str, base: str) -> None:
    """As other tools' recipes have it: with all that stands beside it, and also where it says nothing at all."""
    listed = {"model": entry, "parameters": {"weight": 9, "of_another_tool": 1}}
    recipe = based(listed, {"model": "a/b", "parameters": {"weight": 0.5}}, "a/c", base=base)
    assert [one.model for one in recipe.models] == ["a/b", "a/c"]
    assert recipe.bound()["weight"] == (0.5, 1.0)
    assert recipe.tasks == ("b", "c")
    assert recipe_from_yaml(recipe.to_yaml()) == recipe


def test_another_revision_of_the_base_is_a_model_like_any_other() -> None:
    """A later state of a repo may be merged with an earlier one."""
    assert len(based("org/base", "a/b", base="org/base@first").models) == 2


def test_a_base_that_the_method_does_not_need_is_no_reason_to_leave_a_model_out() -> None:
    """The average of a base and its fine-tune is a wish like another; that `base_model` is not used is a warning."""
    recipe = based("org/base", "a/b", method="average")
    assert [one.model for one in recipe.models] == ["org/base", "a/b"]
    assert recipe.base is None


def test_a_link_keeps_the_base() -> None:
    """The base is part of the wish."""
    recipe = based("a/b", "a/c", base="org/base@abc")
    opened = recipe_from_link(recipe.to_link())
    assert opened.base is not None
    assert (opened.base.repo_id, opened.base.revision) == ("org/base", "abc")


def test_what_is_wrong_behind_a_base_among_the_models_is_named_by_its_place_in_the_file() -> None:
    """The base was left out, and the field is still the one that its author sees."""
    with pytest.raises(InputError) as error:
        based("org/base", {"model": "a/b", "parameters": {"weight": "heavy"}})
    assert error.value.problem.where == "models.1.parameters.weight"


def test_an_empty_base_is_none() -> None:
    """`base_model:` with nothing behind it."""
    assert based("a/b", base="").base_model is None
    assert based("a/b", base=None).base is None


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties"])
def test_what_a_model_learnt_may_be_taken_away(method: str) -> None:
    """Weights of changes to a base may sum to zero; then they are the shares as they are."""
    models = [{"model": f"a/m{weight}", "parameters": {"weight": weight}} for weight in (1, -1)]
    wish = {"merge_method": method, "base_model": "a/b", "models": models, "parameters": {"normalize": True}}
    assert recipe_from_dict(wish).effective_weights == (1, -1)


def test_evaluation_sets_are_strict_data() -> None:
    """They survive YAML and a link; a misspelt field is named by its place; the title is the name or the data's."""
    data = {
        "merge_method": "average",
        "models": ["a/one", "a/two"],
        "evaluate": [{"data": "ann/reviews:test", "in_domain": ["one"], "labels": {"1": "bad"}}, {"data": HANDED_OVER}],
    }
    recipe = recipe_from_dict(data)
    assert recipe_from_yaml(recipe.to_yaml()) == recipe
    assert recipe_from_link(recipe.to_link()).evaluate == recipe.evaluate
    assert [(one.title, one.is_handed_over) for one in recipe.evaluate] == [
        ("reviews:test", False),
        ("uploaded text", True),
    ]
    with pytest.raises(InputError) as error:
        recipe_from_dict(data | {"evaluate": [{"data": "ann/x", "lables": {}}]})
    assert error.value.problem.where == "evaluate.0.lables"
    assert str(error.value).endswith('Did you mean "labels"?')


def test_all_that_is_wrong_is_said_at_once() -> None:
    """Fields, the method's own parameters and those of each model: none waits for another to be mended."""
    text = """
merge_method: regmean
models: [{model: a/b, parameters: {weight: -1, alpha: 1}}, {model: a/c, wieght: 2}]
parameters: {alpha: 2, rigde: 1}
seed: x
"""
    with pytest.raises(RecipeError) as caught:
        recipe_from_yaml(text)
    assert [one.where for one in caught.value.problems] == [
        *("models.1.wieght", "seed"),
        *("parameters.rigde", "models.0.parameters.alpha", "models.0.parameters.weight", "parameters.alpha"),
    ]
    with pytest.raises(InputError) as caught_too:
        recipe_from_dict({"merge_method": "regmaen", "models": ["a/b", "a/c"], "dtype": "int4"})
    assert [one.where for one in caught_too.value.problems] == ["dtype", "merge_method"]


def test_what_is_at_fault_does_not_hide_the_models() -> None:
    """The models, their base and the place of the result can be looked up as they stand, unless they are at fault."""

    def rest(**data: Any) -> Recipe | None:
        with pytest.raises(RecipeError) as caught:
            recipe_from_dict({"merge_method": "ties", "base_model": "a/base", "extra": 1, **PAIR} | data)
        return caught.value.rest

    output = {"repo_id": "a/merged", "private": True}
    assert rest(output=output) == Recipe(merge_method="ties", base_model="a/base", output=output, **PAIR)  # type: ignore[arg-type]
    assert rest(merge_method="tise", output={"repo_id": "no"}) == Recipe(
        merge_method="average", base_model="a/base", **PAIR
    )  # type: ignore[arg-type]
    assert rest(models=["ana/one", {"model": "ana/two", "parameters": {"t": 1}}]) is not None
    assert rest(models=["ana/one", {"modle": "ana/two"}]) is None


def test_who_has_very_many_faults_is_told_of_some() -> None:
    """A stranger's thousands of unknown names cost no time."""
    for data in ({f"k{place}": 1 for place in range(9000)}, {"parameters": {f"p{place}": 1 for place in range(9000)}}):
        with pytest.raises(RecipeError) as caught:
            recipe_from_dict({"merge_method": "average", **PAIR, **data})
        assert len(caught.value.problems) == PROBLEMS_LIMIT
