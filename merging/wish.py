"""Wishes beside a merge, strict data like a recipe: statistics, a verification; and how their YAML is told apart."""

import re
from typing import Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator

from merging.recipe import (
    HANDED_OVER as HANDED_OVER,  # as `text.data`: the text that came with the wish, and is no part of it
)
from merging.recipe import (
    Calibration,
    ModelEntry,
    Recipe,
    StatisticsKind,
    Strict,
    recipe_from_dict,
    refusal,
    valid_repo_id,
)
from merging.yaml_text import read_yaml

Place = Literal["own", "model", "pull-request"]
COMMIT = re.compile(r"[0-9a-f]{40}")
W = TypeVar("W", bound=Strict)


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


class VerifyWish(Strict):
    """Which published merge to make again and compare, at which commit."""

    verify: str = Field(min_length=1, max_length=300)  # `owner/name@commit`

    @field_validator("verify")
    @classmethod
    def _is_pinned(cls, value: str) -> str:
        repo_id, _, commit = value.partition("@")
        if not valid_repo_id(repo_id) or not COMMIT.fullmatch(commit):
            raise ValueError("what is verified is owner/name@commit")
        return value

    @property
    def repo_id(self) -> str:
        """The repo that is looked at."""
        return self.verify.partition("@")[0]

    @property
    def commit(self) -> str:
        """Its commit, in full."""
        return self.verify.partition("@")[2]

    def to_yaml(self) -> str:
        """The wish as a file."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def statistics_wish(data: object) -> StatisticsWish:
    """The wish in plain data. Raises InputError that names every field at fault."""
    return _checked(StatisticsWish, data)


def verify_wish(repo_id: str, commit: str) -> VerifyWish:
    """The wish to verify a repo at a commit. Raises InputError for what is neither."""
    return _checked(VerifyWish, {"verify": f"{repo_id}@{commit}"})


def _checked(kind: type[W], data: object) -> W:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise refusal(error, kind) from None


def wish_from_yaml(text: str) -> Recipe | StatisticsWish | VerifyWish:
    """What a job is to do: `collect` is the key of statistics, `verify` that of a verification, all else is a recipe.

    Raises InputError.
    """
    data = read_yaml(text)
    if isinstance(data, dict) and "collect" in data:
        return statistics_wish(data)
    if isinstance(data, dict) and "verify" in data:
        return _checked(VerifyWish, data)
    return recipe_from_dict(data)
