"""How far the models of a merge are from their base and from each other, layer by layer and block by block.

All of it follows from the sums of `merging.products`. With the reference R (the base, or the mean of the models where
no base was read), τᵢ = Wᵢ − R, and norms over the tensors at hand:

- distance of a model: ‖τᵢ‖ / ‖R‖
- distance of two models: ‖Wᵢ − Wⱼ‖ / √((‖Wᵢ‖² + ‖Wⱼ‖²) / 2); two models that have nothing in common: √2
- cosine of two task vectors: τᵢ·τⱼ / (‖τᵢ‖ ‖τⱼ‖)
- sign conflict: the share of Σ |τᵢτⱼ| where the two signs are opposite, (Σ |τᵢτⱼ| − Σ τᵢτⱼ) / 2 Σ |τᵢτⱼ|: each value
  weighs as much as both models changed it. 0: never opposite, ½: as vectors that have nothing to do with each other

From the mean the last two would say nothing: two models are opposite there whatever they learnt. The totals leave the
heads out, which are new in every fine-tune.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from merging.compatibility import covered_architecture
from merging.glance import UNRELATED
from merging.parent import Parent
from merging.places import Places, places
from merging.plan import Plan
from merging.products import Products, added

SAID = 20  # warnings; what else is wrong shows in the figures
Cells = list[list[float | None]]


def differences(
    plan: Plan, parents: Sequence[Parent], base: Parent | None, seen: Sequence[Mapping[str, Sequence[Any]]]
) -> dict[str, Any]:
    """What the report of a merge says of its models, in plain data; {} where there is nothing to compare.

    `parents` and `base` are arranged, `seen` is what was noted of each shard (`products.Observer.of`). `cells` are
    [layer][block], None where a model has no such tensor; `conflicts` are the mean of all pairs, [] without a base.
    """
    sums = added(seen)
    steps = {step.name: step for step in plan.steps if step.name in sums}
    if not steps:
        return {}
    architecture = covered_architecture(parents)
    roles = {name: architecture.role(name, step.spec.shape) for name, step in steps.items()}
    table = _Table(places(roles), {name: _Whole(sums[name], step.spec.numel) for name, step in steps.items()})
    names = [parent.model if parent.revision else parent.model.rstrip("/").rpartition("/")[2] for parent in parents]
    body = [name for name in sums if not roles[name].head] or list(sums)
    total = table.sum(body)
    pairs = [_pair(total, i, j, with_base=base is not None) for i, j in combinations(range(len(names)), 2)]
    models = [
        {"model": name, "distance": total.distance(index), "cells": table.cells(lambda one, at=index: one.distance(at))}
        for index, name in enumerate(names)
    ]
    looked, values = sum(one.seen for one in sums.values()), sum(step.spec.numel for step in steps.values())
    return {
        "reference": "mean" if base is None else "base",
        "base": base.model if base is not None and base.revision else "",
        "sampled": _short(looked / values),
        "layers": list(table.places.layers),
        "blocks": list(table.places.blocks),
        "models": models,
        "pairs": pairs,
        "conflicts": table.cells(_Whole.conflicts) if base is not None and len(names) > 1 else [],
        "notes": [*_warnings(names, total, models, pairs, base), *_remarks(base, looked, values)],
    }


def lines(differences: Mapping[str, Any]) -> list[str]:
    """The totals of a report in a few lines of text; none where nothing was compared."""
    if not differences:
        return []
    names = [one["model"] for one in differences["models"]]
    found = ", ".join(f"{one['model']} {_percent(one['distance'])}" for one in differences["models"])
    said = [f"distance from the {differences['reference']}: {found}"]
    for pair in differences["pairs"][:SAID]:
        first, second = (names[index] for index in pair["models"])
        line = f"{first} and {second}: {_percent(pair['distance'])} apart"
        if pair["cosine"] is not None:
            line += f", cosine {pair['cosine']:.2f}, opposite signs {_percent(pair['sign_conflict'])}"
        said.append(line)
    return [*said, *differences["notes"]]


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1%}"


class _Whole:
    """The sums of some tensors, each as if all of its values had been looked at."""

    def __init__(self, sums: Products, numel: int) -> None:
        scale = numel / sums.seen
        self.products: Tensor = sums.products * scale
        self.magnitudes: Tensor = sums.magnitudes * scale
        self.alike = sums.alike

    def __add__(self, other: "_Whole") -> "_Whole":
        both = object.__new__(_Whole)
        both.products = self.products + other.products
        both.magnitudes = self.magnitudes + other.magnitudes
        both.alike = self.alike & other.alike
        return both

    def distance(self, model: int) -> float | None:
        """Of a model from the reference."""
        return _ratio(self.products[model + 1, model + 1], self.products[0, 0])

    def apart(self, first: int, second: int) -> float | None:
        """The distance of two models from each other."""
        if (first, second) in self.alike:
            return 0.0
        sums = self.products
        i, j = first + 1, second + 1
        norms = [sums[0, 0] + 2 * sums[0, one] + sums[one, one] for one in (i, j)]
        return _ratio(sums[i, i] + sums[j, j] - 2 * sums[i, j], sum(norms) / 2)

    def cosine(self, first: int, second: int) -> float | None:
        """Of two task vectors; None when one of the models is the reference."""
        i, j = first + 1, second + 1
        norms = float(self.products[i, i]) * float(self.products[j, j])
        return _short(float(self.products[i, j]) / math.sqrt(norms)) if norms > 0 else None

    def conflict(self, first: int, second: int) -> float | None:
        """The sign conflict of two task vectors."""
        return _share(self.products[first + 1, second + 1], self.magnitudes[first, second])

    def conflicts(self) -> float | None:
        """The sign conflict of all pairs together."""
        count = len(self.magnitudes)
        above = torch.ones(count, count, dtype=torch.bool).triu(1)
        return _share(self.products[1:, 1:][above].sum(), self.magnitudes[above].sum())


class _Table:
    """The tensors of a model in their places."""

    def __init__(self, places: Places, tensors: Mapping[str, _Whole]) -> None:
        self.places, self._tensors = places, tensors
        self._cells: dict[tuple[str, str], _Whole] = {}
        for name, one in tensors.items():
            place = places.of[name]
            self._cells[place] = self._cells[place] + one if place in self._cells else one

    def sum(self, names: Iterable[str]) -> _Whole:
        """Some tensors together; at least one."""
        first, *rest = (self._tensors[name] for name in names)
        for one in rest:
            first += one
        return first

    def cells(self, value: Any) -> Cells:
        """A value of each cell, a row for each layer."""
        cells, layers, blocks = self._cells, self.places.layers, self.places.blocks
        return [
            [value(cells[layer, block]) if (layer, block) in cells else None for block in blocks] for layer in layers
        ]


def _pair(total: _Whole, first: int, second: int, *, with_base: bool) -> dict[str, Any]:
    return {
        "models": [first, second],
        "distance": total.apart(first, second),
        "cosine": total.cosine(first, second) if with_base else None,
        "sign_conflict": total.conflict(first, second) if with_base else None,
    }


def _warnings(
    names: Sequence[str],
    total: _Whole,
    models: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    base: Parent | None,
) -> list[str]:
    """What makes the merge doubtful: models that have nothing in common, or that are one."""
    said = []
    fails = "the average of such models fails"
    if base is not None:
        for one in models:
            if (one["distance"] or 0) > UNRELATED:
                said.append(f"{one['model']} is nearly unrelated to its base ({one['distance']:.2f} apart): {fails}.")
            elif one["distance"] == 0:
                said.append(f"{one['model']} is the base: it has learnt nothing since.")
    for pair in pairs:
        first, second = (names[index] for index in pair["models"])
        if tuple(pair["models"]) in total.alike:
            said.append(f"{first} and {second} are the same model, their heads aside.")
        elif base is None and (pair["distance"] or 0) > UNRELATED:
            said.append(f"{first} and {second} are nearly unrelated ({pair['distance']:.2f} apart): {fails}.")
    if len(said) > SAID:
        said[SAID:] = [f"So are {len(said) - SAID} more of them."]
    return said


def _remarks(base: Parent | None, looked: int, values: int) -> list[str]:
    """How the figures came about."""
    said = []
    if base is None:
        said.append("No base was read: distances are from the mean of the models, and directions are not compared.")
    if looked < values:
        said.append(f"Measured on {looked / values:.0%} of the values, spread evenly over every tensor.")
    return said


def _ratio(square: Any, of: Any) -> float | None:
    """√(square / of); None where there is nothing to compare with."""
    square, of = float(square), float(of)
    return _short(math.sqrt(max(0.0, square) / of)) if of > 0 and math.isfinite(square) else None


def _share(products: Tensor, magnitudes: Tensor) -> float | None:
    of = float(magnitudes)
    return _short(max(0.0, of - float(products)) / 2 / of) if of > 0 and math.isfinite(of) else None


def _short(value: float) -> float:
    """Four digits: the chunks that were not looked at would change the others."""
    return float(f"{value:.4g}")
