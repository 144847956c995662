"""The k largest magnitudes of a tensor that need not fit into memory: an exact threshold from a few readings.

A non-negative float32 and its bit pattern, taken as a number, stand in the same order. The first reading counts the
upper 16 bits of every magnitude; the second collects, of the one bin in which the k-th largest lies, the lower 16 bits
and their places. Fine-tuned bfloat16 weights can differ from their base by few distinct amounts, so that the bin is
full: then the second reading counts the lower bits too, and a third one looks for the place where the ties end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COLLECTED = 1 << 21  # values of all bins together that are kept, 10 bytes each
LOW = 1 << 16

Block = tuple[int, Sequence[Tensor]]  # index of its first value; the magnitudes of each tensor, 1-D float32
Blocks = Callable[[], Iterator[Block]]


@dataclass(frozen=True)
class Threshold:
    """The values to keep: all above `value`, and those equal to it up to the index `last` of the flattened tensor."""

    value: float
    last: int

    def trim(self, values: Tensor, start: int) -> Tensor:
        """The values of the block that begins at `start`, 1-D float32, in place: zero where they are not kept."""
        if self.value == 0:
            return values
        ties = max(0, min(len(values), self.last + 1 - start))
        below = float(np.nextafter(np.float32(self.value), np.float32(0)))
        for part, limit in ((values[:ties], below), (values[ties:], self.value)):
            if len(part):
                torch.hardshrink(part, limit, out=part)
        return values


KEEP_ALL = Threshold(0.0, -1)
KEEP_NONE = Threshold(float("inf"), -1)


def thresholds(blocks: Blocks, counts: Sequence[int], size: int) -> list[Threshold]:
    """The threshold of the `counts[i]` largest magnitudes of each tensor i, of `size` values each.

    Of equal magnitudes the ones with the lower index are kept. `blocks()` reads the magnitudes again, in order; it is
    called two or three times. The result does not depend on how the tensor is cut into blocks.
    """
    searches = [_Search(count, size) for count in counts]
    if any(search.result is None for search in searches):
        _read(blocks, searches, _Search.count_upper)
    for search in searches:
        search.find_bin()
    if sum(search.held for search in searches if search.result is None) > COLLECTED:
        _read(blocks, searches, _Search.count_lower)
        for search in searches:
            search.find_pattern()
        _read(blocks, searches, _Search.find_last)
    else:
        _read(blocks, searches, _Search.collect)
        for search in searches:
            search.select()
    return [search.result or KEEP_ALL for search in searches]


def _read(blocks: Blocks, searches: Sequence["_Search"], visit: Callable[["_Search", Tensor, int], None]) -> None:
    """Show every block to the searches that are not at their end; no block more than they need."""
    if all(search.result for search in searches):
        return
    for start, magnitudes in blocks():
        for search, values in zip(searches, magnitudes, strict=True):
            if search.result is None:
                visit(search, values, start)
        if all(search.result for search in searches):
            return


class _Search:
    """The search for one tensor's threshold."""

    def __init__(self, count: int, size: int) -> None:
        self.result = KEEP_NONE if count == 0 else KEEP_ALL if count >= size else None
        self.rank = count  # of the threshold, from the largest: among all values, then in its bin, then in its pattern
        self.held = 0  # values in the bin, then equal to the threshold
        self._size, self._bin = size, 0
        self._upper = self._lower = torch.empty(0, dtype=torch.int64)
        self._found: list[tuple[np.ndarray, np.ndarray]] = []  # lower bits, places

    def count_upper(self, magnitudes: Tensor, _start: int) -> None:
        counted = torch.bincount(_upper(magnitudes), minlength=LOW >> 1).cpu()
        self._upper = self._upper + counted if len(self._upper) else counted

    def find_bin(self) -> None:
        """The bin of the threshold. A bin that is kept whole needs no further search."""
        if self.result is None:
            self._bin, self.rank, self.held = _from_above(self._upper, self.rank)
            if self.rank == self.held:
                self._finish(0, self._size)

    def collect(self, magnitudes: Tensor, start: int) -> None:
        """Keep the lower bits and the places of what lies in the bin."""
        places = _equal(_upper(magnitudes), self._bin)
        self._found.append((_lower(magnitudes)[places].cpu().numpy().view(np.uint16), places.cpu().numpy() + start))

    def select(self) -> None:
        """The threshold among what was collected."""
        if self.result is None:
            lower, places = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
            pattern = int(np.partition(lower, len(lower) - self.rank)[len(lower) - self.rank])
            ties = self.rank - int((lower > pattern).sum())
            self._finish(pattern, int(places[lower == pattern][ties - 1]))

    def count_lower(self, magnitudes: Tensor, _start: int) -> None:
        low = _lower(magnitudes)[_equal(_upper(magnitudes), self._bin)]
        counted = torch.bincount(low.to(torch.int32) & (LOW - 1), minlength=LOW).cpu()
        self._lower = self._lower + counted if len(self._lower) else counted

    def find_pattern(self) -> None:
        """The lower bits of the threshold; who is equal to it is known already when all of them or zeros are kept."""
        if self.result is None:
            self._pattern, self.rank, self.held = _from_above(self._lower, self.rank)
            if self.rank == self.held or (self._bin, self._pattern) == (0, 0):
                self._finish(self._pattern, self._size)

    def find_last(self, magnitudes: Tensor, start: int) -> None:
        """Count what is equal to the threshold, up to the last one that is kept."""
        equal = _equal(magnitudes, _value(self._bin, self._pattern))
        if len(equal) >= self.rank:
            self._finish(self._pattern, start + int(equal[self.rank - 1]))
        self.rank -= len(equal)

    def _finish(self, pattern: int, last: int) -> None:
        self.result = Threshold(_value(self._bin, pattern), last)


def _upper(magnitudes: Tensor) -> Tensor:
    """The upper 16 bits of each value: sign, exponent and 7 bits of the fraction."""
    return magnitudes.view(torch.int16)[1::2].contiguous()  # little-endian; a strided view is counted slowly


def _lower(magnitudes: Tensor) -> Tensor:
    return magnitudes.view(torch.int16)[::2]


def _value(upper: int, lower: int) -> float:
    return float(np.array(upper * LOW + lower, dtype=np.uint32).view(np.float32))


def _equal(values: Tensor, wanted: float) -> Tensor:
    """The places at which `wanted` stands."""
    if values.is_cuda:
        return (values == wanted).nonzero().flatten()
    return torch.from_numpy(np.flatnonzero(values.numpy() == values.numpy().dtype.type(wanted)))  # torch: ten times


def _from_above(counts: Tensor, rank: int) -> tuple[int, int, int]:
    """The place of the value of that rank, counted from the largest; its rank there, and how many there are."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    held = int(counts.flip(0)[place])
    return len(counts) - 1 - place, rank - int(above[place]) + held, held
