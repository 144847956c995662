"""Whether a published merge is what its recipe makes: what must be recorded for that, and what it takes."""

from dataclasses import dataclass

from hub.client import Hub
from hub.merged import read_recipe
from hub.repository import open_repo
from hub.resolve import resolve
from hub.statistics import REFERENCE
from jobs.verify_compare import bytes_of, weights_of
from merging.errors import InputError
from merging.plan import Plan, make_plan
from merging.progress import size
from merging.recipe import ModelEntry, Recipe, valid_repo_id
from merging.wish import COMMIT, VerifyWish, verify_wish


@dataclass(frozen=True)
class VerifyPlan:
    """What a verification will do, known from headers alone."""

    wish: VerifyWish
    recipe: Recipe  # as published, without what is not merged
    pinned: Recipe
    plan: Plan
    published: int  # bytes of the published weights, each distinct file once
    disk_bytes: int  # at most at a time

    @property
    def moved(self) -> int:
        """Bytes that are fetched and written at most."""
        return self.plan.download_bytes + self.plan.output_bytes + self.published

    @property
    def words(self) -> str:
        """`downloads 273 MB and at most 91 MB of published weights, needs at most 375 MB of disk at a time`."""
        fetched = f"downloads {size(self.plan.download_bytes)} and at most {size(self.published)} of published weights"
        return f"{fetched}, needs at most {size(self.disk_bytes)} of disk at a time"


def verifiable(hub: Hub, repo_id: str, revision: str | None = None) -> VerifyPlan:
    """What is to be done to verify a repo, at its newest commit or the one that is named.

    Raises InputError for a repo that was not merged here or cannot be verified, and as `hub.resolve.resolve`.
    """
    if not valid_repo_id(repo_id):
        raise InputError(f"{repo_id[:100]!r} is not the name of a model", "", "Write owner/name")
    repo = open_repo(hub, repo_id, revision)
    recipe = _recorded(repo.repo_id, read_recipe(hub, repo))
    resolved = resolve(hub, recipe).raise_if_impossible()
    plan = make_plan(resolved.recipe, resolved.parents, resolved.base).raise_if_impossible()
    assert plan.supply is not None
    sizes = bytes_of(weights_of(repo))
    compared = plan.output_bytes + plan.supply.beside + max(sizes.values(), default=0)
    return VerifyPlan(
        verify_wish(repo.repo_id, repo.sha),
        recipe,
        resolved.recipe,
        plan,
        sum(sizes.values()),
        max(plan.disk_bytes, compared),
    )


def _recorded(repo_id: str, recipe: Recipe) -> Recipe:
    """The recipe if all that it was made of is recorded in it. Raises InputError that says what is not."""

    def refused(why: str, fix: str = "Merge again to get one that can be") -> InputError:
        return InputError(f"{repo_id} cannot be verified", why, fix)

    needed = [kind for kind in ("gram", "fisher") if kind in recipe.method.needs]
    for entry in (*recipe.models, *([recipe.base] if recipe.base else [])):
        if not _is_pinned(entry):
            raise refused(f"its recipe names {entry.model}, which is no model of the Hub at a commit")
    for entry in recipe.models:
        for kind in needed:
            ref = next((ref for name, ref in entry.statistics.items() if name == kind), None)
            named = f"{kind.title()} statistics of {entry.repo_id}"
            if ref is None:
                raise refused(f"the {named} were collected for it and not published", "Publish them, and merge again")
            match = REFERENCE.fullmatch(ref.source)
            if not ref.sha256 or match is None or not COMMIT.fullmatch(match["revision"] or ""):
                raise refused(f"its recipe does not say which {named} it was made with")
    models = tuple(entry.model_copy(update={"calibration": None}) for entry in recipe.models)
    return recipe.model_copy(update={"models": models, "evaluate": (), "sweep": None})


def _is_pinned(entry: ModelEntry) -> bool:
    return not entry.is_folder and valid_repo_id(entry.repo_id) and bool(COMMIT.fullmatch(entry.revision or ""))
