"""How models differ, measured when they have been merged: sums of products of what each has learnt, tensor by tensor.

What model i has learnt since the reference R is its task vector τᵢ = Wᵢ − R. R is the base where the method reads one,
else the mean of the models. Norms, distances, cosines and conflicts all follow from Σ τᵢτⱼ and Σ |τᵢτⱼ| (see
`merging.differences`). A part of the values is looked at, in chunks that are spread evenly over each tensor: to
look at all of them would take as long as an average. Sums are float64. Which chunks, and the order in which they are
added, follow from the names and shapes of the tensors alone: threads and blocks do not change a bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from merging.blocks import Operands
from merging.memory import Buffers
from merging.steps import Shard, Step

CHUNK = 1 << 12  # values that lie side by side and are looked at together
EVERY = 32  # of so many chunks of a tensor one is looked at,
LEAST, MOST = 8, 256  # but at least and at most so many of each tensor
MODELS = 50  # of more models nothing is measured: the pairs grow as their square
BATCH = 4  # chunks that are multiplied at once: 128 KB a model, which stay in the caches
ALIKE = 1e-9  # of two task vectors this near, as a share of their squares, every value is compared

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Products:
    """The sums over the values of one tensor that were looked at, of k models."""

    seen: int  # values
    products: Tensor  # (k+1, k+1) float64: Σ of R and τ₁ ... τₖ with each other
    magnitudes: Tensor  # (k, k) float64: Σ |τᵢτⱼ|
    alike: frozenset[tuple[int, int]]  # pairs i < j that were equal in every value

    def __add__(self, other: "Products") -> "Products":
        return Products(
            self.seen + other.seen,
            self.products + other.products,
            self.magnitudes + other.magnitudes,
            self.alike & other.alike,
        )

    def as_list(self) -> list[Any]:
        """Plain data, exact."""
        return [self.seen, self.products.tolist(), self.magnitudes.tolist(), sorted(self.alike)]

    @classmethod
    def from_list(cls, data: Sequence[Any]) -> "Products":
        """What `as_list` gave."""
        seen, products, magnitudes, alike = data
        return cls(
            seen,
            torch.tensor(products, dtype=torch.float64),
            torch.tensor(magnitudes, dtype=torch.float64),
            frozenset((first, second) for first, second in alike),
        )


class Observer:
    """Looks at the models of a shard that is written, while what was read of them is still in the system's memory."""

    def __init__(self, operands: Operands) -> None:
        self._operands = operands
        self._buffers = Buffers()

    def of(self, shard: Shard) -> dict[str, list[Any]]:
        """What the tensors of a shard say: tensor -> `Products.as_list`."""
        return {step.name: self.look(step).as_list() for step in shard.steps if self._covers(step)}

    def look(self, step: Step) -> Products:
        """What the chunks of one tensor say."""
        chunks = places_of(step.name, step.spec.numel)
        total, *rest = (self._batch(step, chunks[at : at + BATCH]) for at in range(0, len(chunks), BATCH))
        for one in rest:
            total += one
        return replace(total, products=_from_mean(total.products)) if self._operands.base is None else total

    def _covers(self, step: Step) -> bool:
        """Tensors that all models have, and the base where there is one: no other would be read for them."""
        count, base = len(self._operands.parents), self._operands.base
        if not step.spec.numel or step.action == "copy" or len(step.inputs) < count:
            return False
        return (1 if base else 2) <= count <= MODELS and (base is None or step.action == "merge")

    def _batch(self, step: Step, chunks: Sequence[int]) -> Products:
        """The sums of some chunks; without a base those of the models themselves, (k, k), see `_from_mean`."""
        rows = self._read(step, chunks)
        if self._operands.base is None:
            products = rows @ rows.T
            return Products(rows.shape[1], products, torch.zeros_like(products), _alike(products, rows))
        learnt = rows[1:].sub_(rows[0])
        products = rows @ rows.T
        alike = _alike(products[1:, 1:], learnt)
        learnt.abs_()
        return Products(rows.shape[1], products, learnt @ learnt.T, alike)

    def _read(self, step: Step, chunks: Sequence[int]) -> Tensor:
        """(k or k+1, values of these chunks) float64: a row for the base, where there is one, then one a model."""
        base = self._operands.base
        sources = [*([base] if base else []), *self._operands.sources(step)]
        sizes = [min(CHUNK, step.spec.numel - place) for place in chunks]
        count = sum(sizes)
        rows = self._buffers.get("rows", len(sources) * count, torch.float64, CPU).view(len(sources), count)
        for row, parent in zip(rows, sources, strict=True):
            raw = self._buffers.get("raw", count, self._operands.dtype(parent, step), CPU)
            at = 0
            for place, size in zip(chunks, sizes, strict=True):
                parent.source.fill(step.name, place, raw[at : at + size])
                at += size
            row.copy_(raw)
        return rows


def _from_mean(products: Tensor) -> Tensor:
    """(k, k) sums of products of models -> (k+1, k+1), of their mean and what each has beyond it."""
    count = len(products)
    rows = torch.eye(count + 1, count, dtype=torch.float64).roll(1, 0) - 1 / count
    rows[0] = 1 / count
    return rows @ products @ rows.T


def _alike(products: Tensor, rows: Tensor) -> frozenset[tuple[int, int]]:
    """The pairs of rows that are equal; only those that may be so by their products are compared."""
    sums, found = products.tolist(), []
    for i, j in combinations(range(len(sums)), 2):
        both = sums[i][i] + sums[j][j]
        if both - 2 * sums[i][j] <= ALIKE * both and torch.equal(rows[i], rows[j]):
            found.append((i, j))
    return frozenset(found)


@lru_cache(maxsize=64)
def places_of(name: str, size: int) -> tuple[int, ...]:
    """The first values of the chunks that are looked at in a tensor of that many values, in order.

    The tensor is cut into as many equal stretches as chunks are wanted, and one chunk is drawn from each.
    """
    chunks = -(-size // CHUNK)
    wanted = min(chunks, max(LEAST, min(MOST, chunks // EVERY)))
    digest = sha256(name.encode()).digest()
    draws = np.random.PCG64DXSM(int.from_bytes(digest[:16], "little")).random_raw(wanted) if wanted else ()
    bounds = [number * chunks // wanted for number in range(wanted + 1)] if wanted else []
    stretches = zip(bounds, bounds[1:], draws, strict=False)
    return tuple((low + int(draw) % (high - low)) * CHUNK for low, high, draw in stretches)


def added(shards: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, Products]:
    """What the shards of a merge say together: tensor -> its sums."""
    return {name: Products.from_list(data) for shard in shards for name, data in shard.items()}
