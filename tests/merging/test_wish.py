"""A wish for statistics is strict data that travels as YAML, beside recipes and never taken for one."""

import pytest

from merging.errors import InputError
from merging.recipe import Recipe, recipe_from_dict
from merging.wish import HANDED_OVER, StatisticsWish, statistics_wish, wish_from_yaml

WISH = {"collect": ["gram"], "model": "ann/a@main", "text": {"data": "ann/texts", "examples": 50}}


def test_yaml_there_and_back_is_the_same_wish() -> None:
    """Without defaults in the file; each kind once, Gram first."""
    wish = statistics_wish(WISH | {"collect": ["fisher", "gram", "fisher"], "publish": "pull-request"})
    assert wish.collect == ("gram", "fisher")
    assert (wish.model_id, wish.revision, wish.text_is_handed_over) == ("ann/a", "main", False)
    text = wish.to_yaml()
    assert wish_from_yaml(text) == wish
    assert "private" not in text
    assert statistics_wish(WISH | {"text": {"data": HANDED_OVER}}).text_is_handed_over


def test_a_recipe_stays_a_recipe() -> None:
    """What tells the two apart is the key `collect`."""
    recipe = recipe_from_dict({"merge_method": "average", "models": ["ann/a", "ann/b"]})
    read = wish_from_yaml(recipe.to_yaml())
    assert isinstance(read, Recipe)
    assert read == recipe
    assert isinstance(wish_from_yaml(statistics_wish(WISH).to_yaml()), StatisticsWish)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "./mine"}, "model = './mine': a model of the Hub is owner/name or owner/name@revision. Mend it."),
        ({"tokens": 3}, "Unknown key tokens: a recipe has no such field."),
        ({"text": {"data": "a/b", "example": 3}}, "Unknown key text.example: a recipe has no such field. "),
        ({"text": {"data": "a/b", "examples": 0}}, "text.examples = '0': input should be greater than or equal to 1."),
        ({"collect": []}, "collect: "),
        ({"collect": ["hessian"]}, "collect.0 = 'hessian': input should be 'gram' or 'fisher'. Mend it."),
        ({"publish": "everywhere"}, "publish = 'everywhere': input should be 'own', 'model' or 'pull-request'."),
    ],
)
def test_what_is_wrong_is_named_by_its_field(changes: dict[str, object], sentence: str) -> None:
    """As in a recipe."""
    with pytest.raises(InputError) as error:
        statistics_wish(WISH | changes)
    assert str(error.value).startswith(sentence)


def test_an_empty_wish_is_said_to_be_empty() -> None:
    """In the words of a recipe, which it could have been."""
    with pytest.raises(InputError, match="The recipe is empty"):
        wish_from_yaml("")
