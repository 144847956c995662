"""Intervals of figures: examples are drawn anew with replacement, the same draws for every model.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 (percentiles) and 16 (paired differences).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from merging.evaluation.answers import Floats

RESAMPLES = 1_000
LEVELS = (2.5, 97.5)  # percentiles: 95 %
AT_ONCE = 4_000_000  # values of the draws that are held at a time
Figures = Callable[[Floats], dict[str, Floats]]


@dataclass(frozen=True)
class Resampled:
    """The figures of one model, as they are and on every resample of the examples."""

    value: Mapping[str, float]
    drawn: Mapping[str, Floats]  # name -> (resamples,)

    def as_dict(self) -> dict[str, Any]:
        """`metrics`, `low` and `high`, name -> number."""
        ends = {name: np.percentile(drawn, LEVELS) for name, drawn in self.drawn.items()}
        return {
            "metrics": dict(self.value),
            "low": {name: float(both[0]) for name, both in ends.items()},
            "high": {name: float(both[1]) for name, both in ends.items()},
        }

    def against(self, other: "Resampled") -> dict[str, list[float]]:
        """Name -> [difference to the other, low, high]: paired, for both were drawn alike."""
        found = {}
        for name, value in self.value.items():
            low, high = np.percentile(self.drawn[name] - other.drawn[name], LEVELS)
            found[name] = [value - other.value[name], float(low), float(high)]
        return found


def resample(counts: Sequence[Floats], figures: Figures, seed: int) -> list[Resampled]:
    """The figures of every model from its (examples, k) counts; all of the same examples, drawn by `seed`."""
    examples = len(counts[0])
    chance = np.random.default_rng(seed)
    sums: list[list[Floats]] = [[] for _ in counts]
    left = RESAMPLES
    while left:
        times = min(left, max(1, AT_ONCE // examples))
        places = chance.integers(0, examples, (times, examples)) + examples * np.arange(times)[:, None]
        weights = np.bincount(places.ravel(), minlength=times * examples).reshape(times, examples).astype(float)
        for mine, own in zip(sums, counts, strict=True):
            mine.append(weights @ own)
        left -= times
    return [
        Resampled({name: float(value) for name, value in figures(own.sum(0)).items()}, figures(np.concatenate(mine)))
        for mine, own in zip(sums, counts, strict=True)
    ]
