"""Every recipe of examples/ runs: on tiny models of the type it names, with text, targets and pictures from files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from hub.client import Hub
from jobs.local import merge_here
from merging.method import find_method
from merging.recipe import recipe_from_dict, recipe_from_yaml
from tests.tiny_models import pictures, save_tiny, sentences

pytestmark = pytest.mark.slow
torch.set_num_threads(1)
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
LABELS = ("no", "yes", "so")


def write_data(folder: Path, wish: dict[str, Any], seed: int) -> str:
    """A file with the columns that the recipe names."""
    count = 24
    table: dict[str, list[Any]] = {wish.get("text_column") or "text": sentences(count, seed)}
    if wish.get("target_column"):
        table[wish["target_column"]] = sentences(count, seed + 1)
    if wish.get("image_column"):
        table[wish["image_column"]] = [f"{index}.png" for index in range(count)]
        for index, picture in enumerate(pictures(count, seed)):
            picture.save(folder / f"{index}.png")
    lines = [json.dumps(dict(zip(table, row, strict=True))) for row in zip(*table.values(), strict=True)]
    (folder / "data.jsonl").write_text("\n".join(lines))
    return str(folder / "data.jsonl")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(tmp_path: Path, path: Path) -> None:
    """From the file as it stands to a model that plain transformers loads; nothing but names is changed."""
    text = path.read_text()
    recipe_from_yaml(text)
    data = yaml.safe_load(text)
    named = re.search(r"^# model type: ([\w-]+), (.*)$", text, re.MULTILINE)
    kind, classifiers = (named[1], named[2] == "classifiers") if named else ("bert", True)
    statistics = find_method(data["merge_method"]).needs & {"gram", "fisher"}
    for seed, entry in enumerate(data["models"]):
        folder = tmp_path / entry["model"].partition("/")[2]
        labels = LABELS[: 2 + seed % 2] if named is None else LABELS
        save_tiny(folder, kind, seed=seed, labels=labels if classifiers else None)
        if statistics:
            wish = entry.setdefault("calibration", {})
            wish["data"] = write_data(folder, wish, seed)
        entry["model"] = str(folder)
    if "base_model" in data:
        folder = tmp_path / data["base_model"].partition("/")[2]  # a base has no classifier
        data["base_model"] = str(save_tiny(folder, kind, seed=9, labels=None))
    data.pop("output", None)
    steps = merge_here(
        Hub("http://127.0.0.1:9", False), recipe_from_dict(data), tmp_path / "out", check=False, threads=1
    )
    for _ in steps:
        pass
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    model, info = getattr(transformers, config.architectures[0]).from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(bool(value.isfinite().all()) for value in model.parameters())
