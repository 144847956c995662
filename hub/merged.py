"""A model that was merged here, read back from its repo: the recipe, the heads, the licence."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hub.client import Hub
from hub.how_to_load import Loadable, loadable_from
from hub.merge_report import REPORT_FILE, REPORT_LIMIT, read_report
from hub.repository import CONFIG_LIMIT, THREADS, RemoteRepo, open_repo, read_small
from merging.errors import InputError
from merging.json_text import plain_json
from merging.modules import SENTENCE_FILES
from merging.recipe import Recipe, recipe_from_yaml, valid_repo_id
from merging.yaml_text import YAML_LIMIT

RECIPE_FILE = "recipe.yaml"
MADE_HERE = "merge-my-models"  # a tag of every card that is written here


@dataclass(frozen=True)
class MergedModel:
    """What a repo says of itself. All text is from strangers: escape it."""

    repo_id: str
    revision: str
    recipe: Recipe  # with pinned revisions, without an output
    folders: tuple[str, ...]  # subfolders that load by themselves; empty when there is one model
    models: tuple[Loadable, ...]  # of each of these folders, or the one at the root
    license: str
    private: bool
    url: str
    made_here: bool = False  # its card says so
    gated: bool = False
    weight_bytes: int = 0  # of all its models, each file once
    report: dict[str, Any] | None = None  # `evaluation` and `differences`, see `hub.merge_report`


def read_merged(hub: Hub, repo_id: str) -> MergedModel:
    """The recipe of a published merge, with this person's own rights. Hostile until it is parsed.

    Raises InputError (no such repo, not open to this person, no recipe, a broken one), SignInNeeded or HubUnavailable.
    """
    if not valid_repo_id(repo_id):
        raise InputError(f"{repo_id[:100]!r} is not the name of a model", "", "Write owner/name")
    repo = open_repo(hub, repo_id)
    recipe = read_recipe(hub, repo)
    folders = [task for task in recipe.tasks if f"{task}/config.json" in repo.files]
    return MergedModel(
        repo_id=repo.repo_id,
        revision=repo.sha,
        recipe=recipe,
        folders=tuple(folders),
        models=_models(hub, repo, folders),
        license=repo.license,
        private=repo.private,
        url=f"{hub.url}/{repo.repo_id}",
        made_here=MADE_HERE in repo.tags,
        gated=repo.gated,
        weight_bytes=sum(
            {
                file.sha256 or name: file.size for name, file in repo.files.items() if name.endswith(".safetensors")
            }.values()
        ),
        report=_report(hub, repo),
    )


def read_recipe(hub: Hub, repo: RemoteRepo) -> Recipe:
    """The recipe in a repo, without its output. Raises InputError where there is none, and for a broken one."""
    repo_id = repo.repo_id
    if RECIPE_FILE not in repo.files:
        what, why = f"{repo_id} was not merged by Merge My Models", f"it has no {RECIPE_FILE}"
        raise InputError(what, why, "Name a model that was")
    raw = read_small(hub, repo, RECIPE_FILE, 4 * YAML_LIMIT)
    try:
        return recipe_from_yaml(raw.decode()).without_output()
    except UnicodeDecodeError:
        raise InputError(f"{repo_id} has a broken {RECIPE_FILE}", "it is not text", "Ask its owner") from None
    except InputError as error:
        raise InputError(f"{repo_id} has a {RECIPE_FILE} that cannot be used", str(error), "Ask its owner") from None


def _report(hub: Hub, repo: RemoteRepo) -> dict[str, Any] | None:
    """The figures of the merge; None where it has none, or none that can be used."""
    if REPORT_FILE not in repo.files:
        return None
    try:
        return read_report(read_small(hub, repo, REPORT_FILE, REPORT_LIMIT), repo.repo_id)
    except InputError:
        return None  # the page of a model stands without its figures


def _models(hub: Hub, repo: RemoteRepo, folders: Sequence[str]) -> tuple[Loadable, ...]:
    """How each model is loaded, by the small files in its folder; that at the root where there is no folder."""
    with ThreadPoolExecutor(THREADS) as pool:
        return tuple(pool.map(lambda folder: _model(hub, repo, folder), folders or [""]))


def _model(hub: Hub, repo: RemoteRepo, folder: str) -> Loadable:
    def data(name: str) -> Any:
        path = f"{folder}/{name}" if folder else name
        try:
            return plain_json(read_small(hub, repo, path, CONFIG_LIMIT)) if path in repo.files else None
        except ValueError:
            return None

    config, modules = data("config.json"), data(SENTENCE_FILES[0])
    sentence_config = data(SENTENCE_FILES[1]) if modules else None
    config = config if isinstance(config, dict) else {}
    return loadable_from(config, folder, embeds=bool(modules), sentence_config=sentence_config)
