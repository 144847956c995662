"""A recipe in a file of this machine: folders and files in it are relative to the file."""

import sys
from pathlib import Path
from typing import Any

from jobs.shell import say
from merging.errors import InputError, Problem, gathered
from merging.recipe import EvaluationSet, ModelEntry, Recipe, RecipeError, recipe_from_yaml, valid_repo_id


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file, or in standard input where the path is `-`; its paths are made absolute.

    Raises InputError with the file's path, or RecipeError with every field of the recipe that is at fault.
    """
    found: list[Problem] = []
    try:
        recipe = recipe_from_yaml(_text_of(path))
    except RecipeError as error:
        if error.rest is None:
            raise
        recipe, found = error.rest, list(error.problems)
    base = ModelEntry(model=recipe.base_model) if recipe.base_model else None
    places = [*((entry, f"models.{index}.model") for index, entry in enumerate(recipe.models)), (base, "base_model")]
    for entry, where in places:
        if entry is not None and not entry.is_folder and (path.parent / entry.model).is_dir():
            with gathered(found):
                _hint_at_folder(entry.model, where)
    models = tuple(_absolute(entry, path.parent) for entry in recipe.models)
    base_model = _absolute(base, path.parent).model if base else None
    sets = tuple(_with_its_file(one, path.parent) for one in recipe.evaluate)
    for index, one in enumerate(sets):
        with gathered(found):
            _raise_unless_there(one, f"evaluate.{index}.data")
    changes = {"models": models, "base_model": base_model, "evaluate": sets}
    here = recipe.model_copy(update=changes).without_base_among_models()
    if found:
        refused = RecipeError.of(found)
        refused.rest = here
        raise refused
    return here


def _text_of(path: Path) -> str:
    """The text of a recipe file. Raises InputError with its path."""
    name = "The standard input" if str(path) == "-" else str(path)
    try:
        text = (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode()
    except IsADirectoryError:
        raise InputError(f"{name} is a folder", "a recipe is a YAML file", "Name the file in it", "recipe") from None
    except FileNotFoundError:
        raise InputError(f"{name} cannot be read", "there is no such file", "Check the path", "recipe") from None
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{name} cannot be read", why, "Check the path", "recipe") from None
    except UnicodeDecodeError:
        why = "it is not text in UTF-8"
        raise InputError(f"{name} is no recipe", why, "Name a YAML file, or save it as UTF-8", "recipe") from None
    if not text.strip():
        raise InputError(f"{name} is empty", "", "Begin with `merge_method:` and `models:`", "recipe")
    return text


def _hint_at_folder(name: str, where: str) -> None:
    """A folder that is written like a model of the Hub: refused where it can be none, else a word about it."""
    if not valid_repo_id(name):
        raise InputError(f"{name} is a folder", "a name without ./ is a model of the Hub", f"Write ./{name}", where)
    say(f"note: {name} is taken as a model of the Hub; for the folder of that name write ./{name}")


def _with_its_file(one: EvaluationSet, folder: Path) -> EvaluationSet:
    """The evaluation set with the path of a file of this machine made absolute."""
    from hub.datasets import is_local

    if not is_local(one.data) or one.is_handed_over:
        return one
    return one.model_copy(update={"data": str((folder / Path(one.data).expanduser()).resolve())})


def _raise_unless_there(one: EvaluationSet, where: str) -> None:
    """InputError for a file of this machine that is missing."""
    from hub.datasets import is_local, raise_unless_readable

    if is_local(one.data) and not one.is_handed_over:
        raise_unless_readable(one.data, where)


def _absolute(entry: ModelEntry, folder: Path) -> ModelEntry:
    """The entry with every path of this machine in it made absolute."""
    from hub.datasets import is_local

    def place(text: str) -> str:
        return str((folder / Path(text).expanduser()).resolve())

    change: dict[str, Any] = {"model": place(entry.model)} if entry.is_folder else {}
    change["statistics"] = {
        kind: ref.model_copy(update={"source": place(ref.source)}) if is_local(ref.source) else ref
        for kind, ref in entry.statistics.items()
    }
    if entry.calibration is not None and is_local(entry.calibration.data):
        change["calibration"] = entry.calibration.model_copy(update={"data": place(entry.calibration.data)})
    return entry.model_copy(update=change)
