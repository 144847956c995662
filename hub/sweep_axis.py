"""The axis below a sweep's line: where its values stand, and which of them are named."""

import math
from collections.abc import Sequence


def places(values: Sequence[float]) -> list[float]:
    """Where values stand between 0 and 1: by their size, or by its logarithm where they span magnitudes."""
    if min(values) > 0 and max(values) / min(values) >= 100:
        values = [math.log(value) for value in values]
    least, span = min(values), max(values) - min(values)
    if not 0 < span < math.inf:
        return [place / max(1, len(values) - 1) for place in range(len(values))]
    return [(value - least) / span for value in values]


def named(at: Sequence[float], apart: float) -> list[int]:
    """Which of ordered places are named, so that no two names are nearer than `apart`: the last one in any case."""
    shown = [len(at) - 1]
    for place in range(len(at) - 2, -1, -1):
        if at[shown[-1]] - at[place] >= apart:
            shown.append(place)
    return shown[::-1]
