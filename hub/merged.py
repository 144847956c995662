"""A model that was merged here, read back from its repo: the recipe, the heads, the licence."""

import json
from dataclasses import dataclass

from hub.client import Hub
from hub.repository import CONFIG_LIMIT, open_repo, read_small
from merging.errors import InputError
from merging.recipe import YAML_LIMIT, Recipe, recipe_from_yaml, valid_repo_id

RECIPE_FILE = "recipe.yaml"


@dataclass(frozen=True)
class MergedModel:
    """What a repo says of itself. All text is from strangers: escape it."""

    repo_id: str
    revision: str
    recipe: Recipe  # with pinned revisions, without an output
    folders: tuple[str, ...]  # subfolders that load by themselves; empty when there is one model
    architecture: str  # class that the root's config names, "" when it names none
    license: str
    private: bool
    url: str


def read_merged(hub: Hub, repo_id: str) -> MergedModel:
    """The recipe of a published merge, with this person's own rights. Hostile until it is parsed.

    Raises InputError (no such repo, not open to this person, no recipe, a broken one), SignInNeeded or HubUnavailable.
    """
    if not valid_repo_id(repo_id):
        raise InputError(f"{repo_id[:100]!r} is not the name of a model", "", "Write owner/name")
    repo = open_repo(hub, repo_id)
    if RECIPE_FILE not in repo.files:
        raise InputError(f"{repo_id} has no {RECIPE_FILE}", "it was not merged here", "Open a model that was")
    raw = read_small(hub, repo, RECIPE_FILE, 4 * YAML_LIMIT)
    try:
        recipe = recipe_from_yaml(raw.decode()).without_output()
    except UnicodeDecodeError:
        raise InputError(f"{repo_id} has a broken {RECIPE_FILE}", "it is not text", "Ask its owner") from None
    except InputError as error:
        raise InputError(f"{repo_id} has a {RECIPE_FILE} that cannot be used", str(error), "Ask its owner") from None
    folders = [task for task in recipe.tasks if f"{task}/config.json" in repo.files]
    return MergedModel(
        repo_id=repo.repo_id,
        revision=repo.sha,
        recipe=recipe,
        folders=tuple(folders),
        architecture=_architecture(read_small(hub, repo, "config.json", CONFIG_LIMIT))
        if "config.json" in repo.files
        else "",
        license=repo.license,
        private=repo.private,
        url=f"{hub.url}/{repo.repo_id}",
    )


def _architecture(raw: bytes) -> str:
    """The first class of a config.json, "" for anything else."""
    try:
        named = json.loads(raw).get("architectures")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return str(named[0])[:100] if isinstance(named, list) and named else ""
