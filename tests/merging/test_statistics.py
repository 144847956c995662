"""The statistics file: what is written can be read, and what is hostile is refused."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from merging.errors import InputError
from merging.header import parse_header
from merging.sketch import distance, packed, sketch
from merging.statistics import (
    Provenance,
    Statistics,
    check_values,
    fact_from_header,
    pack_triangle,
    traces_of,
    unpack_triangle,
    write_fisher,
    write_gram,
    write_triangles,
)

DIGEST = "ab" * 32
FROM = Provenance(weights={"model.safetensors": DIGEST}, model="owner/name", revision="1" * 40, examples=7, seed=3)


def gram_of(n: int, seed: int = 0) -> Tensor:
    """A Gram matrix of 3n random rows."""
    rows = torch.randn(3 * n, n, generator=torch.Generator().manual_seed(seed))
    return rows.T @ rows / len(rows)


def gram_file(path: Path, gram: Tensor) -> Path:
    """A Gram file in which q and k share one Gram."""
    return write_gram(
        path, {"q.weight": gram}, {"q.weight": 40}, {"q.weight": "q.weight", "k.weight": "q.weight"}, FROM
    )


def rewrite(path: Path, **changes: object) -> Path:
    """The same tensors with other metadata; None removes an entry."""
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    for name, value in changes.items():
        metadata.pop(name, None)
        if value is not None:
            metadata[name] = value if isinstance(value, str) else json.dumps(value)
    save_file(tensors, path, metadata=metadata)
    return path


def test_bfloat16_takes_half_the_space(tmp_path: Path) -> None:
    """Values to one part in 256; the file passes its own check, and is read as float32."""
    gram = gram_of(40)
    packed, names, traces = {"q.weight": pack_triangle(gram)}, {"q.weight": "q.weight"}, traces_of({"q.weight": gram})
    files = [
        write_triangles(tmp_path / numbers, packed, {"q.weight": 40}, traces, {"q.weight": 120}, names, FROM, numbers)
        for numbers in ("float32", "bfloat16")
    ]
    values = [Statistics(file) for file in files]
    assert [value.specs["q.weight"].nbytes for value in values] == [4 * 820, 2 * 820]
    check_values(files[1])
    assert values[1].gram("q.weight").dtype == torch.float32
    torch.testing.assert_close(values[1].gram("q.weight"), gram, rtol=1 / 256, atol=0)


@pytest.mark.parametrize("n", [1, 2, 5, 256, 257, 600])
def test_a_packed_triangle_unpacks_to_the_same_matrix(n: int) -> None:
    """The triangle is row by row, and unpacking restores both halves bit by bit."""
    matrix = torch.randn(n, n)
    matrix = matrix + matrix.T
    packed = pack_triangle(matrix)
    rows, columns = torch.triu_indices(n, n)
    assert torch.equal(packed, matrix[rows, columns])
    assert torch.equal(unpack_triangle(lambda start, stop: packed[start:stop], n), matrix)


def test_a_gram_file_reads_back(tmp_path: Path) -> None:
    """Every alias gives the one Gram that is stored, as a symmetric matrix."""
    gram = gram_of(6)
    statistics = Statistics(gram_file(tmp_path / "gram.safetensors", gram))
    torch.testing.assert_close(statistics.gram("k.weight"), gram)
    assert torch.equal(statistics.gram("q.weight"), statistics.gram("k.weight"))
    assert statistics.gram_key("k.weight") == "q.weight"
    assert statistics.gram_key("v.weight") is None
    assert statistics.specs["q.weight"].shape == (21,)
    fact = statistics.fact
    assert (fact.kind, fact.examples, dict(fact.weights)) == ("gram", 7, {"model.safetensors": DIGEST})
    assert fact.keys == {"q.weight": 6, "k.weight": 6}
    assert fact.tokens == {"q.weight": 40, "k.weight": 40}
    assert fact.nbytes == (tmp_path / "gram.safetensors").stat().st_size
    check_values(tmp_path / "gram.safetensors")


def test_a_fisher_file_reads_back(tmp_path: Path) -> None:
    """Values, shapes and moments are those that were written."""
    values = {"a.weight": torch.rand(3, 4), "a.bias": torch.rand(3)}
    statistics = Statistics(write_fisher(tmp_path / "fisher.safetensors", values, FROM))
    assert torch.equal(statistics.read("a.weight", 2, 9), values["a.weight"].reshape(-1)[2:9])
    assert statistics.fact.keys == {"a.weight": 12, "a.bias": 3}
    wide = values["a.weight"].double()
    count, total, squares = statistics.moments("a.weight")
    assert count == 12
    assert total == pytest.approx(float(wide.sum()), rel=1e-12)
    assert squares == pytest.approx(float((wide * wide).sum()), rel=1e-12)
    check_values(tmp_path / "fisher.safetensors")


def test_the_fact_needs_only_the_header(tmp_path: Path) -> None:
    """The first bytes and the size of a remote file are enough."""
    path = gram_file(tmp_path / "gram.safetensors", gram_of(6))
    head = path.read_bytes()
    head = head[: 8 + struct.unpack("<Q", head[:8])[0]]
    header = parse_header(head, path.stat().st_size, path.name)
    fact = fact_from_header(header, source="owner/name-merge-statistics@1:gram.safetensors", sha256=DIGEST, nbytes=9)
    assert (fact.sha256, fact.nbytes, fact.source[:10]) == (DIGEST, 9, "owner/name")
    assert fact.keys == {"q.weight": 6, "k.weight": 6}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "pt"}, "is not a statistics file: its header does not say so. Collect the statistics again."),
        ({"kind": "hessian"}, "is not a statistics file"),
        ({"version": "2"}, "format version '2': this program reads version 1"),
        ({"weights": None}, "broken header: a table in it is missing or not JSON"),
        ({"weights": "{"}, "broken header: a table in it is missing or not JSON"),
        ({"weights": {}}, "it does not name the weights it belongs to"),
        ({"weights": {"model.safetensors": "abc"}}, "'model.safetensors' has no SHA-256"),
        ({"aliases": [1]}, "aliases is not a table"),
        ({"aliases": {"q.weight": "x"}}, "q.weight is not its own alias"),
        ({"aliases": {"q.weight": "q.weight", "k.weight": 3}}, "k.weight points to a Gram that is not there"),
        ({"sizes": {}}, "its sizes are not those of its tensors"),
        ({"sizes": {"q.weight": 7}}, "q.weight is not the triangle of a 7 x 7 matrix"),
        ({"sizes": {"q.weight": -4}}, "the size of q.weight is not a count"),
        ({"sizes": {"q.weight": 200_000}}, "q.weight has 200000 inputs"),
        ({"tokens": {}}, "the tokens of q.weight is not a count"),
        ({"tokens": {"q.weight": 0}}, "q.weight was collected from no token"),
        ({"tokens": {"q.weight": 2**60}}, "the tokens of q.weight is not a count"),
        ({"examples": "many"}, "examples is not a count"),
    ],
)
def test_a_gram_header_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    """One sentence says what is wrong with the header."""
    path = rewrite(gram_file(tmp_path / "gram.safetensors", gram_of(6)), **change)
    with pytest.raises(InputError) as error:
        Statistics(path)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("moments", "text"),
    [
        ({}, "its moments are not those of its tensors"),
        ({"w": [3, 1, 1]}, "the moments of w are of 3 values, it has 4"),
        ({"w": [4, -1, 1]}, "the moments of w are impossible"),
        ({"w": [4, float("nan"), 1]}, "the moments of w are impossible"),
        ({"w": 5}, "a table in it is missing or not JSON"),
    ],
)
def test_a_fisher_header_that_contradicts_itself_is_refused(tmp_path: Path, moments: object, text: str) -> None:
    """Moments decide how much a model counts: they are checked."""
    path = rewrite(write_fisher(tmp_path / "fisher.safetensors", {"w": torch.ones(4)}, FROM), moments=moments)
    with pytest.raises(InputError) as error:
        Statistics(path)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("row", "column", "value", "text"),
    [
        (2, 2, float("nan"), "q.weight has NaN or infinite values: a Gram matrix is finite."),
        (2, 2, -0.5, "q.weight has a negative diagonal: a mean of squares cannot be below 0."),
        (1, 3, 99.0, "q.weight is not a Gram matrix: an entry is larger than its diagonal allows."),
        (0, 0, 1e20, "q.weight has values up to 1.0e+20: no layer has such inputs."),
    ],
)
def test_gram_values_that_cannot_be_are_refused(tmp_path: Path, row: int, column: int, value: float, text: str) -> None:
    """NaN, a negative diagonal, an impossible entry or scale: each has its sentence."""
    gram = gram_of(6)
    gram[row, column] = value
    path = gram_file(tmp_path / "gram.safetensors", gram)
    with pytest.raises(InputError) as error:
        check_values(rewrite(path, traces=None))
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("inf"), "w has NaN or infinite values"),
        (-1.0, "w has negative values: a mean of squares cannot be below 0"),
        (1e35, "w has values up to 1.0e+35"),
    ],
)
def test_fisher_values_that_cannot_be_are_refused(tmp_path: Path, value: float, text: str) -> None:
    """A Fisher value is finite, not negative, and of sane scale."""
    path = write_fisher(tmp_path / "fisher.safetensors", {"w": torch.tensor([1.0, value, 5.0, 5.0])}, FROM)
    path = rewrite(path, moments={"w": [4, 10.0, 50.0]})
    with pytest.raises(InputError) as error:
        check_values(path)
    assert text in str(error.value)


def test_fisher_moments_that_are_not_those_of_the_values_are_refused(tmp_path: Path) -> None:
    """A header cannot make a model count more than its values say."""
    path = rewrite(write_fisher(tmp_path / "f.safetensors", {"w": torch.ones(4)}, FROM), moments={"w": [4, 4.0, 0.04]})
    with pytest.raises(InputError, match=r"w has a sum of 4: its header says 0\.04"):
        check_values(path)


def test_distances_can_be_told_from_headers(tmp_path: Path) -> None:
    """The sketches of a file estimate how far two models are apart; nonsense in their place is a broken header."""
    weights = [
        {f"{i}": torch.randn(96, 96, generator=torch.Generator().manual_seed(100 * seed + i)) for i in range(30)}
        for seed in range(2)
    ]
    moved = {name: value + 0.3 * weights[1][name] for name, value in weights[0].items()}
    models = [{name: sketch(value) for name, value in model.items()} for model in (weights[0], moved)]
    assert distance(models) == pytest.approx(0.3 / (1.045**0.5), rel=0.1)
    assert distance(models[:1]) is None
    path = write_gram(tmp_path / "g", {"0": gram_of(96)}, {"0": 9}, {"0": "0"}, replace(FROM, sketches=models[0]))
    assert Statistics(path).fact.sketches == models[0]
    for bad in ({"0": "AAAA"}, {"0": 3}, {"0": packed([float("nan")] * 64)}):
        with pytest.raises(InputError, match="has a broken header"):
            Statistics(rewrite(path, sketches=bad))
    assert Statistics(rewrite(path, sketches=None)).fact.sketches == {}


def test_a_trace_that_is_not_its_grams_is_refused(tmp_path: Path) -> None:
    """A preview believes the header; the values are checked when they are there."""
    path = gram_file(tmp_path / "g", gram_of(8))
    assert Statistics(path).fact.traces["k.weight"] == pytest.approx(float(gram_of(8).diagonal().sum()))
    with pytest.raises(InputError, match=r"has a trace of .*: its header says 1"):
        check_values(rewrite(path, traces={"q.weight": 1.0}))
    with pytest.raises(InputError, match=r"the trace of q.weight is impossible"):
        Statistics(rewrite(path, traces={"q.weight": -1.0}))
