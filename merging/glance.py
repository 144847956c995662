"""Whether two models have the same weights, byte for byte, told from as few of them as possible.

To hash two models is to read both. Fine-tunes of one model differ nearly everywhere: a look at some values tells.
"""

import torch

from merging.parent import Parent

PLACES = 16  # tensors that are looked at
VALUES = 256  # of each


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
    start = parent.source.specs[name].numel // 2
    return parent.source.read(name, start, start + VALUES).view(torch.uint8)
