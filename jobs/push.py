"""`cli.py push`: a merged folder of this machine becomes a repo, without this machine's paths in it."""

import hashlib
import os
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hub.card import render_card
from hub.card_text import escape, front_matter
from hub.client import Hub
from hub.merge_report import REPORT_FILE, public_report
from hub.pictures import write_pictures
from hub.publish import Published, portable, publish, publishable, without_local_paths
from hub.resolve import resolve, result_is_private
from hub.upload import watched
from jobs.job import read_json, write_atomically
from jobs.local import REPORT
from merging.checkpoint import sha256_of
from merging.errors import InputError
from merging.parent import Parent
from merging.progress import Progress
from merging.recipe import Recipe, recipe_from_yaml

INTENT = ".merge-push.json"  # in the folder: hidden, so never published
RECIPE, CARD = "recipe.yaml", "README.md"


@dataclass(frozen=True)
class Pushed:
    """A published folder, and what its owner should know of it."""

    published: Published
    private: bool
    note: str = ""


def push_here(hub: Hub, folder: Path, repo_id: str, *, private: bool) -> Generator[Progress, None, Pushed]:
    """Publish a merged folder as a new repo, once: the same files again are the same commit.

    What is published is a copy made of hard links; the folder itself stays as it is. Private when asked, and when
    a parent is private, gated or out of sight. Raises InputError for a folder that is no model,
    or no merge, and as `publish`.
    """
    yield Progress("publish", 0, 1, "commits", repo_id)
    names = publishable(folder)
    if not (folder / REPORT).is_file():
        why = "it has no report of a merge"
        raise InputError(f"{folder} was not made by `merge`", why, "Push the folder that `merge` wrote", "folder")
    recipe = _recipe(folder)
    seen, base, all_seen = _parents(hub, recipe)
    note = ""
    if not private and not all_seen:
        private, note = True, f"{repo_id} is private: not every parent in {RECIPE} can be seen"
    if not private and recipe is not None and result_is_private(recipe, seen, base):
        private, note = True, f"{repo_id} is private, as a parent is"
    identity = hashlib.sha256("".join(f"{name}\0{sha256_of(folder / name)}\n" for name in names).encode()).hexdigest()
    try:
        copy = TemporaryDirectory(prefix=".merge-push-", dir=folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written", error.strerror or "", "Push a copy of it") from None
    with copy as name:
        _fill(Path(name), folder, names, recipe, (seen, base), repo_id)
        published = yield from watched(
            lambda meter: publish(
                hub,
                Path(name),
                repo_id,
                private=private,
                job_id=f"push-{identity[:16]}",
                message="Upload of a merge",
                intent=folder / INTENT,
                meter=meter,
            )
        )
    return Pushed(published, private, note)


def _recipe(folder: Path) -> Recipe | None:
    try:
        return recipe_from_yaml((folder / RECIPE).read_text())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise InputError(f"{folder / RECIPE} cannot be read", "it is not text", "Mend or remove it") from None


def _parents(hub: Hub, recipe: Recipe | None) -> tuple[Sequence[Parent], Parent | None, bool]:
    """The parents and the base that are models of the Hub, as far as they can be seen, and whether all can.

    Folders have no visibility.
    """
    if recipe is None:
        return (), None, True
    entries = tuple(portable(entry) for entry in recipe.models if not entry.is_folder)
    base_model = recipe.base_model if recipe.base and not recipe.base.is_folder else None
    asked = recipe.model_copy(update={"models": entries, "base_model": base_model})
    resolved = resolve(hub, asked)
    all_seen = None not in resolved.found and (resolved.base is not None or asked.base is None)
    return [parent for parent in resolved.found if parent is not None], resolved.base, all_seen


def _fill(
    copy: Path,
    folder: Path,
    names: Sequence[str],
    recipe: Recipe | None,
    seen: tuple[Sequence[Parent], Parent | None],
    repo_id: str,
) -> None:
    """Link every file into the copy; write the recipe without local paths, and a card where there is none."""
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / name, copy / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(folder / name, copy / name)
    public = None if recipe is None else without_local_paths(recipe)
    if public is not None and public != recipe:
        write_atomically(copy / RECIPE, public.to_yaml())
    if CARD in names:
        return
    report, (parents, base) = read_json(folder / REPORT), seen
    if public is not None and report and len(parents) == len(public.models):
        drawn = write_pictures(report, copy)
        write_atomically(copy / CARD, render_card(public, parents, report, base=base, repo_id=repo_id, pictures=drawn))
        write_atomically(copy / REPORT_FILE, public_report(report))
    else:
        write_atomically(copy / CARD, _plain_card(public, parents, repo_id))


def _plain_card(recipe: Recipe | None, parents: Sequence[Parent], repo_id: str) -> str:
    """A card that says no more than is known."""
    tags = ["merge", "merge-my-models", *([recipe.method.name] if recipe else [])]
    bases = {"base_model": list(dict.fromkeys(parent.model for parent in parents)), "base_model_relation": "merge"}
    text = "How this model was made is not recorded."
    if recipe is not None:
        text = f"{len(recipe.models)} models merged by {escape(recipe.method.title)}: see `{RECIPE}` in this repo."
    head = front_matter({"library_name": "transformers", **(bases if parents else {}), "tags": tags})
    return f"{head}\n# {escape(repo_id.rpartition('/')[2])}\n\n{text}\n\nMade with Merge My Models.\n"
