"""What is known of a job from its wish alone: which stages it has, of what models, and where its result goes."""

from dataclasses import dataclass

from jobs.job import EVALUATED_STAGES, STAGES, STATISTICS_STAGES, VERIFY_STAGES, Purpose
from merging.wish import StatisticsWish, VerifyWish, wish_from_yaml


@dataclass(frozen=True)
class Outline:
    """A wish as a list of jobs shows it."""

    purpose: Purpose
    stages: tuple[str, ...]
    method: str
    models: tuple[str, ...]
    repo_id: str  # "" where the wish names none

    @property
    def makes(self) -> str:
        """The repo that the job writes to, "" for a verification."""
        return "" if self.purpose == "verify" else self.repo_id


def outline_of(wish_yaml: str) -> Outline:
    """The outline of a recipe, or of another wish. Raises InputError when it is none."""
    wish = wish_from_yaml(wish_yaml)
    if isinstance(wish, StatisticsWish):
        return Outline("statistics", STATISTICS_STAGES, "statistics", (wish.model,), wish.repo_id or wish.model_id)
    if isinstance(wish, VerifyWish):
        return Outline("verify", VERIFY_STAGES, "verify", (wish.verify,), wish.repo_id)
    models = tuple(entry.model for entry in wish.models)
    stages = EVALUATED_STAGES if wish.evaluate else STAGES
    return Outline("merge", stages, wish.method.name, models, wish.output.repo_id or "")
