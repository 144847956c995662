"""What stands beside the weights: config, tokenizer, index, recipe. Never code."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.header import WEIGHT_FILE, WEIGHT_INDEX
from merging.modules import ACTIVATION, MODULES_FILE, modules_of
from merging.parent import Parent
from merging.plan import Plan
from merging.progress import Progress
from merging.steps import OutputModel
from merging.tensors import main_dtype

CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")  # class paths of a stranger, and leave to run them
DROPPED_KEYS = (*CODE_KEYS, "_name_or_path")  # and old local paths
ACTIVATION_KEYS = ("activation_fn", "activation_function", "sbert_ce_default_activation_function")
AS_THEY_ARE = ("tokenizer.json", "vocab.json", "tekken.json")  # JSON that is copied byte for byte


def write_side_files(plan: Plan, parents: Sequence[Parent], out: Path) -> Iterator[Progress]:
    """Complete every loadable model of `out`: its shards under their names, an index, a config, a tokenizer."""
    for number, output in enumerate(plan.outputs):
        folder = out / output.folder
        folder.mkdir(parents=True, exist_ok=True)
        parent = parents[output.parent]
        for path in output.shards:
            _link(out / path, folder / plan.place(output, path))
        if any(Path(path).name != WEIGHT_FILE for path in output.shards):
            _write_json(folder / WEIGHT_INDEX, _index(plan, output))
        _write_json(folder / "config.json", _config(plan, parent, output))
        for name in output.files:
            _carry(_folder_of(parent) / name, folder / name)
        yield Progress("merge", number + 1, len(plan.outputs), "models", f"wrote {output.folder or 'the root'}")
    (out / "recipe.yaml").write_text(plan.recipe.without_output().to_yaml())


def _folder_of(parent: Parent) -> Path:
    source = parent.source
    if not isinstance(source, Checkpoint):
        raise MergeError(f"{parent.model} is not on disk", "only its headers are here")
    return source.folder


def _link(source: Path, target: Path) -> None:
    """The same bytes under another name; a copy where the file system knows no hard links."""
    if source == target:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _index(plan: Plan, output: OutputModel) -> dict[str, Any]:
    """The index of the transformer's own shards; those of modules are found by their folders."""
    shards = {shard.path: shard for shard in plan.shards}
    own = [path for path in output.shards if "/" not in plan.place(output, path)]
    weight_map = {step.name: Path(path).name for path in own for step in shards[path].steps}
    specs = [step.spec for path in own for step in shards[path].steps]
    sizes = {
        "total_size": sum(spec.nbytes for spec in specs),
        "total_parameters": sum(spec.numel for spec in specs),
    }
    return {"metadata": sizes, "weight_map": dict(sorted(weight_map.items()))}


def _config(plan: Plan, parent: Parent, output: OutputModel) -> dict[str, Any]:
    config: dict[str, Any] = without_code(dict(parent.config))
    shards = {shard.path: shard for shard in plan.shards}
    config.pop("torch_dtype", None)
    stored = main_dtype(step.spec for path in output.shards for step in shards[path].steps)
    config["dtype"] = str(stored).removeprefix("torch.")
    return config


def without_code(data: Any) -> Any:
    """JSON data without the keys that name code to run or a place on a stranger's machine, at any depth."""
    if isinstance(data, list):
        return [without_code(item) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        key: without_code(value)
        for key, value in data.items()
        if key not in DROPPED_KEYS and not (key in ACTIVATION_KEYS and _names_code(value))
    }


def code_key(data: Any) -> str:
    """The first key of JSON data that names code to run, "" when there is none."""
    if isinstance(data, list):
        return next((found for item in data if (found := code_key(item))), "")
    if not isinstance(data, dict):
        return ""
    for key, value in data.items():
        if key in CODE_KEYS or (key in ACTIVATION_KEYS and _names_code(value)):
            return str(key)
        if found := code_key(value):
            return found
    return ""


def _names_code(value: Any) -> bool:
    """True for a class path that is not one of torch's own layers."""
    return isinstance(value, str) and "." in value and not ACTIVATION.fullmatch(value)


def _carry(source: Path, target: Path) -> None:
    """Copy a side file; JSON loses the keys that name code."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".json" or source.name in AS_THEY_ARE:
        shutil.copyfile(source, target)
        return
    try:
        data = without_code(json.loads(source.read_text()))
    except (ValueError, RecursionError):
        raise MergeError(
            f"{source.name} of a parent is not JSON", "it cannot be carried", "Save that model again"
        ) from None
    if target.name == MODULES_FILE:
        data = [dict(module.entry) for module in modules_of(data, "A parent")]
    _write_json(target, data)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
