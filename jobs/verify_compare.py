"""A merge that was made again beside the published one: files by their SHA-256, tensors by their values.

A published file whose SHA-256 is another one is fetched, compared block by block, and dropped before the next.
"""

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

from hub.client import Hub
from hub.digests import digest_of
from hub.download import fetch, fetchable
from hub.merged import RECIPE_FILE
from hub.repository import RemoteFile, RemoteRepo, read_headers
from jobs.verify_result import SHOWN, Verification
from merging.checkpoint import PICKLES, Checkpoint, SafetensorsFile, addressed, sha256_of
from merging.equality import Difference, difference
from merging.progress import Progress
from merging.tensors import Header

WEIGHTS = ".safetensors"
CODE = (".py", ".pyc", ".so", ".dll")
STATISTICS = "merge-statistics/"
Found = Generator[Progress, None, dict[str, Difference]]


class Place(NamedTuple):
    """Where a published tensor stands here: the folder of its model, and its name there."""

    folder: str
    name: str

    @property
    def label(self) -> str:
        """How it is called."""
        return joined(self.folder, self.name)


@dataclass(frozen=True)
class MadeAgain:
    """The models of a merge in `out`, each in one of `folders` ("" is the root), and the repo that they became.

    `sums` are SHA-256 by path in `out`, as far as the merge has reported them.
    """

    hub: Hub
    repo: RemoteRepo
    out: Path
    folders: Sequence[str]
    sums: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def models(self) -> dict[str, Checkpoint]:
        """Each model that was made, by its folder."""
        return {folder: Checkpoint(self.out / folder, folder or "the merge") for folder in self.folders}

    @cached_property
    def made(self) -> dict[str, str]:
        """Path in the repo -> SHA-256 of every weight file that was made; one file of several names is hashed once."""
        known = {(self.out / path).stat().st_ino: digest for path, digest in self.sums.items()}
        found = {}
        for folder, model in self.models.items():
            for name in model.files:
                path = self.out / folder / name
                place = path.stat().st_ino
                known[place] = known.get(place) or sha256_of(path)
                found[joined(folder, name)] = known[place]
        return found

    @cached_property
    def sources(self) -> dict[Place, str]:
        """Tensor -> SHA-256 of the file that it was made in."""
        return {
            Place(folder, name): self.made[joined(folder, file)]
            for folder, model in self.models.items()
            for file, header in model.headers.items()
            for name in addressed(file, header)
        }

    @cached_property
    def published(self) -> dict[str, RemoteFile]:
        """The published weight files that a loader may take: those in the folders of the models and their modules."""
        places = {path.rpartition("/")[0] for path in self.made} | set(self.folders)
        return {name: file for name, file in weights_of(self.repo).items() if name.rpartition("/")[0] in places}

    @property
    def same(self) -> set[str]:
        """The published weight files that are those that were made."""
        return {name for name, file in self.published.items() if file.sha256 and file.sha256 == self.made.get(name)}

    def place(self, file: str, tensor: str) -> Place:
        """Where a tensor of a published file belongs."""
        inside = (folder for folder in self.folders if folder and file.startswith(f"{folder}/"))
        folder = max(inside, key=len, default="")
        own = file.removeprefix(f"{folder}/") if folder else file
        return Place(folder, joined(own.rpartition("/")[0], tensor))


def weights_of(repo: RemoteRepo) -> dict[str, RemoteFile]:
    """The weight files of a repo; statistics are none."""
    return {
        name: file for name, file in repo.files.items() if name.endswith(WEIGHTS) and not name.startswith(STATISTICS)
    }


def bytes_of(files: Mapping[str, RemoteFile]) -> dict[str, int]:
    """Bytes of every distinct file: one that stands in several places is fetched once."""
    return {file.sha256 or name: file.size for name, file in files.items()}


def joined(folder: str, name: str) -> str:
    """A path in the repo."""
    return f"{folder}/{name}" if folder else name


def compare(work: MadeAgain, scratch: Path) -> Generator[Progress, None, Verification]:
    """All of it; `scratch` is a folder that this makes and removes.

    Raises InputError for published files that are no safetensors, and as `hub.download.fetch`.
    """
    began, same = time.monotonic(), work.same
    yield Progress("compare", 0, 0, message="SHA-256 of the weights")
    reasons: list[str] = []
    found: dict[str, Difference] = {}
    if same != work.published.keys() or same != work.made.keys():
        headers = read_headers(work.hub, work.repo, tuple(work.published))
        reasons += _unmatched(work, headers)
        try:
            found = yield from _by_value(work, headers, scratch)
        finally:
            rmtree(scratch, ignore_errors=True)
    lone = len(reasons)
    too_far = {one.tensor: one for one in found.values() if not one.within}  # a body stands in many folders
    reasons += [
        f"{one.words} differs, where {one.tolerance:.2g} is allowed for {one.dtype}." for one in too_far.values()
    ]
    reasons += [f"The repo also holds {name}, which the recipe does not make." for name in _pickles(work)]
    worst = max(found.values(), key=lambda one: float("inf") if one.relative is None else one.relative, default=None)
    return Verification(
        repo_id=work.repo.repo_id,
        commit=work.repo.sha,
        when=time.time(),
        verdict="different" if reasons else "within" if found else "identical",
        weight_files=len(work.published),
        same_files=len(same),
        tensors=len(work.sources),
        differing=len(found) + lone,
        reasons=_few(reasons),
        largest=worst,
        notes=_few(_beside(work)),
        seconds=round(time.monotonic() - began, 3),
    )


def _unmatched(work: MadeAgain, headers: Mapping[str, Header]) -> list[str]:
    """Tensors that stand in one of the two alone, twice, or in another form."""
    said, seen = [], set()
    for file, header in headers.items():
        for name, spec in header.specs.items():
            place = work.place(file, name)
            mine = work.models[place.folder].specs.get(place.name)
            if place in seen:
                said.append(f"{place.label} stands in two published files.")
            elif mine is None:
                said.append(f"{place.label} is published, and the recipe does not make it.")
            elif (mine.shape, mine.dtype) != (spec.shape, spec.dtype):
                forms = [f"{list(one.shape)} in {str(one.dtype).removeprefix('torch.')}" for one in (spec, mine)]
                said.append(f"{place.label} is {forms[0]} as published, and {forms[1]} by the recipe.")
            seen.add(place)
    return said + [f"{place.label} is not published, and the recipe makes it." for place in work.sources.keys() - seen]


def _by_value(work: MadeAgain, headers: Mapping[str, Header], scratch: Path) -> Found:
    """Every tensor that is not the same bit for bit, of the files that are not the same, by its label."""
    left = {name: file for name, file in work.published.items() if name not in work.same}
    sizes, groups = bytes_of(left), defaultdict(list)
    for name, file in left.items():
        groups[file.sha256 or name].append(name)
    found: dict[str, Difference] = {}
    done = 0
    for key, names in groups.items():
        yield from _fetched(work, names[0], scratch, done, sum(sizes.values()))
        done += sizes[key]
        theirs = SafetensorsFile(scratch / names[0], f"{work.repo.repo_id}: {names[0]}")
        compared: dict[tuple[str, str], Difference | None] = {}  # a body that stands in many folders is read once
        for name in names:
            for tensor, spec in headers[name].specs.items():
                place = work.place(name, tensor)
                mine = work.models[place.folder].specs.get(place.name)
                if mine is None or (mine.shape, mine.dtype) != (spec.shape, spec.dtype):
                    continue
                again = (work.sources[place], tensor)
                if again not in compared:
                    ours = partial(work.models[place.folder].read, place.name)
                    compared[again] = difference(place.label, spec, ours, partial(theirs.read, tensor))
                if (one := compared[again]) is not None:
                    found[place.label] = one
        theirs.close()
        rmtree(scratch, ignore_errors=True)
    return found


def _fetched(work: MadeAgain, name: str, scratch: Path, done: int, total: int) -> Generator[Progress, None, None]:
    """Bring one published file into `scratch`."""
    for step in fetch(work.hub, fetchable(work.repo), [name], scratch):
        yield Progress("compare", done + step.done, total, message=f"published {name}")


def _pickles(work: MadeAgain) -> list[str]:
    """Weights of other kinds that a loader might take."""
    return [
        name for name in work.repo.files if name.endswith(PICKLES) and name.rpartition("/")[0] in {*work.folders, ""}
    ]


def _beside(work: MadeAgain) -> list[str]:
    """What is not as the recipe makes it among the files beside the weights. The card and figures may be anything."""
    said = []
    for path in sorted(work.out.rglob("*")):
        name = path.relative_to(work.out).as_posix()
        if not path.is_file() or name == RECIPE_FILE or path.suffix == WEIGHTS:
            continue
        listed = work.repo.files.get(name)
        if listed is None:
            said.append(f"{name} is not published, and the recipe makes it.")
        elif not _is_listed(path, listed):
            said.append(f"{name} is not the one that the recipe makes.")
    code = [name for name in work.repo.files if name.endswith(CODE)]
    return said + [f"The repo also holds {name}, which is code: nothing here has run it." for name in code]


def _is_listed(path: Path, listed: RemoteFile) -> bool:
    """Whether a file is the one that the Hub lists."""
    with path.open("rb") as file:
        return digest_of(file, path.stat().st_size, listed.digest) == listed.digest


def _few(said: Iterable[str]) -> tuple[str, ...]:
    """The first of many."""
    every = tuple(said)
    more = len(every) - SHOWN
    return every if more <= 0 else (*every[:SHOWN], f"And {more:,} more.")
