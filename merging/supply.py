"""Which files of its models a merge needs and when, and how much disk that takes at a time.

Small files and statistics are there from the beginning to the end. A weight file comes when the first output shard
reads it and goes when no later one does; only those of a model from which statistics are collected come before, and
those of all parents stay where the merge is to be compared with them. All output stays. What lies in a folder of the
user's own is used where it is: it is never fetched, and never deleted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from merging.architecture import architecture_of
from merging.checkpoint import addressed
from merging.errors import Problem
from merging.files import files_of, files_of_base
from merging.heads import Arrangement
from merging.parent import Parent, with_base
from merging.progress import size
from merging.recipe import Recipe
from merging.roles import LINEAR, inputs_of
from merging.steps import OutputModel, Shard

NOTES = 1 << 20  # bytes: what a job writes for itself (recipe, plan, journal, report), and what blocks round up
ENTRY = 64  # bytes of a tensor in an index, beside its name


class Piece(NamedTuple):
    """A weight file of one model."""

    model: int  # index of the parent; the base comes behind the parents
    file: str


Needs = Mapping[str, frozenset[Piece]]  # output shard, in the plan's order -> what is fetched for it


@dataclass(frozen=True)
class Supply:
    """What has to be fetched for a merge, in the order in which it is needed. Bytes are those on the disk."""

    needs: Needs
    written: Mapping[str, int]  # output shard -> bytes
    sizes: Mapping[Piece, int]  # bytes of every piece that is fetched
    whole: frozenset[Piece]  # fetched before anything is merged: statistics are collected of these models
    kept: frozenset[Piece]  # not deleted when the merge needs them no more: the models are compared with it
    small: int  # bytes to fetch beside the weights: configs, tokenizers, statistics
    beside: int  # bytes that lie on the disk from the beginning to the end: these, their copies, and our own notes

    @property
    def download_bytes(self) -> int:
        """Bytes to fetch."""
        return self.small + sum(self.sizes.values())

    @cached_property
    def peak(self) -> int:
        """The most bytes that lie on the disk at a time."""
        last, present = self.last_needs(self.needs), set(self.whole)
        most, written = self.bytes_of(present), 0
        for shard, pieces in self.needs.items():
            present |= pieces
            written += self.written[shard]
            most = max(most, written + self.bytes_of(present))
            present = {piece for piece in present if last.get(piece) != shard or piece in self.kept}
        if self.kept:  # all of them, the merge, and the plain average or one merge of a sweep
            most = max(most, self.bytes_of(self.kept) + 2 * written)
        return most + self.beside

    def last_needs(self, shards: Iterable[str]) -> dict[Piece, str]:
        """Piece -> the last of these shards that reads it."""
        return {piece: shard for shard in shards for piece in self.needs[shard]}

    def bytes_of(self, pieces: Iterable[Piece]) -> int:
        """Size of some pieces together."""
        return sum(self.sizes[piece] for piece in pieces)


def supply_of(recipe: Recipe, arranged: Arrangement, shards: Sequence[Shard], outputs: Sequence[OutputModel]) -> Supply:
    """What has to be fetched for these output shards."""
    models = with_base(arranged.parents, arranged.base)
    readers = [_reader(index, model) for index, model in enumerate(models)]
    needs = {}
    for shard in shards:
        pieces: set[Piece] = set()
        for step in shard.steps:
            of_base = (len(arranged.parents),) if arranged.base and step.action == "merge" else ()
            pieces.update(piece for index in (*step.inputs, *of_base) for piece in readers[index](step.name))
        needs[shard.path] = frozenset(piece for piece in pieces if models[piece.model].revision)
    collected = [
        (index, parent, kind, entry.calibration.numbers)
        for index, (entry, parent) in enumerate(zip(recipe.models, arranged.parents, strict=True))
        for kind in recipe.method.needs & {"gram", "fisher"}
        if entry.calibration and kind not in parent.statistics
    ]
    whole = frozenset(Piece(i, file) for i, parent, *_ in collected if parent.revision for file in parent.weights)
    kept = _kept(recipe, arranged.parents, needs) if recipe.evaluate else frozenset()
    wanted = whole.union(kept, *needs.values())
    small = small_bytes(recipe, arranged.parents, arranged.base)
    return Supply(
        needs,
        {shard.path: shard.nbytes for shard in shards},
        {piece: models[piece.model].files.get(piece.file, 0) for piece in sorted(wanted)},
        whole,
        kept,
        small,
        small
        + sum(collected_bytes(parent, kind, numbers) for _, parent, kind, numbers in collected)
        + sum(_statistics_bytes(recipe, parent) for parent in arranged.parents if not parent.revision)
        + sum(arranged.parents[output.parent].files[name] for output in outputs for name in output.files)
        + sum(
            len(step.name) + ENTRY for output in outputs for s in shards if s.path in output.shards for step in s.steps
        )
        + NOTES,
    )


def _kept(recipe: Recipe, parents: Sequence[Parent], needs: Needs) -> frozenset[Piece]:
    """What stays for a comparison: the parents, and what is read of the base where a sweep merges anew."""
    kept = frozenset(Piece(i, file) for i, parent in enumerate(parents) if parent.revision for file in parent.weights)
    return kept | read_of(needs, len(parents)) if recipe.sweep else kept


def read_of(needs: Needs, model: int) -> frozenset[Piece]:
    """What any output shard reads of one model."""
    return frozenset(piece for pieces in needs.values() for piece in pieces if piece.model == model)


def _reader(index: int, model: Parent) -> Callable[[str], tuple[Piece, ...]]:
    """From a tensor of the plan to the files of a model that hold it."""
    where = {name: file for file, header in model.headers.items() for name in addressed(file, header)}
    everything = tuple(Piece(index, file) for file in model.weights)

    def pieces(name: str) -> tuple[Piece, ...]:
        file = where.get(model.disk(name))
        return (Piece(index, file),) if file else everything

    return pieces


def small_bytes(recipe: Recipe, parents: Sequence[Parent], base: Parent | None) -> int:
    """Bytes to fetch beside weights. A folder of this machine (no revision) is here already."""
    found = [(parent, files_of(parent), _statistics_bytes(recipe, parent)) for parent in parents]
    found += [(base, files_of_base(base), 0)] if base else []
    return sum(
        statistics + sum(model.files[name] for name in names if name not in model.weights)
        for model, names, statistics in found
        if model.revision
    )


def weight_bytes(parents: Iterable[Parent]) -> int:
    """Bytes of all weight files that are not on this machine."""
    return sum(parent.weight_bytes for parent in parents if parent.revision)


def _statistics_bytes(recipe: Recipe, parent: Parent) -> int:
    return sum(fact.nbytes for kind, fact in parent.statistics.items() if kind in recipe.method.needs)


def collected_bytes(parent: Parent, kind: str, numbers: str) -> int:
    """What statistics that are still to be collected take at most: layers that share a Gram count each for itself."""
    specs, architecture = parent.source.specs, architecture_of(parent.config)
    if kind == "fisher" or architecture is None:
        return 4 * sum(spec.numel for spec in specs.values())
    roles = [(architecture.role(name, spec.shape).kind, spec.shape) for name, spec in specs.items()]
    widths = [inputs_of(role, shape) for role, shape in roles if role in LINEAR]
    each = 2 if numbers == "bfloat16" else 4
    return sum(each * width * (width + 1) // 2 for width in widths)


def disk_problem(needed: int, free: int, what: str = "this merge") -> Problem | None:
    """The problem of a disk with `free` bytes that cannot hold the bytes that `what` needs at a time."""
    if needed <= free:
        return None
    return Problem(
        "Not enough disk",
        f"{what} needs up to {size(needed)} at a time, {size(free)} are free",
        "Free some space, or take smaller models",
    )
