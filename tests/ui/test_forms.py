"""The form's values are a recipe, and a recipe fills the form."""

import pytest

from merging.errors import InputError, Problem
from merging.method import METHODS, find_method
from merging.parent import Parent
from merging.recipe import Recipe, recipe_from_dict, recipe_from_yaml
from merging.tensors import HeaderSource
from ui.forms import (
    ROWS,
    add_model,
    common_base,
    default_name,
    empty_form,
    fields,
    fill_form,
    hub_id,
    merged_rows,
    methods,
    model_parameters,
    problems_by_field,
    read_form,
    remove_model,
    share,
    shared_key,
    shared_parameters,
)

RECIPE = """
merge_method: regmean
models:
- model: ana/minilm-banking@abc
  parameters: {weight: 2.0}
  task: bank
  statistics: {gram: {source: "ana/stats@abc:merge-statistics/gram.safetensors", sha256: "00"}}
- model: ana/minilm-emotion
  parameters: {weight: 1.0}
  calibration: {data: "ana/texts:en:train", examples: 50, text_column: words}
parameters: {alpha: 0.9, ridge: 0.001}
dtype: bfloat16
seed: 7
output: {repo_id: ana/merged, private: true, root: bank}
"""


def form_of(*models: str, method: str = "average") -> tuple[dict, dict]:
    """A form with these models."""
    draft, values = empty_form()
    for model in models:
        draft = add_model(draft, model)
    return draft, values | {"merge_method": method}


def test_a_recipe_survives_the_form() -> None:
    """Every part of a recipe, also one that has no field, comes back from the form that it filled."""
    recipe = recipe_from_yaml(RECIPE)
    assert read_form(*fill_form(recipe)) == recipe


def test_an_explicit_wish_to_be_public_survives_the_form() -> None:
    """`private: false` has no field, and is not lost."""
    recipe = recipe_from_yaml("merge_method: average\nmodels: [{model: a/b}]\noutput: {private: false}")
    assert read_form(*fill_form(recipe)).output.private is False


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_untouched_form_of_every_method_is_a_recipe(name: str) -> None:
    """Fields and defaults come from the declaration: nothing is typed by hand."""
    recipe = read_form(*form_of("a/one", "a/two", method=name))
    method = find_method(name)
    assert recipe.method is method
    defaults = {one.name: one.default for one in shared_parameters(method)}
    assert {key: recipe.bound()[key] for key in defaults} == defaults


def test_every_declared_parameter_has_a_field() -> None:
    """A parameter of any method is a field of its own or, per model, one in every row."""
    keys = {field.key for field in fields()}
    assert {shared_key(method, one) for method in methods() for one in shared_parameters(method)} <= keys
    assert {f"models.{row}.parameters.{one.name}" for row in range(ROWS) for one in model_parameters()} <= keys


def test_a_cleared_number_is_named_with_its_field() -> None:
    """An empty weight is not silently 1."""
    draft, values = form_of("a/one", "a/two")
    with pytest.raises(InputError, match="weight is empty: it needs a value") as caught:
        read_form(draft, values | {"models.1.parameters.weight": None})
    assert caught.value.problem.where == "models.1.parameters.weight"


def test_a_value_out_of_range_is_named_with_its_field() -> None:
    """alpha = 2 is refused by the recipe, beside the parameters."""
    draft, values = form_of("a/one", "a/two", method="regmean")
    with pytest.raises(InputError, match=r"alpha = 2: it is out of range. Give a number between 0 and 1.") as caught:
        read_form(draft, values | {"regmean.alpha": 2})
    assert list(problems_by_field(caught.value.problems, find_method("regmean"))) == ["parameters"]


def test_removing_a_model_moves_what_was_typed_below_it() -> None:
    """The rows under a removed one keep their own values."""
    draft, values = form_of("a/one", "a/two", "a/three")
    values |= {"models.1.parameters.weight": 2, "models.2.parameters.weight": 3, "models.2.task": "third"}
    recipe = read_form(*remove_model(draft, values, 1))
    assert [(entry.model, entry.parameters["weight"], entry.task) for entry in recipe.models] == [
        ("a/one", 1.0, None),
        ("a/three", 3, "third"),
    ]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("a/one", "a/one is already in the list: a merge takes each model once. Pick another."),
        ("nonsense", "'nonsense' is not the name of a model. Write owner/name or owner/name@revision."),
        ("/etc/passwd/x", "'etc/passwd/x' is not the name of a model. Write owner/name or owner/name@revision."),
    ],
)
def test_what_cannot_be_picked_says_why(model: str, sentence: str) -> None:
    """A model that is there already, and what is no id."""
    draft, _ = form_of("a/one")
    with pytest.raises(InputError) as caught:
        add_model(draft, model)
    assert str(caught.value) == sentence


def test_a_full_form_says_so() -> None:
    """There is no ninth row."""
    draft, _ = form_of(*(f"a/model-{number}" for number in range(ROWS)))
    with pytest.raises(InputError, match=r"The form is full: it has room for 8 models\. Remove one first\."):
        add_model(draft, "a/another")


@pytest.mark.parametrize(
    ("pasted", "model"),
    [
        (" ana/minilm ", "ana/minilm"),
        ("https://hub.example/ana/minilm", "ana/minilm"),
        ("https://hub.example/ana/minilm/tree/main", "ana/minilm"),
        ("https://hub.example/ana/minilm/tree/v2", "ana/minilm@v2"),
    ],
)
def test_a_pasted_link_is_understood(pasted: str, model: str) -> None:
    """The address of a model's page is as good as its id."""
    assert hub_id(pasted) == model


@pytest.mark.parametrize(
    ("models", "name"),
    [
        (["ana/minilm-banking", "bea/minilm-emotion@abc"], "minilm-regmean"),
        (["ana/banking-minilm", "ana/emotion-minilm"], "minilm-regmean"),
        (["ana/bert", "ana/roberta"], "bert-roberta-regmean"),
        (["ana/one"], "one-regmean"),
        ([], ""),
    ],
)
def test_the_default_name_is_predictable(models: list[str], name: str) -> None:
    """What the names share, then the method."""
    assert default_name(models, "regmean") == name


def test_the_default_name_is_always_valid() -> None:
    """However odd or long the models' names are."""
    name = default_name(["a/" + "x" * 90 + "..", "a/__--y" + "z" * 80], "regmean")
    assert Recipe.model_validate(
        {"merge_method": "average", "models": [{"model": "a/b"}], "output": {"repo_id": f"ana/{name}"}}
    )


def test_problems_stand_beside_their_field() -> None:
    """`where` is the path of a field; what has none stands for itself."""
    places = ("models.1.model", "models", "parameters.alpha", "output.repo_id", "dtype", "")
    found = problems_by_field([Problem(where, where=where) for where in places], find_method("average"))
    assert {place: [problem.where for problem in beside] for place, beside in found.items()} == {
        "models.1": ["models.1.model"],
        "": ["models", ""],
        "parameters": ["parameters.alpha", "dtype"],
        "output": ["output.repo_id"],
    }


def test_a_recipe_with_too_many_models_is_refused() -> None:
    """The form says what to do with it instead."""
    many = "\n".join(f"- model: a/m{number}" for number in range(ROWS + 1))
    with pytest.raises(InputError, match="The recipe has 9 models: the form has room for 8"):
        fill_form(recipe_from_yaml(f"merge_method: average\nmodels:\n{many}"))


def test_values_by_layer_are_kept_until_their_field_is_moved() -> None:
    """The form has one field for all layers; what a loaded recipe says of single ones is not lost."""
    cases = [{"filter": "attention", "value": 0.5}, {"value": 0.9}]
    models = [{"model": "ana/one"}, {"model": "ana/two"}]
    recipe = recipe_from_dict({"merge_method": "regmean", "models": models, "parameters": {"alpha": cases}})
    draft, values = fill_form(recipe)
    assert read_form(draft, values).parameters["alpha"] == cases
    assert read_form(draft, values | {"regmean.alpha": 0.3}).parameters["alpha"] == 0.3


@pytest.mark.parametrize("shared", [True, False])
def test_a_models_own_values_by_layer_are_kept_until_their_field_is_moved(shared: bool) -> None:
    """Also where they stand for all models, and when another model's row goes."""
    gradient = {"weight": [1, 0.5, 0]}
    models = [{"model": "a/one"}, {"model": "a/two", "parameters": {} if shared else gradient}]
    recipe = recipe_from_dict(
        {"merge_method": "ties", "models": models, "base_model": "a/base", "parameters": gradient if shared else {}}
    )
    draft, values = fill_form(recipe)
    assert read_form(draft, values).models[1].parameters["weight"] == gradient["weight"]
    assert read_form(*remove_model(draft, values, 0)).models[0].parameters["weight"] == gradient["weight"]
    moved = read_form(draft, values | {"models.1.parameters.weight": 0.3})
    assert moved.models[1].parameters["weight"] == 0.3


def test_a_recipe_with_a_base_survives_the_form() -> None:
    """The base is a field of its own, and a method without one does not get it."""
    recipe = recipe_from_dict(
        {"merge_method": "slerp", "models": [{"model": "a/one"}], "base_model": "a/base@abc", "parameters": {"t": 0.3}}
    )
    draft, values = fill_form(recipe)
    again = read_form(draft, values)
    assert (again.base_model, again.bound()) == ("a/base@abc", recipe.bound())
    assert read_form(draft, values | {"merge_method": "average"}).base_model is None


def test_a_pasted_link_is_a_base_too() -> None:
    """As in the search of the models."""
    draft, values = form_of("a/one", method="slerp")
    assert read_form(draft, values | {"base_model": " https://huggingface.co/a/base "}).base_model == "a/base"


def test_a_row_that_names_the_base_is_left_out_with_all_that_was_typed_there() -> None:
    """The other rows keep what is theirs."""
    draft, values = form_of("a/base", "a/one", "a/two", method="ties")
    values |= {"base_model": "a/base", "models.0.parameters.weight": 5.0, "models.2.parameters.weight": 0.7}
    assert merged_rows(draft, values) == [1, 2]
    recipe = read_form(draft, values)
    assert [entry.model for entry in recipe.models] == ["a/one", "a/two"]
    assert recipe.bound()["weight"] == (1.0, 0.7)
    assert merged_rows(draft, values | {"merge_method": "average"}) == [0, 1, 2]


@pytest.mark.parametrize(
    ("named", "base"),
    [(("a/base", "a/base"), "a/base"), (("a/base", ""), "a/base"), (("a/base", "b/base"), ""), (("", ""), "")],
)
def test_the_base_is_the_one_that_the_cards_agree_on(named: tuple[str, ...], base: str) -> None:
    """A card that names none does not disagree."""
    parents = [Parent("a/x", "", {}, HeaderSource({}), fine_tuned_from=name) for name in named]
    assert common_base(parents) == base


@pytest.mark.parametrize(
    ("method", "parameters", "said"),
    [
        ("average", {}, "25.0% of the merge"),
        ("average", {"normalize": False}, "1 × its values"),
        ("ties", {}, "25.0% of the change to the base"),
        ("task_arithmetic", {}, "1 × its change to the base"),
    ],
)
def test_a_weight_is_told_as_what_it_does(method: str, parameters: dict, said: str) -> None:
    """A share where only the ratios count, else a factor."""
    models = [{"model": "a/one"}, {"model": "a/two", "parameters": {"weight": 3.0}}]
    recipe = recipe_from_dict(
        {"merge_method": method, "models": models, "base_model": "a/base", "parameters": parameters}
    )
    assert share(recipe, recipe.effective_weights[0]) == said


def test_a_method_without_weights_tells_none() -> None:
    """SLERP has its place between the two, which stands in its own field."""
    recipe = recipe_from_dict({"merge_method": "slerp", "models": ["a/one"], "base_model": "a/base"})
    assert share(recipe, recipe.effective_weights[0]) == ""
