"""A few numbers for each weight matrix, from which the distance of two models can be told without their weights.

A tug-of-war sketch (Alon, Matias, Szegedy 1996): LANES signed sums of a tensor's values. For two tensors the sketches
have the dot product of the tensors on average, with a standard deviation of |a||b|/√LANES; over the layers of a model
that evens out (docs/statistics.md). The signs are the same on every machine. The header of a Gram file holds them.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy
import torch
from torch import Tensor

LANES = 64
Sketches = Mapping[str, tuple[float, ...]]  # disk name -> LANES values


def sketch(weight: Tensor) -> tuple[float, ...]:
    """Signed sums of the weight's values in their order: value i goes to lane i mod LANES with a sign of its own."""
    values = weight.detach().reshape(-1).to("cpu", torch.float32).numpy()
    rows = -(-len(values) // LANES)
    padded = numpy.zeros(rows * LANES, dtype=numpy.float32)
    padded[: len(values)] = values
    signs = numpy.unpackbits(_splitmix(rows).view(numpy.uint8), bitorder="little").reshape(rows, LANES)
    return tuple((padded.reshape(rows, LANES) * (2.0 * signs - 1.0)).sum(0).astype(numpy.float32).tolist())


def _splitmix(count: int) -> "numpy.ndarray[tuple[int], numpy.dtype[numpy.uint64]]":
    """splitmix64 of 0, 1, ... count-1, little-endian (Steele, Lea, Flood 2014)."""
    with numpy.errstate(over="ignore"):
        z = (numpy.arange(count, dtype="<u8") + numpy.uint64(1)) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return numpy.asarray(z ^ (z >> numpy.uint64(31)))


def packed(values: Sequence[float]) -> str:
    """A sketch as text: float32, little-endian, base64."""
    return base64.b64encode(numpy.asarray(values, dtype="<f4").tobytes()).decode()


def unpacked(text: str) -> tuple[float, ...]:
    """What `packed` gave. Raises ValueError for anything else."""
    values = numpy.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    if len(values) != LANES or not bool(numpy.isfinite(values).all()):
        raise ValueError(f"a sketch has {LANES} finite values")
    return tuple(values.tolist())


def distance(models: Sequence[Sketches]) -> float | None:
    """Mean distance of two models as a share of their mean norm, over the matrices that all of them have.

    √(mean |a − b|² / mean |a|²), estimated. None when they have no sketch in common.
    """
    shared = set(models[0]).intersection(*models[1:]) if models else set()
    if len(models) < 2 or not shared:
        return None
    size = math.fsum(value * value for model in models for name in shared for value in model[name]) / len(models)
    pairs = list(combinations(models, 2))
    apart = math.fsum((x - y) ** 2 for a, b in pairs for name in shared for x, y in zip(a[name], b[name], strict=True))
    return math.sqrt(apart / len(pairs) / size) if size else None
