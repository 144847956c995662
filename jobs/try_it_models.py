"""Which models are tried: a published merge and its parents, public ones alone, and their files on this disk.

Files are kept by their content, so that a body that stands in many folders is fetched once, and given up when others
need the room. What is kept came from public repos; whether a repo is public is asked each time.
"""

import os
import re
import shutil
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from hub.client import Hub
from hub.download import fetch, fetchable
from hub.merged import MADE_HERE, read_recipe
from hub.repository import RemoteFile, RemoteRepo, open_repo, read_small
from merging.errors import InputError, MergeError
from merging.files import SIDE_FILES
from merging.header import WEIGHT_FILE, WEIGHT_INDEX
from merging.modules import MODULES_FILE, SIDE_LIMIT, modules_of, parse_side
from merging.progress import Progress, size
from merging.recipe import Recipe, valid_repo_id

SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
CONTENT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
BLOBS, LINKED = "files", "now-"
AT_MOST = 8  # parents, and heads, that are asked
BESIDE = 100_000_000  # bytes of tokenizers, configs and the like beside the weights, of the merge and of all parents
Who = Literal["merge", "parent"]


@dataclass(frozen=True)
class Trial:
    """One model that is to answer."""

    who: Who
    title: str
    head: str  # the task that it answers for where heads stay apart, else ""
    repo: RemoteRepo
    folder: str  # in the repo, "" is the root
    files: tuple[str, ...]  # in the repo

    def contents(self, *, weights: bool) -> dict[str, int]:
        """Content -> bytes of its weight files, or of all others."""
        found = [self.repo.files[name] for name in self.files if name.endswith(".safetensors") == weights]
        return {content(file): file.size for file in found}


def content(file: RemoteFile) -> str:
    """The name of a file's content: its SHA-256, git's own hash of a small file."""
    name = file.digest
    if not CONTENT.fullmatch(name):
        raise MergeError("The Hub does not say what is in a file", "it lists no hash of it", "Try again later")
    return name


def trials(hub: Hub, repo_id: str, revision: str | None, limit: int) -> tuple[list[Trial], list[str]]:
    """The merge, by its heads, each before its parents; and notes on parents that cannot be tried.

    Raises InputError for a repo that was not merged here, is not public, or has more than `limit` bytes of weights or
    too many beside them.
    """
    if not valid_repo_id(repo_id):
        raise InputError(f"{repo_id[:100]!r} is not the name of a model", "", "Write owner/name")
    repo = open_repo(hub, repo_id, revision)
    if MADE_HERE not in repo.tags:
        raise InputError(f"{repo_id} cannot be tried here", "it was not merged here", "Open a model that was")
    recipe = read_recipe(hub, repo)
    heads = [task for task in recipe.tasks if f"{task}/config.json" in repo.files][:AT_MOST]
    merged = [_trial(hub, "merge", repo, head, head) for head in heads or [""]]
    if why := too_much(merged, limit):
        raise InputError(f"{repo_id} is not tried here", f"its {why}", "Load it on a machine of your own")
    parents, notes = _parents(hub, recipe, heads)
    if why := too_much(parents, limit):
        parents, notes = [], [f"The parents are not run beside it: their {why}."]
    ordered = [one for head in heads or [""] for one in (*merged, *parents) if one.head == head]
    return ordered, notes


def _parents(hub: Hub, recipe: Recipe, heads: Sequence[str]) -> tuple[list[Trial], list[str]]:
    found, notes = [], []
    beside = [
        (task, entry) for task, entry in zip(recipe.tasks, recipe.models, strict=True) if task in heads or not heads
    ]
    if len(beside) > AT_MOST:
        notes.append(f"Only the first {AT_MOST} of {len(beside)} parents are run beside it.")
    for task, entry in beside[:AT_MOST]:
        try:
            if entry.is_folder or not valid_repo_id(entry.repo_id) or not entry.revision:
                raise InputError(f"{entry.repo_id} is no model of the Hub at a commit")
            repo = open_repo(hub, entry.repo_id, entry.revision)
            found.append(_trial(hub, "parent", repo, "", task if heads else ""))
        except InputError as error:
            notes.append(f"{entry.repo_id} is left out: {error.problem.what}.")
    return found, notes


def too_much(found: Sequence[Trial], limit: int) -> str:
    """What of some models is more than is fetched for a trial, each content counted once; "" where nothing is."""
    for words, weights, most in (("weights", True, limit), ("tokenizers and other small files", False, BESIDE)):
        contents = {name: nbytes for one in found for name, nbytes in one.contents(weights=weights).items()}
        if (total := sum(contents.values())) > most:
            return f"{words} take {size(total)}, at most {size(most)} are fetched"
    return ""


def _trial(hub: Hub, who: Who, repo: RemoteRepo, folder: str, head: str) -> Trial:
    """A model with the files that it is loaded from. Raises InputError where there are no safetensors."""
    start = f"{folder}/" if folder else ""
    own = {name.removeprefix(start): name for name in repo.files if name.startswith(start)}
    wanted = [name for name in ("config.json", WEIGHT_INDEX, *SIDE_FILES) if name in own]
    weights = [WEIGHT_FILE] if WEIGHT_FILE in own else sorted(name for name in own if SHARD.fullmatch(name))
    if not weights:
        raise InputError(f"{repo.repo_id} has no safetensors", "no others are loaded", "Load it on your machine")
    if MODULES_FILE in own:
        body = read_small(hub, repo, own[MODULES_FILE], SIDE_LIMIT)
        for module in modules_of(parse_side(MODULES_FILE, body, repo.repo_id), repo.repo_id):
            weights += [module.weights] if module.weights in own else []
            wanted += [module.config] if module.config in own else []
    title = repo.repo_id if who == "parent" else "The merge"
    return Trial(who, title, head, repo, folder, tuple(own[name] for name in (*wanted, *weights)))


class Shelf:
    """Files of public models by their content, at most `limit` bytes of them; what was used last stays longest."""

    def __init__(self, place: Path, limit: int, reserve: int) -> None:
        self._place, self._limit, self._reserve = place, limit, reserve
        self._blobs = place / BLOBS
        self._blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in place.glob(f"{LINKED}*"):  # of a process that was ended
            shutil.rmtree(left, ignore_errors=True)

    def bring(self, hub: Hub, found: Sequence[Trial]) -> Generator[Progress, None, None]:
        """Fetch what is not here of some models.

        Raises InputError where they are more than the shelf holds, MergeError where the disk has no room.
        """
        needed: dict[str, tuple[RemoteRepo, str]] = {}
        for one in found:
            for name in one.files:
                needed.setdefault(content(one.repo.files[name]), (one.repo, name))
        whole = sum(repo.files[name].size for repo, name in needed.values())
        if whole > self._limit:
            why = f"together they take {size(whole)}, at most {size(self._limit)} are kept here"
            raise InputError("These models are not tried here", why, "Load them on a machine of your own")
        missing = {}
        for key, source in needed.items():
            if (self._blobs / key).is_file():
                os.utime(self._blobs / key)
            else:
                missing[key] = source
        total = sum(repo.files[name].size for repo, name in missing.values())
        self._make_room(total, needed)
        done = 0
        for repo, names in _by_repo(missing.values()):
            with TemporaryDirectory(prefix=LINKED, dir=self._place) as draft:
                for step in fetch(hub, fetchable(repo), names, Path(draft)):
                    yield Progress("try", done + step.done, total, message=f"fetching {repo.repo_id}")
                for name in names:
                    os.utime(Path(draft) / name)  # `fetch` dates what is right by its hash
                    os.replace(Path(draft) / name, self._blobs / content(repo.files[name]))
                    done += repo.files[name].size

    @contextmanager
    def laid_out(self, one: Trial) -> Iterator[Path]:
        """A folder with the files of one model under their names, as long as it is needed."""
        with TemporaryDirectory(prefix=LINKED, dir=self._place) as draft:
            for name in one.files:
                path = Path(draft) / (name.removeprefix(f"{one.folder}/") if one.folder else name)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(self._blobs / content(one.repo.files[name]), path)
            yield Path(draft)

    def _make_room(self, needed: int, stays: Collection[str]) -> None:
        """Give up what was used longest ago, and nothing of what `stays`."""
        kept = sorted(self._blobs.iterdir(), key=lambda path: path.stat().st_mtime)
        taken = sum(path.stat().st_size for path in kept)
        for path in kept:
            if taken + needed <= self._limit:
                break
            if path.name in stays:
                continue
            taken -= path.stat().st_size
            path.unlink()
        if shutil.disk_usage(self._place).free - needed < self._reserve:
            raise MergeError("The disk of this service is full", f"{size(needed)} are to be fetched", "Try it later")


def _by_repo(missing: Iterable[tuple[RemoteRepo, str]]) -> Iterator[tuple[RemoteRepo, list[str]]]:
    """What of each repo is to be fetched."""
    found: dict[tuple[str, str], tuple[RemoteRepo, list[str]]] = {}
    for repo, name in missing:
        found.setdefault((repo.repo_id, repo.sha), (repo, []))[1].append(name)
    return iter(found.values())
