"""What a wish for statistics would do, and all that is wrong with it, without reading a weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hub.client import Hub, explained
from hub.datasets import is_local
from hub.identity import Identity, whoami
from hub.resolve import resolve
from hub.statistics import open_statistics
from hub.statistics_place import publishing_problems, target_repo
from merging.architecture import GENERIC, architecture_of
from merging.compatibility import few_tokens, quantised
from merging.errors import InputError, Problem, errors_of
from merging.parent import Parent
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from merging.supply import collected_bytes, disk_problem
from merging.variants import wish_problem
from merging.wish import Place, StatisticsWish


@dataclass(frozen=True)
class StatisticsPreview:
    """What would happen. Without a `parent` the model could not be looked up."""

    wish: StatisticsWish  # the model pinned, the repo named
    parent: Parent | None
    private: bool
    download_bytes: int
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make it impossible."""
        return errors_of(self.problems)


def preview_statistics(wish: StatisticsWish, hub: Hub, *, free: int) -> StatisticsPreview:
    """Look up model, data and place; `free` is the room on the disk in bytes.

    Bad input is in `problems`, not raised. Raises HubUnavailable and SignInNeeded.
    """
    resolved = resolve(hub, recipe_from_dict({"merge_method": "average", "models": [wish.model]}))
    problems = [_moved(problem, "model") for problem in resolved.problems]
    problems += _data_problems(hub, wish)
    if not resolved.parents:
        return StatisticsPreview(wish, None, wish.private, 0, tuple(problems))
    parent = resolved.parents[0]
    problems += _kind_problems(parent, wish)
    plan = make_plan(resolved.recipe, resolved.parents)
    collected = sum(collected_bytes(parent, kind, wish.text.numbers) for kind in wish.collect)
    too_large = disk_problem(plan.download_bytes + collected, free, "this model with its statistics")
    problems += [_moved(too_large, "model")] if too_large else []
    private = wish.private or parent.restricted
    identity = whoami(hub) if hub.signed_in else Identity("")
    problems += publishing_problems(hub, parent.model, wish.collect, wish.publish, private=private, identity=identity)
    changes = {"model": f"{parent.model}@{parent.revision}"}
    if hub.signed_in:
        changes["repo_id"] = target_repo(identity, parent.model, wish.publish)
    return StatisticsPreview(wish.model_copy(update=changes), parent, private, plan.download_bytes, tuple(problems))


def raise_if_telling(hub: Hub, model: str, files: Mapping[str, Path], *, private: bool, place: Place, fix: str) -> None:
    """InputError for a Gram with fewer tokens than inputs that would become public: it tells of single texts.

    `files` is kind -> file of `model` (`owner/name[@revision]`); `private` counts for a repo of one's own alone.
    """
    resolved = resolve(hub, recipe_from_dict({"merge_method": "average", "models": [model]})).raise_if_impossible()
    parent = resolved.parents[0]
    if parent.restricted or (private and place == "own"):
        return
    for path in files.values():
        if few_tokens(parent, open_statistics(path).fact, "text.data"):
            what = f"The statistics of {parent.model} come from few tokens and would be public"
            raise InputError(what, "such a file says much about single texts", fix, "text.data")


def _kind_problems(parent: Parent, wish: StatisticsWish) -> list[Problem]:
    """What such a model cannot give, or cannot be given, as far as its config tells."""
    problems = [_moved(problem, "model") for problem in quantised([parent])]
    if "fisher" in wish.collect:
        problem = wish_problem(parent.config, wish.text, handed_over=wish.text_is_handed_over)
        problems += [problem] if problem else []
    reads = (architecture_of(parent.config) or GENERIC).reads(parent.config)
    if wish.text_is_handed_over and reads != "text":
        why = {"pairs": "each example is a text and its target"}.get(reads, f"its examples are {reads}")
        what = f"{parent.model} cannot be fed with plain text"
        problems.append(Problem(what, why, "Name a dataset of the Hub that has them", "text.data"))
    return problems


def _data_problems(hub: Hub, wish: StatisticsWish) -> list[Problem]:
    """Why a dataset of the Hub cannot be read, as far as its name tells."""
    if wish.text_is_handed_over:
        return []
    if is_local(wish.text.data):
        what, why = f"{wish.text.data[:200]} is a file", "only datasets of the Hub are read by name"
        return [Problem(what, why, "Name owner/dataset, or upload the file", "text.data")]
    name = wish.text.data.partition(":")[0]
    try:
        with explained(hub, name, "text.data"):
            hub.api.auth_check(name, repo_type="dataset")
    except InputError as error:
        return list(error.problems)
    return []


def _moved(problem: Problem, where: str) -> Problem:
    return Problem(problem.what, problem.why, problem.fix, where, problem.severity)
