"""Values that change from layer to layer, and where a tensor stands in the depth of its model, from its name alone."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d{1,6})\.")  # h: GPT-2, BLOOM, Falcon


@dataclass(frozen=True)
class ByLayer:
    """A parameter whose value depends on the layer, as in mergekit's recipes: the first case that fits counts.

    `cases` are (text, values): a case fits a tensor whose name holds the text; "" fits every tensor, and is the last.
    Several values are spread evenly from the first layer to the last, with straight lines between them.
    """

    cases: tuple[tuple[str, tuple[float, ...]], ...]

    def of(self, name: str, depth: float) -> float:
        """The value for the tensor of that name at its depth, see `depths`."""
        values = next(values for text, values in self.cases if text in name)
        place = depth * (len(values) - 1)
        below = min(int(place), max(0, len(values) - 2))
        above = min(below + 1, len(values) - 1)
        return values[below] * (1 - (place - below)) + values[above] * (place - below)  # exact at both ends

    @property
    def mean(self) -> float:
        """The mean of the cases: for a table that has room for one number."""
        return sum(sum(values) / len(values) for _, values in self.cases) / len(self.cases)

    def __str__(self) -> str:
        cases = [(text, " → ".join(f"{value:g}" for value in values)) for text, values in self.cases]
        if len(cases) == 1:
            return f"{cases[0][1]} over the layers" if "→" in cases[0][1] else cases[0][1]
        return ", ".join(f"{values} in {text}" if text else f"else {values}" for text, values in cases)


def depths(names: Iterable[str]) -> dict[str, float]:
    """The depth of every tensor of a model: 0 in its first layer, 1 in its last, evenly spread between.

    Each stack of layers (an encoder, a decoder, a vision tower) is counted by itself; the layer of a stack of one has
    depth 1. What is in no layer (embeddings, the final norm, heads) has depth 0, as in mergekit.
    """
    found = {name: layer_of(name) for name in names}
    last: dict[str, int] = {}
    for stack, number in filter(None, found.values()):
        last[stack] = max(last.get(stack, 0), number)
    return {name: _depth(place, last) for name, place in found.items()}


def _depth(place: tuple[str, int] | None, last: dict[str, int]) -> float:
    if place is None:
        return 0.0
    stack, number = place
    return number / last[stack] if last[stack] else 1.0


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack that a tensor's layer belongs to and the layer's number there; None outside of all layers."""
    match = LAYER.search(name)
    return (name[: match.start(1)], int(match[1])) if match else None
