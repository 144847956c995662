"""What a merge would do, and all that is wrong with it: for the page, the queue and the command line alike."""

from collections.abc import Callable
from dataclasses import dataclass

from hub.client import Hub
from hub.evaluation_look import evaluation_problems
from hub.resolve import Resolved, check_output, resolve
from merging.errors import MergeError, Problem, errors_of
from merging.glance import strangers
from merging.parent import Parent
from merging.plan import Plan, make_plan
from merging.recipe import Recipe, RecipeError
from merging.recipe_problems import recipe_problems
from merging.supply import disk_problem


@dataclass(frozen=True)
class Preview:
    """What would happen, known without reading a weight."""

    plan: Plan
    recipe: Recipe  # pinned
    parents: tuple[Parent, ...]
    problems: tuple[Problem, ...]  # of models, plan, disk and output together
    weights: tuple[float, ...]  # each model's share after normalisation
    found: tuple[Parent | None, ...] = ()  # one per model, None where it could not be resolved
    base: Parent | None = None  # of a method that needs one

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make it impossible."""
        return errors_of(self.problems)


def make_preview(
    recipe: Recipe,
    hub: Hub,
    *,
    free: int,
    folders_allowed: bool = False,
    with_output: bool = True,
    resolved: Resolved | None = None,
) -> Preview:
    """Plan from headers alone, of what was `resolved` or is now; `free` is the room on the disk in bytes.

    Bad input is in `problems`, not raised. Raises HubUnavailable and SignInNeeded. `with_output` looks at the
    place that the result goes to.
    """
    if resolved is None:
        resolved = resolve(hub, recipe, folders_allowed=folders_allowed)
    problems = list(resolved.problems)
    if errors_of(problems):
        plan = Plan(resolved.recipe, tuple(problems))
        problems += recipe_problems(resolved.recipe)
    else:
        plan = make_plan(resolved.recipe, resolved.parents, resolved.base)
        problems += plan.problems
        problems += [] if plan.errors else strangers(resolved.parents, resolved.base)
        too_large = disk_problem(plan.disk_bytes, free)
        problems += [too_large] if too_large else []
    problems += evaluation_problems(hub, recipe, resolved.parents, folders_allowed=folders_allowed)
    if with_output:
        problems += check_output(hub, recipe)
    weights = recipe.effective_weights
    return Preview(plan, resolved.recipe, resolved.parents, tuple(problems), weights, resolved.found, resolved.base)


class LookedUp(RecipeError):
    """A RecipeError with what was `seen` of its `rest`; None where nothing could be."""

    seen: Preview | None = None


def with_lookups(error: RecipeError, look: Callable[[Recipe], Preview]) -> LookedUp:
    """The error, and what is wrong with the models and the place of the result, which nothing else has to wait for."""
    try:
        seen = look(error.rest) if error.rest is not None else None
    except MergeError:
        seen = None  # the Hub is away: what is known is told
    known = tuple(f"{problem.where}." for problem in error.problems)
    places = ("models.", "base_model.", "output.repo_id.")
    wrong = seen.errors if seen else ()
    more = [one for one in wrong if (where := f"{one.where}.").startswith(places) and not where.startswith(known)]
    told = LookedUp.of([*error.problems, *more])
    told.rest, told.seen = error.rest, seen
    return told
