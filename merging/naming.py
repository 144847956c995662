"""Which tensor on disk a loaded module's weight is: by name first, then by value, and in every case proven by value.

transformers renames on load, so the name of a module is only a hint. What is not equal bit by bit to the tensor
it is said to be, or is equal to several, is skipped with its reason: never guessed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from merging.tensors import TensorSource

LEGACY = ((".weight", ".gamma"), (".bias", ".beta"))  # norms of the first checkpoints


@dataclass(frozen=True)
class Names:
    """Parameter name -> disk name where that is proven, parameter name -> reason where it is not."""

    disk: Mapping[str, str]
    skipped: Mapping[str, str] = field(default_factory=dict)


def prove_names(parameters: Mapping[str, Tensor], disk: TensorSource, prefix: str = "") -> Names:
    """Pair each parameter of a loaded model (names as the modules have them) with a tensor on disk.

    `prefix` is the body's name in the model class (`bert`), which a file may have or lack. One disk tensor is read
    at a time; tensors of one shape are compared by value only where the name leads nowhere.
    """
    proven: dict[str, str] = {}
    taken: set[str] = set()
    for name, parameter in parameters.items():
        for candidate in _candidates(name, prefix):
            if candidate in disk.specs and candidate not in taken and _equal(parameter, disk, candidate):
                proven[name] = candidate
                taken.add(candidate)
                break
    skipped: dict[str, str] = {}
    for name in sorted(parameters.keys() - proven.keys()):
        same = [other for other in sorted(disk.specs.keys() - taken) if _equal(parameters[name], disk, other)]
        if len(same) == 1:
            proven[name] = same[0]
        else:
            skipped[name] = _reason(name, same, disk)
    for name in _claimed_twice(proven):
        skipped[name] = f"{proven.pop(name)} on disk has the values of several parameters"
    return Names(proven, dict(sorted(skipped.items())))


def _candidates(name: str, prefix: str) -> Iterator[str]:
    """The name itself, with and without the body's prefix, and with the endings of old norms."""
    names = [name]
    if prefix:
        names.append(name.removeprefix(f"{prefix}.") if name.startswith(f"{prefix}.") else f"{prefix}.{name}")
    yield from names
    for plain in names:
        for new, old in LEGACY:
            if plain.endswith(f"LayerNorm{new}"):
                yield plain.removesuffix(new) + old


def _equal(parameter: Tensor, disk: TensorSource, name: str) -> bool:
    """True when the tensor on disk holds exactly the parameter's values (float32 holds every stored dtype)."""
    spec = disk.specs[name]
    if spec.shape != tuple(parameter.shape) or not spec.dtype.is_floating_point:
        return False
    stored = disk.read(name).reshape(spec.shape).to(parameter.dtype)
    return torch.equal(stored, parameter.detach().cpu())


def _reason(name: str, same: list[str], disk: TensorSource) -> str:
    if same:
        return f"several tensors on disk have its values: {', '.join(same[:3])}"
    return "its values on disk are others" if name in disk.specs else "no tensor on disk has its values"


def _claimed_twice(proven: Mapping[str, str]) -> Iterable[str]:
    """Parameters that were paired by value with a disk tensor that another one was paired with, too."""
    claims: dict[str, list[str]] = {}
    for name, disk_name in proven.items():
        claims.setdefault(disk_name, []).append(name)
    return [name for names in claims.values() if len(names) > 1 for name in names]
