"""What stands beside the weights: config, tokenizer, index, recipe. Never code."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from merging.checkpoint import WEIGHT_FILE, WEIGHT_INDEX, Checkpoint
from merging.errors import MergeError
from merging.parent import Parent
from merging.plan import SIDE_FILES, OutputModel, Plan
from merging.progress import Progress

CODE_KEYS = ("auto_map", "custom_pipelines", "_name_or_path")  # class paths of a stranger, and old local paths


def write_side_files(plan: Plan, parents: Sequence[Parent], out: Path) -> Iterator[Progress]:
    """Complete every loadable model of `out`: its shards under their names, an index, a config, a tokenizer."""
    for number, output in enumerate(plan.outputs):
        folder = out / output.folder
        folder.mkdir(parents=True, exist_ok=True)
        parent = parents[output.parent]
        for path in output.shards:
            _link(out / path, folder / Path(path).name)
        if any(Path(path).name != WEIGHT_FILE for path in output.shards):
            _write_json(folder / WEIGHT_INDEX, _index(plan, output))
        _write_json(folder / "config.json", _config(plan, parent, output))
        for name in SIDE_FILES:
            if name in parent.files:
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
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _index(plan: Plan, output: OutputModel) -> dict[str, Any]:
    shards = {shard.path: shard for shard in plan.shards}
    weight_map = {step.name: Path(path).name for path in output.shards for step in shards[path].steps}
    size = sum(step.spec.nbytes for path in output.shards for step in shards[path].steps)
    metadata = {"total_size": size, "total_parameters": plan.parameters(output)}
    return {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}


def _config(plan: Plan, parent: Parent, output: OutputModel) -> dict[str, Any]:
    config = {key: value for key, value in parent.config.items() if key not in CODE_KEYS}
    shards = {shard.path: shard for shard in plan.shards}
    first = next(step.spec for step in shards[output.shards[0]].steps if step.spec.dtype.is_floating_point)
    config.pop("torch_dtype", None)
    config["dtype"] = str(first.dtype).removeprefix("torch.")
    return config


def _carry(source: Path, target: Path) -> None:
    """Copy a side file; JSON loses the keys that name code."""
    if source.suffix != ".json" or source.name in ("tokenizer.json", "vocab.json"):
        shutil.copyfile(source, target)
        return
    try:
        data = json.loads(source.read_text())
    except ValueError:
        raise MergeError(
            f"{source.name} of a parent is not JSON", "it cannot be carried", "Save that model again"
        ) from None
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key not in CODE_KEYS}
    _write_json(target, data)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
