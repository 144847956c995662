"""Recipes, statistics files and model folders for the tests of `hub/`."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hub.client import Hub
from merging.checkpoint import sha256_of
from merging.recipe import Recipe, recipe_from_dict
from merging.statistics import Provenance, write_fisher, write_gram

LAYER = "bert.encoder.layer.0.attention.self.query.weight"
Models = Callable[..., Path]
SignIn = Callable[..., Hub]
Put = Callable[..., str]


def wish(*models: Any, method: str = "average", **more: Any) -> Recipe:
    """A recipe of models given as names or as entries."""
    entries = [{"model": model} if isinstance(model, str) else model for model in models]
    return recipe_from_dict({"merge_method": method, "models": entries, **more})


def gram_file(path: Path, model: Path, *, dataset: str = "ann/texts", name: str = "", tokens: int = 500) -> Path:
    """A Gram file of one layer that belongs to the weights of a tiny model, and says that it is called `name`."""
    weights = {"model.safetensors": sha256_of(model / "model.safetensors")}
    provenance = Provenance(weights, model=name, dataset=dataset, examples=9, max_length=16)
    return write_gram(path, {LAYER: torch.eye(32)}, {LAYER: tokens}, {LAYER: LAYER}, provenance)


def fisher_file(path: Path, model: Path) -> Path:
    """A Fisher file of one layer that belongs to the weights of a tiny model."""
    provenance = Provenance({"model.safetensors": sha256_of(model / "model.safetensors")}, examples=9)
    return write_fisher(path, {LAYER: torch.ones(32, 32)}, provenance)


def changed(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of a model folder with some keys of its config changed."""
    shutil.copytree(folder, target)
    data = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**data, **config}))
    return target


def texts(problems: Sequence[Any]) -> list[str]:
    """The sentences of problems."""
    return [str(problem) for problem in problems]
