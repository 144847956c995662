"""Gram and Fisher statistics on disk: one safetensors file a model and kind, itself a `TensorSource`.

Gram file: for each Gram one 1-D float32 or bfloat16 tensor, the upper triangle of G = mean over real tokens of x xᵀ,
row by row, n(n+1)/2 values; its key is the disk name of the first weight that it belongs to, and `aliases`
maps every covered weight to its key (q, k, v share one). Fisher file: the diagonal Fisher of each tensor
under the tensor's own name and shape, float32. What both belong to stands in the header's metadata.

The rows of x are never stored. A file is hostile input: `fact_from_header` and `check_values` refuse nonsense.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.checkpoint import SafetensorsFile, ShardWriter
from merging.errors import InputError
from merging.parent import StatisticsFact
from merging.sketch import Sketches, packed, unpacked
from merging.tensors import Header, TensorSpec

FORMAT, VERSION = "merge-statistics", "1"
KINDS = ("gram", "fisher")
VARIANTS = ("exact", "sampled", "empirical")  # of a Fisher
FISHER_SCALE = "squared gradient of log p summed over an example, mean over examples"  # not normalised, no floor
GRAM_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZE_LIMIT = 131_072  # inputs of one layer
COUNT_LIMIT = 2**53  # tokens and examples
NAME_LIMIT = 200_000  # names in one table
SCALE_LIMIT = 1e12  # of a mean square input: activations of a million
FISHER_LIMIT = 1e30  # of a mean squared gradient
CHECKED_AT_ONCE = 1 << 22  # values
Read = Callable[[int, int], Tensor]  # values [start:stop]


@dataclass(frozen=True)
class Provenance:
    """What statistics were collected from. `weights` maps each weight file to its SHA-256 in hex."""

    weights: Mapping[str, str]
    model: str = ""
    revision: str = ""
    dataset: str = ""
    dataset_revision: str = ""
    examples: int = 0
    max_length: int = 0
    seed: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)  # module or parameter -> why it has no statistics
    sketches: Sketches = field(default_factory=dict)  # of the weights themselves, see `merging.sketch`

    def metadata(self) -> dict[str, str]:
        """The part of the header's metadata that both kinds share."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "revision": self.revision,
            "weights": json.dumps(dict(self.weights)),
            "dataset": self.dataset,
            "dataset_revision": self.dataset_revision,
            "examples": str(self.examples),
            "max_length": str(self.max_length),
            "seed": str(self.seed),
            "skipped": json.dumps(dict(self.skipped)),
            "sketches": json.dumps({name: packed(values) for name, values in self.sketches.items()}),
        }


class Statistics:
    """A statistics file, read by position. Raises InputError when its header is not one."""

    def __init__(self, path: Path) -> None:
        self._file = SafetensorsFile(path)
        header = self._file.header
        self.specs: Mapping[str, TensorSpec] = header.specs
        self.metadata: Mapping[str, str] = header.metadata
        self.fact: StatisticsFact = fact_from_header(header, source=str(path), nbytes=path.stat().st_size)
        self._aliases = _table(header.metadata, "aliases") if self.fact.kind == "gram" else {}
        self._moments = _table(header.metadata, "moments") if self.fact.kind == "fisher" else {}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """See `TensorSource.read`: Fisher values by disk name, packed Gram triangles by Gram key."""
        return self._file.read(name, start, stop)

    def fill(self, name: str, start: int, out: Tensor) -> None:
        """See `TensorSource.fill`."""
        self._file.fill(name, start, out)

    def gram_key(self, name: str) -> str | None:
        """The key of the Gram of that weight: equal keys, equal Grams. None when it has none."""
        return self._aliases.get(name)

    def gram(self, name: str) -> Tensor:
        """G of the weight of that disk name, (in, in) float32, symmetric. KeyError when it has none."""
        key = self._aliases[name]
        return unpack_triangle(lambda start, stop: self.read(key, start, stop), self.fact.keys[name])

    def moments(self, name: str) -> tuple[int, float, float]:
        """Number of values of a Fisher tensor, their sum, and the sum of their squares."""
        count, total, squares = self._moments[name]
        return int(count), float(total), float(squares)

    def close(self) -> None:
        """Give the descriptor back."""
        self._file.close()


def fact_from_header(header: Header, *, source: str, sha256: str = "", nbytes: int = 0) -> StatisticsFact:
    """What a header says, checked: every table complete, every size that of the tensor it speaks of.

    Raises InputError when the file is no statistics file, or contradicts itself.
    """
    metadata = header.metadata
    kind = metadata.get("kind", "")
    if metadata.get("format") != FORMAT or kind not in KINDS:
        raise InputError(
            f"{source} is not a statistics file", "its header does not say so", "Collect the statistics again"
        )
    if metadata.get("version") != VERSION:
        raise InputError(
            f"{source} has statistics of format version {metadata.get('version', '')[:20]!r}",
            f"this program reads version {VERSION}",
            "Collect the statistics again",
        )
    try:
        weights = _table(metadata, "weights")
        _require(bool(weights), "it does not name the weights it belongs to")
        for name, digest in weights.items():
            _require(bool(re.fullmatch(r"[0-9a-f]{64}", str(digest))), f"{name[:100]!r} has no SHA-256")
        read = _gram_tables if kind == "gram" else _fisher_tables
        keys, tokens = read(header)
        _require(bool(keys), "it covers no tensor")
        _require(kind == "gram" or metadata.get("variant") in VARIANTS, "it does not say which Fisher it is")
        examples = _count(metadata.get("examples", ""), "examples")
        sketches = {name: unpacked(text) for name, text in _table(metadata, "sketches", "{}").items()}
        traces = _traces(metadata)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{source} has a broken header", _sentence(error), "Collect the statistics again") from None
    variant = metadata.get("variant", "") if kind == "fisher" else ""
    return StatisticsFact(kind, source, sha256, weights, keys, tokens, examples, nbytes, variant, sketches, traces)


def check_values(path: Path) -> None:
    """Read every value once: finite, no negative diagonal or Fisher value, sane scale, moments as the header says.

    Raises InputError that names the tensor. Memory: 16 MB, however large a tensor is.
    """
    statistics = Statistics(path)
    try:
        if statistics.fact.kind == "gram":
            for key in sorted(statistics.specs):
                trace = _check_gram(path.name, key, partial(statistics.read, key), statistics.fact.keys[key])
                said = statistics.fact.traces.get(key, trace)
                if abs(said - trace) > 0.01 * trace:
                    raise _bad(path.name, key, f"has a trace of {trace:.6g}", f"its header says {said:.6g}")
        else:
            for name in sorted(statistics.specs):
                _check_fisher(path.name, name, partial(statistics.read, name), statistics.moments(name))
    finally:
        statistics.close()


def write_gram(
    path: Path,
    grams: Mapping[str, Tensor],  # key -> (n, n), of which the upper triangle is read
    tokens: Mapping[str, int],  # key -> real tokens
    aliases: Mapping[str, str],  # every covered weight -> key, the keys among them
    provenance: Provenance,
) -> Path:
    """Write a Gram file. It has its name only when it is whole."""
    sizes = {key: len(gram) for key, gram in grams.items()}
    triangles = {key: pack_triangle(gram) for key, gram in grams.items()}
    return write_triangles(path, triangles, sizes, traces_of(grams), tokens, aliases, provenance)


def traces_of(grams: Mapping[str, Tensor]) -> dict[str, float]:
    """tr(G) by key: the mean square of a layer's whole input."""
    return {key: float(gram.diagonal().double().sum()) for key, gram in grams.items()}


def write_triangles(
    path: Path,
    triangles: Mapping[str, Tensor],  # key -> packed upper triangle, read one at a time
    sizes: Mapping[str, int],  # key -> n
    traces: Mapping[str, float],  # key -> tr(G)
    tokens: Mapping[str, int],
    aliases: Mapping[str, str],
    provenance: Provenance,
    numbers: str = "float32",  # or "bfloat16"
) -> Path:
    """`write_gram` for matrices that are packed already, see `pack_triangle`."""
    metadata = provenance.metadata() | {
        "kind": "gram",
        "mask": "real tokens",
        "aliases": json.dumps(dict(aliases)),
        "sizes": json.dumps(dict(sizes)),
        "traces": json.dumps(dict(traces)),
        "tokens": json.dumps(dict(tokens)),
    }
    dtype = GRAM_DTYPES[numbers]
    specs = [TensorSpec(key, (triangle_length(n),), dtype) for key, n in sorted(sizes.items())]
    return _save(path, specs, lambda key: triangles[key].to(dtype), metadata)


def write_fisher(
    path: Path, values: Mapping[str, Tensor], provenance: Provenance, *, variant: str = "exact", output: str = "classes"
) -> Path:
    """Write a Fisher file: `values` by disk name, each in its tensor's shape.

    `variant` says which Fisher it is and `output` what the model gives, see `merging.variants`.
    """
    stored = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in values.items()}
    metadata = provenance.metadata() | {
        "kind": "fisher",
        "variant": variant,
        "output": output,
        "scale": FISHER_SCALE,
        "moments": json.dumps({name: moments_of(tensor) for name, tensor in stored.items()}),
        "tokens": json.dumps(dict.fromkeys(stored, provenance.examples)),
    }
    specs = [TensorSpec(name, tuple(tensor.shape), torch.float32) for name, tensor in sorted(stored.items())]
    return _save(path, specs, stored.__getitem__, metadata)


def moments_of(values: Tensor) -> tuple[int, float, float]:
    """Number of values, their sum, and the sum of their squares, summed in float64."""
    wide = values.double()
    return values.numel(), float(wide.sum()), float(wide.square().sum())


def triangle_length(n: int) -> int:
    """Values in the upper triangle of an (n, n) matrix, diagonal included."""
    return n * (n + 1) // 2


def pack_triangle(matrix: Tensor) -> Tensor:
    """The upper triangle of an (n, n) matrix row by row, float32 on the CPU, n(n+1)/2 values."""
    n = len(matrix)
    source = matrix.detach().to("cpu", torch.float32).contiguous().numpy()
    packed = torch.empty(triangle_length(n), dtype=torch.float32)
    target, begin = packed.numpy(), 0
    for row in range(n):
        target[begin : begin + n - row] = source[row, row:]
        begin += n - row
    return packed


def unpack_triangle(read: Callable[[int, int], Tensor], n: int) -> Tensor:
    """The symmetric (n, n) float32 matrix of a packed upper triangle, on the CPU; `read` gives its values [start:stop].

    Beside the matrix only some rows of the triangle are in memory. No index tensors.
    """
    full = torch.empty(n, n)
    block = 256  # a square of float32 that fits a core's cache
    for top in range(0, n, block):
        stop = min(top + block, n)
        begin = top * n - top * (top - 1) // 2  # of row `top` in the triangle
        packed = read(begin, begin + triangle_length(n - top) - triangle_length(n - stop)).float()
        source, target, begin = packed.numpy(), full.numpy(), 0
        for row in range(top, stop):
            target[row, row:] = source[begin : begin + n - row]
            begin += n - row
        corner = full[top:stop, top:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)
        full[stop:, top:stop] = full[top:stop, stop:].T
    return full


def _save(
    path: Path, specs: Sequence[TensorSpec], values: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> Path:
    """Write tensor by tensor. The same input gives the same bytes (safetensors' own writer shuffles the metadata)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(path, specs, metadata)
    try:
        for spec in specs:
            writer.write(spec.name, 0, values(spec.name))
    except BaseException:
        writer.abandon()
        raise
    writer.finish()
    return path


def _gram_tables(header: Header) -> tuple[dict[str, int], dict[str, int]]:
    """(weight -> inputs, weight -> tokens) of a Gram file."""
    aliases, sizes, tokens = (_table(header.metadata, name) for name in ("aliases", "sizes", "tokens"))
    _require(set(sizes) == set(header.specs), "its sizes are not those of its tensors")
    for key, spec in header.specs.items():
        n = sizes[key] = _count(sizes[key], f"the size of {key}")
        tokens[key] = _count(tokens.get(key), f"the tokens of {key}")
        _require(0 < n <= SIZE_LIMIT, f"{key} has {n} inputs")
        _require(spec.dtype in GRAM_DTYPES.values(), f"{key} is neither float32 nor bfloat16")
        _require(spec.shape == (triangle_length(n),), f"{key} is not the triangle of a {n} x {n} matrix")
        _require(tokens[key] > 0, f"{key} was collected from no token")
        _require(aliases.get(key) == key, f"{key} is not its own alias")
    for name, key in aliases.items():
        _require(isinstance(key, str) and key in sizes, f"{name[:100]} points to a Gram that is not there")
    return {name: sizes[key] for name, key in aliases.items()}, {name: tokens[key] for name, key in aliases.items()}


def _traces(metadata: Mapping[str, str]) -> dict[str, float]:
    """tr(G) by covered weight; empty in a file that does not tell."""
    found = _table(metadata, "traces", "{}")
    for key, trace in found.items():
        number = isinstance(trace, int | float) and not isinstance(trace, bool)
        _require(number and 0 <= trace <= SIZE_LIMIT * SCALE_LIMIT, f"the trace of {key[:100]} is impossible")
    aliases = _table(metadata, "aliases", "{}")
    return {name: float(found[key]) for name, key in aliases.items() if key in found}


def _fisher_tables(header: Header) -> tuple[dict[str, int], dict[str, int]]:
    """(tensor -> values, tensor -> examples) of a Fisher file."""
    moments, tokens = _table(header.metadata, "moments"), _table(header.metadata, "tokens")
    _require(set(moments) == set(header.specs), "its moments are not those of its tensors")
    for name, spec in header.specs.items():
        _require(spec.dtype == torch.float32, f"{name} is not float32")
        count, total, squares = moments[name]
        _require(count == spec.numel, f"the moments of {name} are of {count!r:.40} values, it has {spec.numel}")
        for moment in (total, squares):
            number = isinstance(moment, int | float) and not isinstance(moment, bool)
            _require(number and 0 <= moment < float("inf"), f"the moments of {name} are impossible")
        tokens[name] = _count(tokens.get(name), f"the examples of {name}")
        _require(tokens[name] > 0, f"{name} was collected from no example")
    return {name: spec.numel for name, spec in header.specs.items()}, {name: tokens[name] for name in header.specs}


def _check_gram(file: str, key: str, read: Read, n: int) -> float:
    """The matrix's trace. `read` gives values [start:stop] of its packed triangle."""
    rows = torch.arange(n + 1)
    starts = rows * n - rows * (rows - 1) // 2  # where each row begins
    diagonal = torch.empty(n)
    for top, stop, values in _row_blocks(read, starts):
        if not bool(values.isfinite().all()):
            raise _bad(file, key, "has NaN or infinite values", "a Gram matrix is finite")
        diagonal[top:stop] = values[starts[top:stop] - starts[top]]
    if bool((diagonal < 0).any()):
        raise _bad(file, key, "has a negative diagonal", "a mean of squares cannot be below 0")
    if float(diagonal.max()) > SCALE_LIMIT:
        raise _bad(file, key, f"has values up to {float(diagonal.max()):.1e}", "no layer has such inputs")
    root = diagonal.double().sqrt().float().numpy() * 1.005  # Cauchy-Schwarz, with room for the rounding of bfloat16
    for top, stop, values in _row_blocks(read, starts):
        matrix, begins = values.numpy(), (starts[top:stop] - starts[top]).tolist()
        for row, begin in zip(range(top, stop), begins, strict=True):
            if bool((abs(matrix[begin : begin + n - row]) > root[row] * root[row:] + 1e-30).any()):
                raise _bad(file, key, "is not a Gram matrix", "an entry is larger than its diagonal allows")
    return float(diagonal.double().sum())


def _row_blocks(read: Read, starts: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(first row, row behind the last, their values) of a packed triangle, some rows at a time."""
    top, n = 0, len(starts) - 1
    while top < n:
        room = int(starts[top]) + CHECKED_AT_ONCE
        stop = max(top + 1, int(torch.searchsorted(starts, room, right=True)) - 1)
        yield top, stop, read(int(starts[top]), int(starts[stop])).float()
        top = stop


def _check_fisher(file: str, name: str, read: Read, moments: tuple[int, float, float]) -> None:
    found = (0, 0.0, 0.0)
    for start in range(0, moments[0], CHECKED_AT_ONCE):
        values = read(start, start + CHECKED_AT_ONCE)
        if not bool(values.isfinite().all()):
            raise _bad(file, name, "has NaN or infinite values", "a Fisher value is finite")
        if values.numel() and float(values.min()) < 0:
            raise _bad(file, name, "has negative values", "a mean of squares cannot be below 0")
        if values.numel() and float(values.max()) > FISHER_LIMIT:
            raise _bad(file, name, f"has values up to {float(values.max()):.1e}", "no model has such gradients")
        count, total, squares = moments_of(values)
        found = (found[0] + count, found[1] + total, found[2] + squares)
    for said, true in zip(moments, found, strict=True):
        if abs(said - true) > 1e-4 * abs(true):
            raise _bad(file, name, f"has a sum of {true:.6g}", f"its header says {said:.6g}")


def _bad(file: str, name: str, what: str, why: str) -> InputError:
    return InputError(f"{file}: {name} {what}", why, "Collect the statistics again")


def _table(metadata: Mapping[str, str], name: str, absent: str = "") -> dict[str, Any]:
    table = json.loads(metadata.get(name, absent))
    _require(isinstance(table, dict) and len(table) <= NAME_LIMIT, f"{name} is not a table")
    return dict(table)


def _count(value: Any, name: str) -> int:
    number = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value) else value
    whole = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < COUNT_LIMIT
    _require(whole, f"{name[:120]} is not a count")
    return int(number)


class _Nonsense(ValueError):
    """A header that contradicts itself."""


def _require(condition: bool, why: str) -> None:
    if not condition:
        raise _Nonsense(why)


def _sentence(error: Exception) -> str:
    return str(error)[:300] if isinstance(error, _Nonsense) else "a table in it is missing or not JSON"
