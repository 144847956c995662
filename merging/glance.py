"""Whether two models are the same, or have nothing in common, told from as few of their values as possible.

To hash two models is to read both. Fine-tunes of one model differ nearly everywhere, and by little: some values tell
them from copies and from strangers.
"""

from collections.abc import Sequence

import torch

from merging.alignment import align
from merging.architecture import architecture_of
from merging.errors import Problem
from merging.parent import Parent
from merging.roles import LINEAR

PLACES = 16  # tensors that are looked at
VALUES = 256  # of each
UNRELATED = 0.5  # distance of two models as a share of their norm; measured, see docs/architecture.md


def same_weights(one: Parent, other: Parent) -> bool:
    """True when the weight files are known to be the same, in whatever order; hashed only where nothing else tells."""
    if not one.weights or not other.weights or _sizes(one) != _sizes(other):
        return False
    if one.stamp and other.stamp:  # both are folders, whose values are here
        if sorted(place[1:] for place in one.stamp) == sorted(place[1:] for place in other.stamp):
            return True  # links to the same files
        if _differ(one, other):
            return False
    hashes = sorted(one.weights.values())
    return all(hashes) and hashes == sorted(other.weights.values())


def _sizes(parent: Parent) -> list[int]:
    return sorted(parent.files.get(name, -1) for name in parent.weights)


def _differ(one: Parent, other: Parent) -> bool:
    """Whether a look at some tensors shows a difference."""
    specs, theirs = one.source.specs, other.source.specs
    if specs != theirs:
        return True
    names = [name for name, spec in specs.items() if spec.numel]
    looked = names[:: max(1, len(names) // PLACES)]
    return any(not torch.equal(_some(one, name), _some(other, name)) for name in looked)


def _some(parent: Parent, name: str) -> torch.Tensor:
    """The bytes of some values from the middle of a tensor: equal numbers may have other bytes."""
    return parent.source.read(name, *_middle(parent, name)).view(torch.uint8)


def strangers(parents: Sequence[Parent], base: Parent | None) -> list[Problem]:
    """Warnings for models that have nothing in common, as far as some values of their matrices tell.

    Looks at folders alone: what is still on the Hub is not fetched for it. The first model that is far from the others
    (or from the base) is named; which of two is the odd one nobody can tell.
    """
    here = [one for one in (*([base] if base else []), *parents) if one.stamp]
    architecture = architecture_of(here[0].config) if here else None
    if len(here) < 2 or architecture is None or any(one.model_type != here[0].model_type for one in here):
        return []
    first, *others = align(here)
    specs = [one.source.specs for one in (first, *others)]
    names = [
        name
        for name, spec in specs[0].items()
        if spec.numel >= VALUES
        and architecture.role(name, spec.shape).kind in LINEAR
        and not architecture.role(name, spec.shape).head
        and all(name in own and own[name].shape == spec.shape for own in specs)
    ]
    looked = names[:: max(1, len(names) // PLACES)]
    for other in others:
        apart = _apart(first, other, looked)
        if apart > UNRELATED:
            index = next(place for place, one in enumerate(parents) if one.model == other.model)
            what = f"{other.model} is nearly unrelated to {'the base ' if base else ''}{first.model}"
            why = f"{apart:.2f} apart as a share of their norm, fine-tunes of one model are less than {UNRELATED:g}"
            fix = "Merge fine-tunes of one model: the average of others fails"
            return [Problem(what, why, fix, f"models.{index}.model", "warning")]
    return []


def _apart(one: Parent, other: Parent, names: Sequence[str]) -> float:
    """The distance of two models as a share of their norm, each matrix with the same weight; 0 for none."""
    ratios = []
    for name in names:
        here, there = (model.source.read(name, *_middle(model, name)).double() for model in (one, other))
        norm = float(here.square().sum() + there.square().sum()) / 2
        ratios.append(float((here - there).square().sum()) / norm if norm > 0 else 0.0)
    return (sum(ratios) / len(ratios)) ** 0.5 if ratios else 0.0


def _middle(parent: Parent, name: str) -> tuple[int, int]:
    start = parent.source.specs[name].numel // 2
    return start, start + VALUES
