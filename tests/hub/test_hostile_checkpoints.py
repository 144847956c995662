"""Weight files that lie, are broken or quantised: refused from headers alone, in the same words here and on the Hub."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.preview import make_preview
from tests.checkpoints import entry, packed, raw_file
from tests.hub.helpers import Models, Put, changed, wish

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
LAYER = "model.layers.0.self_attn.q_proj"
OTHER_VERSION = "Use the float32, float16 or bfloat16 version of this model."
Tensors = dict[str, Tensor]
Said = Callable[..., str]


@pytest.fixture
def said(hub: LoopbackHub, ann: Hub, put: Put, tiny: Models, monkeypatch: pytest.MonkeyPatch) -> Said:
    """`said(folder, **good)`: the only problem of a merge of a good model with that one.

    A folder and the Hub have it in the same words, beside the same field, and nothing but headers is read for it
    (of a folder a few values, where that is said: to see whether two models are the same).
    """

    def look(folder: Path, few_values: bool = False, **what: Any) -> str:
        put(ann, "ann/good", tiny(0, **what))
        put(ann, "ann/odd", folder)
        hub.reset_counters()
        remote = make_preview(wish("ann/good", "ann/odd"), ann, free=10**12, with_output=False)
        assert hub.counters()["weight_bytes"] == 0
        here = wish(str(tiny(0, **what)), str(folder))
        with monkeypatch.context() as patch:
            if not few_values:
                patch.setattr(os, "preadv", _not_allowed)
            local = make_preview(here, ann, free=10**12, folders_allowed=True, with_output=False)
        (there,), (mine,) = remote.errors, local.errors
        assert there.where == mine.where == "models.1.model"
        assert str(mine).replace(str(folder), "ann/odd") == str(there)
        return str(there)

    return look


def _not_allowed(*_: Any) -> int:
    raise AssertionError("a tensor was read")


def odd(tiny: Models, tmp_path: Path, **what: Any) -> Path:
    """A copy of a tiny model to be spoilt."""
    return changed(tiny(1, **what), tmp_path / "odd-one")


# Headers


GOOD = {"a": entry(), "b": entry(offsets=(8, 16))}
LIES: dict[str, tuple[bytes, str]] = {
    "gap": (
        raw_file({"a": entry(), "b": entry(offsets=(16, 24))}, bytes(24)),
        "8 bytes before b belong to no tensor: the file is damaged. Save it again.",
    ),
    "gap at the beginning": (raw_file({"a": entry(offsets=(4, 12))}, bytes(12)), "4 bytes before a belong to no"),
    "more than the tensors": (raw_file(GOOD, bytes(1016)), "1,000 bytes at the end belong to no tensor"),
    "overlap": (
        raw_file({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
        "a and b overlap: two tensors share bytes. Save it again.",
    ),
    "the same bytes twice": (raw_file({"a": entry(), "b": entry()}, bytes(8)), "a and b overlap"),
    "beyond the end": (
        raw_file({"a": entry(shape=(500,), offsets=(0, 2000))}, bytes(100)),
        "a has wrong offsets: [0, 2000] for 2000 bytes in a file of 174. The file is damaged or cut off: upload it",
    ),
    "nothing, beyond the end": (raw_file({"a": entry(shape=(0,), offsets=(99, 99))}), "a has wrong offsets"),
    "negative": (raw_file({"a": entry(offsets=(-8, 0))}, bytes(8)), "a has impossible sizes: (2, -8, 0)"),
    "backwards": (raw_file({"a": entry(offsets=(8, 0))}, bytes(8)), "a has wrong offsets: [8, 0] for 8 bytes"),
    "negative shape": (raw_file({"a": entry(shape=(-1, -2))}, bytes(8)), "a has impossible sizes"),
    "bool in a shape": (raw_file({"a": entry(shape=(True, 2))}, bytes(8)), "a has impossible sizes: (True, 2, 0, 8)"),
    "bool as an offset": (raw_file({"a": entry(offsets=(False, 8))}, bytes(8)), "a has impossible sizes"),
    "a fraction": (raw_file({"a": entry(shape=(2.0,))}, bytes(8)), "a has impossible sizes: (2.0, 0, 8)"),
    "a text for a shape": (raw_file({"a": {**entry(), "shape": "2"}}, bytes(8)), "a has impossible sizes"),
    "too large": (raw_file({"a": entry(shape=(2**40, 2**40))}, bytes(8)), "a has impossible sizes"),
    "a hundred dimensions": (raw_file({"a": entry(shape=(1,) * 99 + (2,))}, bytes(8)), "a has impossible sizes"),
    "infinite": (raw_file(b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}', bytes(8)), "a has impos"),
    "too few bytes": (raw_file({"a": entry(shape=(3,))}, bytes(8)), "a has wrong offsets: [0, 8] for 12 bytes"),
    "no offsets": (raw_file({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "a has a broken entry: it lacks a field"),
    "three offsets": (raw_file({"a": entry(offsets=(0, 4, 8))}, bytes(8)), "a has a broken entry"),
    "a number for a tensor": (raw_file({"a": 3}), "a has a broken entry"),
    "a list for a dtype": (raw_file({"a": entry(code=["F32"])}, bytes(8)), "a is stored as ['F32']: safetensors knows"),
    "a name twice": (
        raw_file(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
        "has a broken header: a stands in it twice. Save the model again.",
    ),
    "a field twice": (
        raw_file(b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "has a broken header: dtype stands in it twice.",
    ),
    "metadata twice": (
        raw_file(b'{"__metadata__":{},"__metadata__":{"a":"b"},"a":%s}' % json.dumps(entry()).encode(), bytes(8)),
        "has a broken header: __metadata__ stands in it twice.",
    ),
    "metadata that is a text": (raw_file({"__metadata__": "x", **GOOD}, bytes(16)), "its metadata is not a table"),
    "a name that is no text": (
        raw_file(b'{"\\ud800":%s}' % json.dumps(entry()).encode(), bytes(8)),
        r"\ud800 is no name of a tensor: it is not text",
    ),
    "other letters": (raw_file(json.dumps(GOOD).encode("utf-16"), bytes(16)), "has a broken header: it is not JSON"),
    "padded with zeros": (raw_file(GOOD, bytes(16), back=b"\0\0"), "has a broken header: it is not JSON"),
    "deeply nested": (raw_file(b"[" * 5_000), "has a broken header"),
    "a list": (raw_file([GOOD]), "has a broken header: it is not a table of tensors"),
    "nothing": (b"", "is cut off: it has 0 bytes. Upload the whole file again."),
    "cut in its length": (raw_file(GOOD)[:5], "is cut off: it has 5 bytes"),
    "cut in its header": (raw_file(GOOD)[:60], "is cut off: its header is longer than the file"),
    "cut in its tensors": (raw_file(GOOD, bytes(15)), "b has wrong offsets: [8, 16] for 8 bytes in a file of"),
    "a long name": (raw_file({"x" * 50_000: 3}), f"{'x' * 100} has a broken entry"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(said: Said, tiny: Models, tmp_path: Path, lie: str) -> None:
    """One sentence, of one line, that names the file and the tensor; nothing else of the file is read."""
    folder = odd(tiny, tmp_path)
    body, sentence = LIES[lie]
    (folder / FILE).write_bytes(body)
    words = said(folder)
    assert words.startswith(f"ann/odd: {FILE}")
    assert sentence in words
    assert (len(words) < 500, len(words.splitlines())) == (True, 1)


def test_a_file_that_is_cut_off(said: Said, tiny: Models, tmp_path: Path) -> None:
    """A real one, in the middle of its tensors."""
    folder = odd(tiny, tmp_path)
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[: len(whole) // 2])
    words = said(folder)
    assert words.startswith(f"ann/odd: {FILE}: ")
    assert words.endswith(f" bytes in a file of {len(whole) // 2}. The file is damaged or cut off: upload it again.")


# Numbers that cannot be merged


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("F8_E4M3", torch.ones(4, 4).to(torch.float8_e4m3fn)),
        ("F8_E5M2", torch.ones(4, 4).to(torch.float8_e5m2)),
        ("F8_E4M3FNUZ", torch.ones(4, 4).to(torch.float8_e4m3fnuz)),
        ("F8_E5M2FNUZ", torch.ones(4, 4).to(torch.float8_e5m2fnuz)),
        ("F8_E8M0", torch.ones(4, 4).to(torch.float8_e8m0fnu)),
        ("F4", torch.zeros(4, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)),
        ("F6_E2M3", None),
        ("F6_E3M2", None),
    ],
)
def test_small_floats_are_refused(said: Said, tiny: Models, tmp_path: Path, code: str, values: Tensor | None) -> None:
    """Files as safetensors writes them; the sentence names the tensor, the format and the way out."""
    folder = odd(tiny, tmp_path)
    if values is not None:
        save_file({"bert.first.weight": torch.ones(2), "bert.layer.weight": values}, folder / FILE)
        assert f'"{code}"'.encode() in (folder / FILE).read_bytes()
    else:  # nothing of ours can write them
        (folder / FILE).write_bytes(raw_file({"bert.layer.weight": entry(code, (4,), (0, 3))}, bytes(3)))
    assert said(folder) == (
        f"ann/odd: {FILE}: bert.layer.weight is stored as {code}: quantised weights cannot be merged. {OTHER_VERSION}"
    )


@pytest.mark.parametrize(
    ("code", "dtype", "sentence"),
    [
        ("U16", torch.uint16, f"whole numbers of this kind are quantised weights, packed. {OTHER_VERSION}"),
        ("U32", torch.uint32, f"whole numbers of this kind are quantised weights, packed. {OTHER_VERSION}"),
        ("U64", torch.uint64, f"whole numbers of this kind are quantised weights, packed. {OTHER_VERSION}"),
        ("C64", torch.complex64, "complex numbers cannot be merged. Leave this model out."),
    ],
)
def test_other_numbers_are_refused(
    said: Said, tiny: Models, tmp_path: Path, code: str, dtype: torch.dtype, sentence: str
) -> None:
    """Codes that safetensors knows, and no weights have."""
    folder = odd(tiny, tmp_path)
    save_file({"bert.layer.weight": torch.ones(2, 2).to(dtype)}, folder / FILE)
    assert said(folder) == f"ann/odd: {FILE}: bert.layer.weight is stored as {code}: {sentence}"


def test_numbers_that_nobody_knows(said: Said, tiny: Models, tmp_path: Path) -> None:
    """A code of tomorrow, or none."""
    folder = odd(tiny, tmp_path)
    (folder / FILE).write_bytes(raw_file({"a": entry("X7")}, bytes(8)))
    assert (
        said(folder) == f"ann/odd: {FILE}: a is stored as X7: safetensors knows no such numbers. Save the model again."
    )


# Quantised models as their tools save them


def int8(values: Tensor) -> Tensor:
    """Codes of one byte."""
    return torch.zeros(values.shape, dtype=torch.int8)


def bitsandbytes_8(name: str, values: Tensor) -> Tensors:
    """Codes under the weight's own name, a scale for each row."""
    return {
        f"{name}.weight": int8(values),
        f"{name}.SCB": torch.ones(len(values)),
        f"{name}.weight_format": torch.tensor(0),
    }


def bitsandbytes_4(name: str, values: Tensor) -> Tensors:
    """Two codes a byte in one column, with their scales and the table of the format."""
    return {
        f"{name}.weight": torch.zeros(values.numel() // 2, 1, dtype=torch.uint8),
        f"{name}.weight.absmax": torch.zeros(values.numel() // 64, dtype=torch.uint8),
        f"{name}.weight.quant_map": torch.ones(16),
        f"{name}.weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
    }


def gptq(name: str, values: Tensor) -> Tensors:
    """Eight codes an int32, in the columns of the inputs."""
    rows, columns = values.shape
    return {
        f"{name}.qweight": torch.zeros(columns // 8, rows, dtype=torch.int32),
        f"{name}.qzeros": torch.zeros(1, rows // 8, dtype=torch.int32),
        f"{name}.scales": torch.ones(1, rows, dtype=torch.float16),
        f"{name}.g_idx": torch.zeros(columns, dtype=torch.int32),
    }


def awq(name: str, values: Tensor) -> Tensors:
    """As GPTQ, packed the other way round, without an order of groups."""
    tensors = gptq(name, values)
    del tensors[f"{name}.g_idx"]
    return tensors


def compressed(name: str, values: Tensor) -> Tensors:
    """Codes with another name beside their scales."""
    return {
        f"{name}.weight_packed": torch.zeros(len(values), values.shape[1] // 8, dtype=torch.int32),
        f"{name}.weight_scale": torch.ones(len(values), 1, dtype=torch.bfloat16),
        f"{name}.weight_shape": torch.tensor(values.shape),
    }


SCHEMES: dict[str, tuple[Callable[[str, Tensor], Mapping[str, Tensor]], dict[str, Any], str]] = {
    "bitsandbytes 8": (bitsandbytes_8, {"quant_method": "bitsandbytes", "load_in_8bit": True}, f"{LAYER}.weight"),
    "bitsandbytes 4": (bitsandbytes_4, {"quant_method": "bitsandbytes", "load_in_4bit": True}, f"{LAYER}.weight"),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4}, f"{LAYER}.qweight"),
    "awq": (awq, {"quant_method": "awq", "bits": 4}, f"{LAYER}.qweight"),
    "compressed-tensors": (compressed, {"quant_method": "compressed-tensors"}, f"{LAYER}.weight_packed"),
}


@pytest.mark.parametrize("named", [True, False], ids=["said in the config", "not said"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantised_models_are_refused(said: Said, tiny: Models, tmp_path: Path, scheme: str, named: bool) -> None:
    """By the config's word, and without it by the codes; the first tensor that holds them is named."""
    pack, config, first = SCHEMES[scheme]
    folder = odd(tiny, tmp_path, kind="llama", labels=None)
    tensors: Tensors = {}
    for name, values in load_file(tiny(1, kind="llama", labels=None) / FILE).items():
        linear = name.endswith("_proj.weight")
        tensors |= pack(name.removesuffix(".weight"), values) if linear else {name: values.half()}
    ours = {name: values for name, values in tensors.items() if LAYER in name}  # stands first in the file
    (folder / FILE).write_bytes(packed(ours | tensors, metadata={"format": "pt"}))
    if named:
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(stored | {"quantization_config": config}))
    method = f" ({config['quant_method']})" if named else ""
    words = said(folder, kind="llama", labels=None)
    assert words == f"ann/odd is quantised{method}: {first} holds codes, not weights. {OTHER_VERSION}"


def test_a_config_alone_says_that_a_model_is_quantised(said: Said, tiny: Models, tmp_path: Path) -> None:
    """Its tensors look like any others."""
    folder = changed(tiny(1), tmp_path / "odd-one", quantization_config={"bits": 8})
    assert said(folder, few_values=True) == f"ann/odd is quantised: its config says so. {OTHER_VERSION}"


# Indexes


def sharded(tiny: Models, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a model in shards, and its index."""
    folder = tmp_path / "odd-one"
    shutil.copytree(tiny(1, shard_size="30KB"), folder)
    return folder, json.loads((folder / INDEX).read_text())


def test_an_index_that_names_another_shard(said: Said, tiny: Models, tmp_path: Path) -> None:
    """The tensor is in another shard than the index says."""
    folder, index = sharded(tiny, tmp_path)
    name, true = min(index["weight_map"].items())
    false = max(set(index["weight_map"].values()) - {true})
    index["weight_map"][name] = false
    (folder / INDEX).write_text(json.dumps(index))
    assert said(folder) == (
        f"ann/odd: {false} has no tensor {name}: its index says so, but it is in {true}. Save the model again."
    )


def test_an_index_that_names_a_tensor_that_is_not_there(said: Said, tiny: Models, tmp_path: Path) -> None:
    """No shard has it."""
    folder, index = sharded(tiny, tmp_path)
    shard = min(index["weight_map"].values())
    index["weight_map"]["bert.more.weight"] = shard
    (folder / INDEX).write_text(json.dumps(index))
    assert said(folder) == (
        f"ann/odd: {shard} has no tensor bert.more.weight: its index says so, but no shard has it. "
        "Save the model again."
    )


@pytest.mark.slow
def test_an_index_that_names_a_shard_that_is_not_there(said: Said, tiny: Models, tmp_path: Path) -> None:
    """One of the files was not uploaded."""
    folder, index = sharded(tiny, tmp_path)
    shard = min(index["weight_map"].values())
    (folder / shard).unlink()
    assert said(folder) == f"ann/odd: {shard} is missing: its index names it. Download it again, or ask its owner."


def test_an_index_with_a_name_twice(said: Said, tiny: Models, tmp_path: Path) -> None:
    """Two answers are none."""
    folder, index = sharded(tiny, tmp_path)
    name, shard = min(index["weight_map"].items())
    text = json.dumps(index).replace('"weight_map": {', f'"weight_map": {{"{name}": "{shard}", ')
    (folder / INDEX).write_text(text)
    assert said(folder) == f"ann/odd has a broken index: {name} stands twice in {INDEX}. Save the model again."


def test_a_tensor_in_two_shards(said: Said, tiny: Models, tmp_path: Path) -> None:
    """Nobody can say which one counts."""
    folder, index = sharded(tiny, tmp_path)
    name, shard = min(index["weight_map"].items())
    other = max(set(index["weight_map"].values()) - {shard})
    tensors = {key: values.clone() for key, values in load_file(folder / other).items()}
    save_file(tensors | {name: load_file(folder / shard)[name].clone()}, folder / other, {"format": "pt"})
    assert said(folder).startswith(f"ann/odd: {name} stands in two shards")


def test_a_shard_that_is_cut_off(said: Said, tiny: Models, tmp_path: Path) -> None:
    """Of several files one is half."""
    folder, index = sharded(tiny, tmp_path)
    shard = max(index["weight_map"].values())
    whole = (folder / shard).read_bytes()
    (folder / shard).write_bytes(whole[:-40])
    assert said(folder).startswith(f"ann/odd: {shard}: ")
