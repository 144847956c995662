"""A wish for statistics, strict data like a recipe, and how the YAML of the two is told apart."""

from typing import Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from merging.recipe import (
    Calibration,
    ModelEntry,
    Recipe,
    StatisticsKind,
    Strict,
    read_yaml,
    recipe_from_dict,
    refusal,
    valid_repo_id,
)

HANDED_OVER = "handed-over.jsonl"  # as `text.data`: the text that came with the wish, and is no part of it
Place = Literal["own", "model", "pull-request"]


class StatisticsWish(Strict):
    """Which statistics of which model to collect, from what text, and where to publish them.

    `publish`: `own` is the repo `owner/<model>-merge-statistics`, `model` the model's repo, `pull-request` a pull
    request to it. A wish holds no token, and of a text that was handed over with it not a word.
    """

    collect: tuple[StatisticsKind, ...] = Field(min_length=1)
    model: str = Field(min_length=1, max_length=300)  # `owner/name[@revision]`
    text: Calibration
    publish: Place = "own"
    repo_id: str | None = None  # where `own` is, as found when the wish was submitted
    private: bool = False  # statistics of a private or gated model are private in any case
    few_texts: bool = False  # publish for everybody also a Gram with fewer tokens than inputs

    @field_validator("collect")
    @classmethod
    def _each_kind_once(cls, value: tuple[StatisticsKind, ...]) -> tuple[StatisticsKind, ...]:
        return tuple(sorted(set(value), reverse=True))  # Gram first: it is the cheaper one

    @field_validator("model")
    @classmethod
    def _model_is_of_the_hub(cls, value: str) -> str:
        if not valid_repo_id(value.partition("@")[0]):
            raise ValueError("a model of the Hub is owner/name or owner/name@revision")
        return value

    @property
    def model_id(self) -> str:
        """The model without its revision."""
        return ModelEntry(model=self.model).repo_id

    @property
    def revision(self) -> str | None:
        """What stands behind the @, if anything."""
        return ModelEntry(model=self.model).revision

    @property
    def text_is_handed_over(self) -> bool:
        """True when the text is no dataset of the Hub but came with the wish."""
        return self.text.data == HANDED_OVER

    def to_yaml(self) -> str:
        """The wish as a file, without what was left at its default."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def statistics_wish(data: object) -> StatisticsWish:
    """The wish in plain data. Raises InputError that names every field at fault."""
    try:
        return StatisticsWish.model_validate(data)
    except ValidationError as error:
        raise refusal(error, StatisticsWish) from None


def wish_from_yaml(text: str) -> Recipe | StatisticsWish:
    """What a job is to do: a wish for statistics has the key `collect`, all else is a recipe. Raises InputError."""
    data = read_yaml(text)
    if isinstance(data, dict) and "collect" in data:
        return statistics_wish(data)
    return recipe_from_dict(data)
