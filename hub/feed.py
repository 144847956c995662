"""The inputs of a merge on their way: fetched when an output shard needs them, deleted when no later one does.

Only weight files that were fetched into a job's own folders are ever deleted. See `merging.supply` for what is needed
when, and for the peak of the disk that is kept here.
"""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import Self, TypeVar

from hub.client import Hub
from hub.download import REST, Downloads, facts_of, finished, is_right
from merging.checkpoint import Checkpoint
from merging.parent import Parent
from merging.progress import Progress
from merging.steps import Shard
from merging.supply import Piece, Supply

T = TypeVar("T")


class HubFeed:
    """The `Feed` of `merging.engine` for models of the Hub; those that are folders of the user's are left alone.

    `models` are the parents, then the base; what is fetched of one comes into the folder of its `Checkpoint`. While a
    shard is made, what the next one needs is fetched as far as `limit` bytes on the disk allow. An error of that is
    raised where the file is needed. Use it in a `with` block: its end stops what is under way.
    """

    def __init__(self, hub: Hub, supply: Supply, models: Sequence[Parent], limit: int) -> None:
        self._supply, self._models, self._limit = supply, models, limit
        self._downloads = Downloads(hub)
        self._order: list[str] = []  # output shards that are left
        self._last: dict[Piece, str] = {}
        self._here: set[Piece] = set()  # on the disk, or on its way
        self._coming: dict[Piece, Future[None]] = {}
        self._fetched = self._written = 0  # bytes that earlier starts fetched and wrote

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._downloads.close()
        self._clear()

    # For the engine

    def begin(self, shards: Sequence[Shard]) -> None:
        """These output shards are left, in this order: what only others needed, and what is not whole, goes."""
        self._order = [shard.path for shard in shards]
        self._last = self._supply.last_needs(self._order)
        self._clear()
        for index, model in enumerate(self._models):
            for file in model.weights if model.revision else ():
                piece, path = Piece(index, file), self._path(Piece(index, file))
                if (piece in self._last or piece in self._supply.kept) and is_right(path, facts_of(model, file)):
                    self._here.add(piece)
                else:
                    path.unlink(missing_ok=True)
        self._fetched = self._supply.bytes_of(self._here & self._last.keys())
        self._written = sum(self._supply.written.values()) - sum(self._supply.written[path] for path in self._order)

    def needs_room(self, shard: Shard) -> bool:
        """Whether the inputs of that shard fit on the disk only when those before it are released."""
        there = self._here | self._supply.needs[shard.path]
        return self._room(self._order.index(shard.path)) < self._supply.bytes_of(there)

    def bring(self, shard: Shard) -> Iterator[Progress]:
        """Fetch what that shard reads, then begin with what the next one reads.

        Raises the errors of `hub.download.fetch`.
        """
        needs = self._supply.needs[shard.path]
        for piece in sorted(needs - self._here):
            self._start(piece)
        coming = [self._coming[piece] for piece in needs if piece in self._coming]
        for _ in finished(coming):
            yield Progress("fetch", 0, 0, message=f"fetching the inputs of {shard.path}")
        for piece in needs:
            self._coming.pop(piece, None)
        self._ahead(self._order.index(shard.path))

    def release(self, shard: Shard) -> None:
        """Delete what no later shard reads."""
        for piece in [piece for piece in self._here - self._supply.kept if self._last[piece] == shard.path]:
            self._source(piece.model).drop(piece.file)
            self._path(piece).unlink(missing_ok=True)
            self._here.remove(piece)

    # For a stage

    def watched(self, work: Generator[Progress, None, T]) -> Generator[Progress, None, T]:
        """The reports of a merge with this feed: bytes fetched and bytes written are one count."""
        written = 0
        try:
            while True:
                try:
                    step = next(work)
                except StopIteration as end:
                    value: T = end.value
                    return value
                if step.unit != "bytes" or (step.stage == "merge" and not step.total):
                    yield step
                    continue
                written = max(written, step.done, self._written)
                yield self._counted(step, written)
        finally:
            work.close()

    def _counted(self, step: Progress, written: int) -> Progress:
        fetching = self._supply.bytes_of(self._last)
        done = min(fetching, self._fetched + self._downloads.done)
        kept = self._fetched + self._downloads.kept + self._written
        total = fetching + sum(self._supply.written.values())
        return replace(step, stage="merge", done=done + written, total=total, kept=kept)

    # What lies where

    def _ahead(self, place: int) -> None:
        """Begin to fetch what the shard behind that place needs, as far as the disk allows."""
        if place + 1 == len(self._order):
            return
        room = self._room(place) - self._supply.bytes_of(self._here)
        for piece in sorted(self._supply.needs[self._order[place + 1]] - self._here):
            if self._supply.sizes[piece] <= room:
                room -= self._supply.sizes[piece]
                self._start(piece)

    def _room(self, place: int) -> int:
        """Bytes that inputs may take while the shard of that place is made."""
        outputs = self._written + sum(self._supply.written[path] for path in self._order[: place + 1])
        return self._limit - self._supply.beside - outputs

    def _start(self, piece: Piece) -> None:
        model, folder = self._models[piece.model], self._source(piece.model).folder
        facts = facts_of(model, piece.file)
        self._here.add(piece)
        self._coming[piece] = self._downloads.start(model.model, model.revision, piece.file, facts, folder)

    def _source(self, model: int) -> Checkpoint:
        source = self._models[model].source
        assert isinstance(source, Checkpoint)
        return source

    def _path(self, piece: Piece) -> Path:
        return self._source(piece.model).folder / piece.file

    def _clear(self) -> None:
        """Delete what was begun to be fetched."""
        for index, model in enumerate(self._models):
            if model.revision:
                rmtree(self._source(index).folder / REST, ignore_errors=True)
