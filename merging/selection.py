"""The k largest magnitudes of a tensor that need not fit into memory: an exact threshold from two or three readings.

The first reading takes a sample: every 251st value or so. Between two values of it that stand a little above and below
the wanted rank lies the threshold; the second reading counts what is above both and collects what lies between. Where
one of the two is a value that very many share (fine-tuned bfloat16 weights differ from their base by few amounts), they
are counted in place of being collected. A third reading finds where the last kept one of equal magnitudes stands.
Should the sample mislead, the threshold is found by halving the range of bit patterns, a reading each time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

STRIDE = 251  # a prime: no row or column length of a matrix has a period in common with it
SAMPLED = 1 << 13  # values of a small tensor's sample, at least
DEVIATIONS = 5  # of the rank in the sample, on each side
SHARED = 0.01  # share of the sample that one value makes: it is counted in place of being collected
COLLECTED = 1 << 22  # values that are kept between the two bounds, 12 bytes each

Blocks = Callable[[], Iterator[tuple[int, Sequence[Tensor]]]]
"""The tensor in blocks, in order: (index of the first value, magnitudes of each model, 1-D float32)."""


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
KEEP_NONE = Threshold(math.inf, -1)


def thresholds(blocks: Blocks, counts: Sequence[int], size: int) -> list[Threshold]:
    """The threshold of the `counts[i]` largest magnitudes of each model i, of `size` values each.

    Of equal magnitudes those with the lower index are kept. `blocks()` reads the tensor again. The result does not
    depend on how it is cut.
    """
    searches = [_Search(count, size) for count in counts]
    _read(blocks, searches, _Search.unfinished, _Search.sample)
    for search in filter(_Search.unfinished, searches):
        search.choose_bounds()
    _read(blocks, searches, _Search.unfinished, _Search.look_between)
    for search in filter(_Search.unfinished, searches):
        search.decide()
    while any(search.misled() for search in searches):
        _read(blocks, searches, _Search.misled, _Search.count_above)
        for search in filter(_Search.misled, searches):
            search.halve()
    _read(blocks, searches, _Search.unfinished, _Search.find_last)
    return [search.result or KEEP_ALL for search in searches]


def _read(
    blocks: Blocks,
    searches: Sequence["_Search"],
    wants: Callable[["_Search"], bool],
    visit: Callable[["_Search", Tensor, int], None],
) -> None:
    """Show the blocks to the searches that want them, as long as there are any."""
    if not any(map(wants, searches)):
        return
    for start, magnitudes in blocks():
        for search, values in zip(searches, magnitudes, strict=True):
            if wants(search):
                visit(search, values, start)
        if not any(map(wants, searches)):
            return


class _Search:
    """The search for one model's threshold."""

    def __init__(self, count: int, size: int) -> None:
        self.result = KEEP_NONE if count == 0 else KEEP_ALL if count >= size else None
        self._count, self._size = count, size
        self._stride = min(STRIDE, size // SAMPLED) | 1
        self._parts: list[np.ndarray] = []  # of the sample; then the values between the bounds
        self._places: list[np.ndarray] = []  # where the latter stand
        self._low = self._high = 0.0
        self._few_low = self._few_high = True  # few share this bound: they are collected like what lies between
        self._above = self._at_high = self._between = self._at_low = 0
        self._range = (0, 0)  # of bit patterns, when the sample misled
        self._value: float | None = None  # the threshold
        self._rank = 0  # of the last kept one among those equal to it

    def unfinished(self) -> bool:
        return self.result is None

    def misled(self) -> bool:
        return self.result is None and self._value is None

    def sample(self, magnitudes: Tensor, start: int) -> None:
        self._parts.append(magnitudes[-start % self._stride :: self._stride].cpu().numpy().copy())

    def choose_bounds(self) -> None:
        """Two values of the sample around the wanted rank."""
        sample, self._parts = np.concatenate(self._parts), []
        share = self._count / self._size
        rank, width = share * len(sample), DEVIATIONS * math.sqrt(share * (1 - share) * len(sample)) + 1
        high, low = (len(sample) - math.floor(rank - width), len(sample) - math.ceil(rank + width))
        sample.partition([place for place in (low, high) if 0 <= place < len(sample)] or [0])
        self._high = float(sample[high]) if high < len(sample) else math.inf
        self._low = float(sample[low]) if low >= 0 else 0.0
        few = SHARED * len(sample)
        self._few_high = self._high > self._low and bool(np.count_nonzero(sample == self._high) <= few)
        self._few_low = bool(np.count_nonzero(sample == self._low) <= few)

    def look_between(self, magnitudes: Tensor, start: int) -> None:
        """Count what is above the bounds or equal to a shared one, collect what lies between."""
        values = _array(magnitudes)
        self._above += _number(values > self._high)
        if not self._few_high:
            self._at_high += _number(values == self._high)
        if self._high == self._low or self._between > COLLECTED:
            return
        if not self._few_low:
            self._at_low += _number(values == self._low)
        places = _places(
            (values >= self._low if self._few_low else values > self._low)
            & (values <= self._high if self._few_high else values < self._high)
        )
        self._between += len(places)
        self._parts.append(_host(values[places]))
        self._places.append(_host(places) + start)

    def decide(self) -> None:
        """The threshold, when it is one of the bounds or lies between them."""
        rank = self._count - self._above
        if 0 < rank <= self._at_high:
            self._tie(self._high, rank, self._at_high)
        elif 0 < rank - self._at_high <= self._between <= COLLECTED:
            self._select(rank - self._at_high)
        elif 0 < rank - self._at_high - self._between <= self._at_low and self._between <= COLLECTED:
            self._tie(self._low, rank - self._at_high - self._between, self._at_low)
        else:
            self._range = (0, _pattern(math.inf))
        self._parts, self._places = [], []

    def _select(self, rank: int) -> None:
        """The threshold among what was collected."""
        values, places = np.concatenate(self._parts), np.concatenate(self._places)
        value = np.partition(values, len(values) - rank)[len(values) - rank]
        ties = rank - int(np.count_nonzero(values > value))
        self.result = Threshold(float(value), int(places[values == value][ties - 1]))

    def _tie(self, value: float, rank: int, equal: int) -> None:
        """The threshold is known; the place of its last kept value is, too, when all of them or zeros are kept."""
        self._value, self._rank = value, rank
        if rank == equal or value == 0:
            self.result = Threshold(value, self._size)

    def count_above(self, magnitudes: Tensor, start: int) -> None:
        if start == 0:
            self._above = 0
        self._above += _number(_array(magnitudes) > _float(sum(self._range) // 2))

    def halve(self) -> None:
        """The threshold is the least pattern that fewer values than wanted exceed."""
        least, most = self._range
        middle = (least + most) // 2
        self._range = (least, middle) if self._above < self._count else (middle + 1, most)
        self._at_high = self._above if self._above < self._count else self._at_high
        if self._range[0] == self._range[1]:
            self._value, self._rank = _float(self._range[0]), self._count - self._at_high

    def find_last(self, magnitudes: Tensor, start: int) -> None:
        """Count what is equal to the threshold, up to the last one that is kept."""
        equal = _array(magnitudes) == self._value
        number = _number(equal)
        if number >= self._rank:
            self.result = Threshold(self._value or 0.0, start + int(_places(equal)[self._rank - 1]))
        self._rank -= number


# numpy compares float32 values, and finds the true ones, several times as fast as torch does on a CPU


def _array(values: Tensor) -> Any:
    return values if values.is_cuda else values.numpy()


def _host(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def _number(mask: Any) -> int:
    return int(mask.count_nonzero() if isinstance(mask, Tensor) else np.count_nonzero(mask))


def _places(mask: Any) -> Any:
    return mask.nonzero().flatten() if isinstance(mask, Tensor) else np.flatnonzero(mask)


def _pattern(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _float(pattern: int) -> float:
    return float(np.uint32(pattern).view(np.float32))
