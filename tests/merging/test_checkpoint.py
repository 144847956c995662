"""Checkpoints: untrusted headers, reading by position, writing in any order."""

import gc
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from merging.checkpoint import (
    Checkpoint,
    ShardWriter,
    checked_config,
    open_parent,
    sha256_of,
    vocabulary_of,
    weight_files,
)
from merging.errors import InputError
from merging.header import parse_header
from merging.tensors import TensorSpec
from tests.tiny_models import save_tiny

torch.set_num_threads(1)


def header(entries: object, size: int = 10_000) -> tuple[bytes, int]:
    """The first bytes of a file that claims these entries."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text, size


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), offsets: tuple[int, int] = (0, 8)) -> dict[str, object]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("entries", "size", "sentence"),
    [
        (b"not json", 10_000, "has a broken header: it is not JSON"),
        (b"[1, 2]", 10_000, "it is not a table of tensors"),
        ({"a": entry(offsets=(0, 4))}, 10_000, "a has wrong offsets"),
        ({"a": entry(offsets=(-8, 0))}, 10_000, "a has impossible sizes"),
        ({"a": entry()}, 20, "is cut off: its header is longer than the file"),
        ({"a": entry(shape=(500,), offsets=(0, 2000))}, 1000, "a has wrong offsets"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 10_000, "a and b overlap"),
        ({"a": entry("F8_E4M3", offsets=(0, 2))}, 10_000, "a is stored as F8_E4M3: quantised weights cannot be merged"),
        ({"a": entry(shape=(2**40, 2**40))}, 10_000, "a has impossible sizes"),
        ({"a": {"dtype": "F32"}}, 10_000, "a has a broken entry"),
        ({"a": 3}, 10_000, "a has a broken entry"),
        ({"a" * 1001: entry()}, 10_000, "it has 1,001 characters, at most 1,000 are read"),
        ({"__metadata__": "x"}, 10_000, "its metadata is not a table"),
        ({"a": entry(shape=("2",))}, 10_000, "a has impossible sizes"),  # type: ignore[arg-type]
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_read(entries: object, size: int, sentence: str) -> None:
    """One sentence that names the tensor."""
    with pytest.raises(InputError, match=sentence):
        parse_header(*header(entries, size), "model.safetensors")


def test_a_gigantic_header_is_refused_by_its_length() -> None:
    """Nobody's header has gigabytes."""
    with pytest.raises(InputError, match="has a header of 1,000,000,000 bytes"):
        parse_header(struct.pack("<Q", 10**9), 10**10, "model.safetensors")


def test_an_error_in_a_header_names_the_model(tmp_path: Path) -> None:
    """As the recipe does, with the file."""
    folder = save_tiny(tmp_path / "m")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"^ann/m: model\.safetensors: \S+ has wrong offsets"):
        open_parent("ann/m", folder)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_a_header_do_anything_but_refuse(data: bytes) -> None:
    """Random bytes end in InputError or in a header whose tensors lie inside the file."""
    try:
        found = parse_header(data, len(data))
    except InputError:
        return
    for name, spec in found.specs.items():
        assert found.offsets[name] + spec.nbytes <= len(data)


def test_reading_by_position_equals_loading_the_file(tmp_path: Path) -> None:
    """Whole tensors and ranges, of every dtype, scalars and empty tensors too."""
    tensors = {
        "matrix": torch.randn(7, 5),
        "half": torch.randn(9).half(),
        "brain": torch.randn(3, 3).bfloat16(),
        "whole": torch.arange(6),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    stored = Checkpoint(tmp_path)
    for name, values in tensors.items():
        assert torch.equal(stored.read(name).reshape(values.shape), values), name
        assert stored.specs[name].shape == tuple(values.shape)
    assert torch.equal(stored.read("matrix", 3, 11), tensors["matrix"].reshape(-1)[3:11])
    assert torch.equal(stored.read("matrix", 30, 99), tensors["matrix"].reshape(-1)[30:])


def test_a_shard_written_in_any_order_is_what_safetensors_reads(tmp_path: Path) -> None:
    """Blocks come in any order; the file has its name only when all are there."""
    tensors = {"a": torch.randn(4, 6), "b": torch.randn(5).bfloat16(), "c": torch.tensor(1)}
    path = tmp_path / "model.safetensors"
    writer = ShardWriter(path, [TensorSpec(name, tuple(t.shape), t.dtype) for name, t in tensors.items()])
    writer.write("c", 0, tensors["c"])
    writer.write("a", 12, tensors["a"].reshape(-1)[12:])
    with pytest.raises(RuntimeError, match="bytes are missing"):
        writer.finish()
    assert not path.exists()
    writer.write("b", 0, tensors["b"])
    writer.write("a", 0, tensors["a"].reshape(-1)[:12])
    writer.finish()
    read = load_file(path)
    assert all(torch.equal(read[name], values) for name, values in tensors.items())


def test_only_pickles_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """A pickle can run code; the sentence says what to do instead."""
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"has no safetensors: it has only pytorch_model.bin, .* save it again"):
        weight_files(tmp_path)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/x.safetensors", "model.bin"])
def test_an_index_names_plain_safetensors_files_only(tmp_path: Path, name: str) -> None:
    """No path leaves the folder."""
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="has a broken index"):
        weight_files(tmp_path)


def test_a_parent_from_a_folder_knows_everything_but_its_values(tmp_path: Path) -> None:
    """Config, labels, hashes, vocabulary."""
    parent = open_parent("x/y", save_tiny(tmp_path / "m", labels=("red", "green")))
    assert parent.labels == ("red", "green")
    assert parent.architecture == "BertForSequenceClassification"
    assert set(parent.weights) == {"model.safetensors"}
    assert len(parent.weights["model.safetensors"]) == 64
    assert parent.vocabulary


def test_padding_settings_do_not_change_a_vocabulary() -> None:
    """Only the token table counts, not how a tokenizer pads or truncates."""
    plain = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}
    padded = plain | {"padding": {"strategy": "BatchLongest"}}
    other = {"model": {"vocab": {"a": 1, "b": 0}}, "added_tokens": []}
    prints = [vocabulary_of({"tokenizer.json": json.dumps(table).encode()}) for table in (plain, padded, other)]
    assert prints[0] == prints[1] != prints[2]


def test_the_same_tokens_in_another_file_are_the_same_vocabulary() -> None:
    """`vocab.txt` and `tokenizer.json` with one table agree; what cannot be read is of another kind."""
    table = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "a", "id": 0}]}
    assert vocabulary_of({"tokenizer.json": json.dumps(table).encode()}) == vocabulary_of({"vocab.txt": b"a\nb\n"})
    assert vocabulary_of({"spiece.model": b"\x00"}).startswith("bytes:")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ([], "it is not a table"),
        ({"id2label": ["a"]}, "id2label is not a table"),
        ({"id2label": {"x": "a"}}, "id2label is not a table"),
        ({"architectures": "Bert"}, "architectures is not a list"),
    ],
)
def test_an_odd_config_is_one_sentence(config: object, sentence: str) -> None:
    """The fields that are looked at have their form."""
    with pytest.raises(InputError, match=f"demo/x has a broken config.json: {sentence}"):
        checked_config(config, "demo/x")


@pytest.mark.slow
def test_a_checkpoint_that_nobody_closes_gives_its_descriptors_back(tmp_path: Path) -> None:
    """A model of many shards is opened in each stage anew: descriptors are few."""
    folder = save_tiny(tmp_path / "model", shard_size="20KB")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert len(Checkpoint(folder).files) > 1
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_full_disk_leaves_no_descriptor_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room of a shard is asked for before anything is written to it."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"):
        ShardWriter(tmp_path / "model.safetensors", [TensorSpec("a", (2,), torch.float32)])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_s_weights_are_named_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which files there are is known from the folder; only the value of one reads it."""
    digests = open_parent("model", save_tiny(tmp_path / "model")).weights
    read: list[Path] = []

    def recorded(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr("merging.checkpoint.sha256_of", recorded)
    assert "model.safetensors" in digests
    assert "other.safetensors" not in digests
    assert (list(digests), len(digests), read) == (["model.safetensors"], 1, [])
    assert digests["model.safetensors"] == sha256_of(tmp_path / "model" / "model.safetensors")
    assert len(read) == 1
