"""The model that some fine-tunes have in common: named by their cards, and where these do not agree, by the weights.

A fine-tune lies close to its base, and far from everything else. So few values tell relatives from strangers:
some from the middle of some matrices, by range requests. Squared distances tell how relatives hang together: what
fine-tunes learn has little to do with each other, so that ‖W₁ − W₂‖² ≈ ‖W₁ − B‖² + ‖W₂ − B‖² for their base B, the
model from which the way to all of them is shortest. Weights cannot tell the older of two relatives from the younger;
cards can.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from hub.client import Hub, SignInNeeded, explained, read_bytes
from hub.repository import open_repo, read_config, read_weights
from merging.alignment import align
from merging.architecture import architecture_of
from merging.checkpoint import specs_of
from merging.errors import InputError
from merging.glance import UNRELATED
from merging.parent import Parent
from merging.roles import LINEAR
from merging.tensors import HeaderSource, TensorSpec

CANDIDATES = 6  # bases that are looked at, beside the models themselves
PLACES, VALUES = 6, 256  # matrices that are looked into, values of each
BUDGET = 90_000  # bytes of weights for all models together
SAME_BODY = 0.9  # share of the models' matrices that a base has in the same shape
CENTRE = 0.75  # of a model that is the base of the others: their distance² among its own; siblings have ½
LEVEL = 1.15  # sums of squared distances within this ratio are as good as equal: there is noise in a sample
THREADS = 8


@dataclass(frozen=True)
class CommonBase:
    """A base, and how sure it is: all cards name it, the weights say so, or they leave several and cards decide.

    `repo_id` is "" where nothing is known. `why` is one sentence.
    """

    repo_id: str
    sure: Literal["cards", "weights", "likely", "unknown"]
    why: str


def common_base(hub: Hub, parents: Sequence[Parent]) -> CommonBase:
    """The base of these models. No weight byte is read where all cards agree, else at most BUDGET bytes.

    `parents` are as `resolve` describes them. A candidate that this person may not read is none.
    Raises HubUnavailable and SignInNeeded.
    """
    named = {parent.fine_tuned_from for parent in parents}
    others = [parent for parent in parents if parent.model not in named]  # a picked model may be the base itself
    if others and len(said := {parent.fine_tuned_from for parent in others}) == 1 and said != {""}:
        return CommonBase(said.pop(), "cards", "every card names it")
    bases = _bases(hub, parents)
    family = _family(parents, bases)
    if len(parents) < 2 or not family.names:
        return CommonBase("", "unknown", "no card names a base of these models that can be read")
    vectors = _vectors(hub, family)
    return _nearest([parent.model for parent in parents], family, vectors)


@dataclass(frozen=True)
class _Family:
    """Models of one architecture under one set of names, and the matrices that all of them have."""

    models: tuple[Parent, ...]  # those of the person, then the bases that their cards name
    names: tuple[str, ...]  # of the matrices that are looked into


def _bases(hub: Hub, parents: Sequence[Parent]) -> list[Parent]:
    """The models that cards name, and those that the cards of these name."""
    seen = {parent.model for parent in parents}
    found: list[Parent] = []
    wanted = [parent.fine_tuned_from for parent in parents]
    while wanted and len(found) < CANDIDATES:
        fresh = list(dict.fromkeys(name for name in wanted if name and name not in seen))[: CANDIDATES - len(found)]
        seen.update(fresh)
        with ThreadPoolExecutor(THREADS) as pool:
            opened = [one for one in pool.map(lambda name: _opened(hub, name), fresh) if one is not None]
        found += [one for one in opened if one.model in fresh or one.model not in seen]  # a repo may have moved
        wanted = [one.fine_tuned_from for one in opened]
    return found


def _opened(hub: Hub, name: str) -> Parent | None:
    """What the headers say of a model; None for one that cannot be a base."""
    try:
        repo = open_repo(hub, name)
        config, headers = read_config(hub, repo), read_weights(hub, repo)
        source = HeaderSource(specs_of(headers, repo.repo_id))
    except InputError as error:
        if isinstance(error, SignInNeeded):
            raise
        return None
    return Parent(
        repo.repo_id, repo.sha, config, source, headers=headers, weights={}, fine_tuned_from=repo.fine_tuned_from
    )


def _family(parents: Sequence[Parent], bases: Sequence[Parent]) -> _Family:
    """The bases whose headers fit the models, and where to look; no names where the models themselves do not fit."""
    architecture = architecture_of(parents[0].config)
    if architecture is None or any(one.model_type != parents[0].model_type for one in parents):
        return _Family(tuple(parents), ())
    aligned = align([*parents, *(one for one in bases if one.model_type == parents[0].model_type)])
    models = aligned[: len(parents)]
    matrices = [
        name
        for name, spec in models[0].source.specs.items()
        if (role := architecture.role(name, spec.shape)).kind in LINEAR and not role.head and _readable(name, spec)
    ]
    first = models[0].source.specs
    shared: list[set[str]] = []
    for specs in (one.source.specs for one in aligned):
        fits = (n for n in matrices if n in specs and specs[n].shape == first[n].shape and _readable(n, specs[n]))
        shared.append(set(fits))
    alike = [len(names) >= SAME_BODY * len(matrices) for names in shared]
    kin = [place for place in range(len(models), len(aligned)) if alike[place]]
    if not all(alike[: len(models)]) or (not kin and len(models) < 3):  # two alone do not tell which of them was first
        return _Family(models, ())
    chosen = [*range(len(models)), *kin]
    everywhere = [name for name in matrices if all(name in shared[place] for place in chosen)]
    step = max(1, len(everywhere) // PLACES)
    return _Family(tuple(aligned[place] for place in chosen), tuple(everywhere[step // 2 :: step][:PLACES]))


def _readable(name: str, spec: TensorSpec) -> bool:
    return "/" not in name and spec.dtype.is_floating_point and spec.numel >= VALUES


def _vectors(hub: Hub, family: _Family) -> list[Tensor]:
    """The values that were looked at, float64: a vector a model, every matrix with the same weight in it."""
    count = min(VALUES, BUDGET // (len(family.models) * len(family.names) * 8))
    wanted = [(model, name) for model in family.models for name in family.names]
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(pool.map(lambda one: _values(hub, one[0], one[1], count), wanted))
    table = [read[at : at + len(family.names)] for at in range(0, len(read), len(family.names))]
    sizes = [max(1e-30, float(sum(row[place].norm() for row in table))) for place in range(len(family.names))]
    return [torch.cat([values / size for values, size in zip(row, sizes, strict=True)]) for row in table]


def _values(hub: Hub, parent: Parent, name: str, count: int) -> Tensor:
    """Some values from the middle of a matrix."""
    disk = parent.disk(name)
    spec = parent.source.specs[name]
    start = (spec.numel - count) // 2
    if not parent.revision:
        return parent.source.read(name, start, start + count).double()
    file, header = next((file, header) for file, header in parent.headers.items() if disk in header.specs)
    place = header.offsets[disk] + start * spec.dtype.itemsize
    with explained(hub, parent.model):
        stop = place + count * spec.dtype.itemsize
        raw = read_bytes(hub, parent.model, file, parent.revision, start=place, stop=stop)
    return torch.frombuffer(bytearray(raw), dtype=spec.dtype).double()


def _nearest(picked: Sequence[str], family: _Family, vectors: Sequence[Tensor]) -> CommonBase:
    """The candidate from which the way to all models is shortest; cards decide between equals."""
    count = len(picked)
    square = [[float((one - other).square().sum()) for other in vectors] for one in vectors]
    size = [float(one.square().sum()) for one in vectors]
    candidates = [
        index
        for index in range(len(vectors))
        if all(square[index][one] < UNRELATED**2 * (size[index] + size[one]) / 2 for one in range(count))
        and (index >= count or _central(index, count, square))
    ]
    if not candidates:
        return CommonBase("", "unknown", "their weights have no candidate for a base in common")
    sums = {index: sum(square[index][:count]) for index in candidates}
    least = min(sums.values())
    level = [index for index in candidates if sums[index] <= LEVEL * least]
    models, lines = family.models, [_line(one, family.models) for one in family.models[:count]]
    best = max(level, key=lambda index: (sum(models[index].model in line for line in lines), -sums[index]))
    apart = (sum(square[best][:count]) / max(1e-30, sum(size[:count]))) ** 0.5
    why = f"in the weights that were looked at, it is {apart:.1%} from these models"
    if len(level) > 1:
        return CommonBase(models[best].model, "likely", f"{why}, as others are; their cards lead to it")
    return CommonBase(models[best].model, "weights", f"{why}, nearer than all others that their cards name")


def _line(one: Parent, models: Sequence[Parent]) -> list[str]:
    """The models that a model comes from, as far as the cards of these models tell."""
    cards, line = {model.model: model.fine_tuned_from for model in models}, [one.fine_tuned_from]
    while (elder := cards.get(line[-1], "")) and elder not in line:
        line.append(elder)
    return line


def _central(index: int, count: int, square: Sequence[Sequence[float]]) -> bool:
    """Whether one of the models is where the ways between all others meet."""
    pairs = list(combinations([one for one in range(count) if one != index], 2))
    return bool(pairs) and all(square[i][j] > CENTRE * (square[i][index] + square[j][index]) for i, j in pairs)
