"""Checkpoints as people have them, by real files: each merges to the mean that is computed here from whole tensors."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging.checkpoint import open_parent
from merging.engine import Report, merge, run_to_end
from merging.method import METHODS
from merging.plan import Plan, make_plan
from merging.recipe import Recipe, recipe_from_dict
from tests.checkpoints import packed, tensors_of
from tests.tiny_models import save_tiny

torch.set_num_threads(1)
FILE = "model.safetensors"
Tensors = dict[str, Tensor]


def planned(wish: Recipe) -> tuple[Plan, Any, Any]:
    """The plan of a recipe of folders, with what it is made of."""
    parents = [open_parent(entry.repo_id, Path(entry.model)) for entry in wish.models]
    base = open_parent("base", Path(wish.base_model)) if wish.base_model else None
    return make_plan(wish, parents, base), parents, base


def merged(out: Path, *folders: Path, method: str = "average", **more: Any) -> Report:
    """Merge folders into `out`."""
    wish = recipe_from_dict({"merge_method": method, "models": [{"model": str(folder)} for folder in folders], **more})
    plan, parents, base = planned(wish)
    return run_to_end(merge(plan, parents, out, base=base, threads=2))


def rewritten(folder: Path, change: Callable[[Tensors], Mapping[str, Tensor]]) -> Path:
    """The model with other tensors, in one file."""
    before = {name: values.clone() for name, values in load_file(folder / FILE).items()}  # the file is written anew
    tensors = {name: values.contiguous() for name, values in change(before).items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    return folder


def assert_mean(out: Path, *folders: Path) -> None:
    """Every tensor of the result is the mean of the folders', in the format of the first."""
    result, parts = tensors_of(out), [tensors_of(folder) for folder in folders]
    assert result.keys() == parts[0].keys()
    for name, values in result.items():
        mean = sum(part[name].double() for part in parts) / len(parts)
        wanted = parts[0][name].dtype if parts[0][name].dtype != torch.float64 else torch.float32
        assert values.dtype == wanted, name
        torch.testing.assert_close(values, mean.to(wanted), rtol=1e-2 if wanted != torch.float32 else 1e-6, atol=1e-6)


def loads(out: Path) -> Any:
    """The result as plain transformers loads it: nothing missing, nothing left over."""
    from transformers import AutoModelForSequenceClassification

    model, told = AutoModelForSequenceClassification.from_pretrained(out, output_loading_info=True, dtype="auto")
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    return model


# Shards


@pytest.mark.parametrize("sizes", [("20KB", "1GB"), ("1GB", "20KB"), ("20KB", "45KB"), ("30KB", "30KB")])
def test_shards_of_any_size_merge(tmp_path: Path, sizes: tuple[str, str]) -> None:
    """Only the first model in shards, only the second, both in others, both in the same."""
    folders = [save_tiny(tmp_path / str(i), seed=i, shard_size=size) for i, size in enumerate(sizes)]
    assert [len(list(folder.glob("*.safetensors"))) > 1 for folder in folders] == [size != "1GB" for size in sizes]
    merged(tmp_path / "out", *folders)
    assert_mean(tmp_path / "out", *folders)
    loads(tmp_path / "out")


@pytest.mark.parametrize("method", sorted(name for name, method in METHODS.items() if "base" in method.needs))
def test_a_base_in_shards_is_the_base_in_one_file(tmp_path: Path, method: str) -> None:
    """Bytes of the result do not depend on the files that the base is cut into."""
    base = {size: save_tiny(tmp_path / f"base{size}", seed=0, shard_size=size) for size in ("1GB", "20KB")}
    models = [save_tiny(tmp_path / str(i), seed=i) for i in range(1, 2 if method == "slerp" else 3)]
    digests = []
    for size, folder in base.items():
        named = tmp_path / f"of{size}" / "base"
        named.parent.mkdir()
        named.symlink_to(folder)
        options = {"parameters": {"t": 0.5}} if method == "slerp" else {}
        digests.append(merged(tmp_path / f"out{size}", *models, method=method, base_model=str(named), **options).files)
    assert digests[0] == digests[1]


# Number formats


@pytest.mark.parametrize(
    "formats", [(torch.float32, torch.float16, torch.bfloat16), (torch.bfloat16, torch.float32, torch.float16)]
)
def test_formats_that_differ_between_models(tmp_path: Path, formats: tuple[torch.dtype, ...]) -> None:
    """Accumulated in float32, stored as the first; the plan says whose format wins."""
    folders = [save_tiny(tmp_path / str(i), seed=i, dtype=dtype) for i, dtype in enumerate(formats)]
    merged(tmp_path / "out", *folders)
    assert_mean(tmp_path / "out", *folders)
    wish = recipe_from_dict({"merge_method": "average", "models": [{"model": str(folder)} for folder in folders]})
    first = str(formats[0]).removeprefix("torch.")
    (warning,) = planned(wish)[0].problems
    assert f"bfloat16, float16, float32: the result is {first}, as the first of them" in str(warning)
    assert loads(tmp_path / "out").dtype == formats[0]


def test_formats_that_differ_inside_a_model(tmp_path: Path) -> None:
    """Norms in float32 among bfloat16, as many save them: each tensor keeps its own, the config names that of most."""

    def norms_wide(tensors: Tensors) -> Tensors:
        return {name: values.float() if "LayerNorm" in name else values for name, values in tensors.items()}

    folders = [
        rewritten(save_tiny(tmp_path / str(i), seed=i, dtype=torch.bfloat16), norms_wide if i == 0 else dict)
        for i in range(2)
    ]
    merged(tmp_path / "out", *folders)
    assert_mean(tmp_path / "out", *folders)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    wish = recipe_from_dict({"merge_method": "average", "models": [{"model": str(folder)} for folder in folders]})
    assert not planned(wish)[0].problems
    loads(tmp_path / "out")


def test_a_first_norm_in_another_format_does_not_name_the_model(tmp_path: Path) -> None:
    """What most values are decides the warning, not what comes first in the file."""

    def first_wide(tensors: Tensors) -> Tensors:
        name = min(tensors)
        return tensors | {name: tensors[name].float()}

    half = rewritten(save_tiny(tmp_path / "half", seed=1, dtype=torch.float16), first_wide)
    full = save_tiny(tmp_path / "full", seed=2)
    wish = recipe_from_dict({"merge_method": "average", "models": [{"model": str(half)}, {"model": str(full)}]})
    assert "stored as float16, float32: the result is float16" in str(planned(wish)[0].problems[0])


def test_double_precision_becomes_single(tmp_path: Path) -> None:
    """float64 inputs are merged and stored as float32."""
    folders = [save_tiny(tmp_path / str(i), seed=i, dtype=torch.float64) for i in range(2)]
    merged(tmp_path / "out", *folders)
    assert_mean(tmp_path / "out", *folders)


# Odd tensors


@pytest.mark.parametrize("method", sorted(name for name, m in METHODS.items() if m.needs <= {"base"}))
def test_empty_tensors_scalars_and_counters(tmp_path: Path, method: str) -> None:
    """Nothing, a single value, and whole numbers that are no weights: merged by every method, counters copied."""

    def with_odd_ones(seed: int) -> Callable[[Tensors], Tensors]:
        return lambda tensors: {
            **tensors,
            "bert.odd.empty": torch.empty(0, 4),
            "bert.odd.nothing": torch.empty(3, 0),
            "bert.odd.scalar": torch.tensor(1.0 + seed),
            "bert.odd.one": torch.tensor([3.0 + seed]),
            "bert.odd.num_batches_tracked": torch.tensor(7 + seed),
            "bert.odd.relative_position_index": torch.arange(6).reshape(2, 3),
            "bert.odd.mask": torch.tensor([True, False]),
        }

    folders = [rewritten(save_tiny(tmp_path / str(i), seed=i), with_odd_ones(i)) for i in range(3)]
    more: dict[str, Any] = {"base_model": str(folders[0])} if METHODS[method].needs else {}
    more |= {"parameters": {"t": 0.5}} if method == "slerp" else {}
    models = folders[1:2] if method == "slerp" else folders[1:]
    merged(tmp_path / "out", *models, method=method, **more)
    result, first = tensors_of(tmp_path / "out"), tensors_of(models[0])
    assert {name: values.shape for name, values in result.items()} == {n: v.shape for n, v in first.items()}
    for name in ("num_batches_tracked", "relative_position_index", "mask"):
        assert torch.equal(result[f"bert.odd.{name}"], first[f"bert.odd.{name}"])
    if method == "average":
        assert result["bert.odd.scalar"] == 2.5
    assert all(bool(values.isfinite().all()) for values in result.values())


def test_a_tensor_that_only_one_model_has(tmp_path: Path) -> None:
    """Refused by name whichever has it; a pooler that only the first has is kept, with its reason."""
    whole = save_tiny(tmp_path / "whole", seed=0)
    extra = rewritten(save_tiny(tmp_path / "extra", seed=1), lambda tensors: tensors | {"bert.more": torch.ones(2)})
    for folders in ((whole, extra), (extra, whole)):
        wish = recipe_from_dict({"merge_method": "average", "models": [{"model": str(folder)} for folder in folders]})
        (problem,) = planned(wish)[0].errors
        assert str(problem).startswith(f"{whole} has no tensor bert.more: {extra} has it, with shape [2].")
    bare = rewritten(
        save_tiny(tmp_path / "bare", seed=2), lambda tensors: {n: v for n, v in tensors.items() if "pooler" not in n}
    )
    report = merged(tmp_path / "out", whole, bare)
    assert report.fallbacks["bert.pooler.dense.weight"] == "only 1 of 2 models have it"
    kept = tensors_of(tmp_path / "out")["bert.pooler.dense.weight"]
    assert torch.equal(kept, tensors_of(whole)["bert.pooler.dense.weight"])


# Files


def test_tensors_in_another_order(tmp_path: Path) -> None:
    """Of the bytes, of the header, or of both."""
    plain = save_tiny(tmp_path / "plain", seed=0)
    for number, (turned, listed) in enumerate([(True, 1), (False, -1), (True, -1)]):
        folder = save_tiny(tmp_path / f"turned{number}", seed=1)
        tensors = load_file(folder / FILE)
        ordered = dict(sorted(tensors.items(), reverse=turned))
        (folder / FILE).write_bytes(packed(ordered, listed=listed, metadata={"format": "pt"}))
        merged(tmp_path / f"out{number}", plain, folder)
        assert_mean(tmp_path / f"out{number}", plain, folder)


@pytest.mark.parametrize(
    "metadata",
    [
        "none",
        None,
        {},
        {"format": "pt", "epoch": 3, "loss": 0.5, "note": None, "tags": ["a", {"b": 1}]},
        {"format": "tf", "long": "x" * 2_000_000},
        {"__metadata__": "again", "": ""},
    ],
    ids=["none", "null", "empty", "numbers", "long", "names"],
)
def test_odd_metadata_is_left_behind(tmp_path: Path, metadata: Any) -> None:
    """Numbers, null, tables, two megabytes of text, none at all: the result says that it is of torch."""
    plain, odd = save_tiny(tmp_path / "plain", seed=0), save_tiny(tmp_path / "odd", seed=1)
    (odd / FILE).write_bytes(packed(load_file(odd / FILE), metadata=metadata))
    merged(tmp_path / "out", odd, plain)
    with safe_open(tmp_path / "out" / FILE, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    result, parts = load_file(tmp_path / "out" / FILE), [tensors_of(plain)]
    assert result.keys() == parts[0].keys()


@pytest.mark.parametrize(("front", "back"), [(b"  \n", b""), (b"", b" " * 4096), (b" ", b"\n\t ")])
def test_a_header_with_space_around_it(tmp_path: Path, front: bytes, back: bytes) -> None:
    """Writers pad headers so that tensors begin where they like."""
    plain, padded = save_tiny(tmp_path / "plain", seed=0), save_tiny(tmp_path / "padded", seed=1)
    tensors = {name: values.clone() for name, values in load_file(padded / FILE).items()}
    (padded / FILE).write_bytes(packed(tensors, front=front, back=back))
    merged(tmp_path / "out", plain, padded)
    first = load_file(plain / FILE)
    for name, values in load_file(tmp_path / "out" / FILE).items():
        torch.testing.assert_close(values, (first[name] + tensors[name]) / 2)
