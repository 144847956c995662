"""Methods with a base in the engine: what they make of whole tensors, to the bit, however the engine cuts them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.layers import depths
from merging.plan import make_plan
from merging.recipe import Recipe, recipe_from_dict
from merging.tensors import TensorGroup
from tests.tiny_models import save_tiny

torch.set_num_threads(1)

OWN = ({"density": [0.9, 0.2], "weight": 0.7}, {"density": 0.5, "weight": [{"filter": "mlp", "value": 0.3}]})
RECIPES: dict[str, dict[str, Any]] = {
    "task_arithmetic": {"lambda": 0.8},
    "ties": {"rescale": True, "int8_mask": True},
    "dare_ties": {"normalize": True},
    "slerp": {"t": [{"filter": "self_attn", "value": [0, 1]}, {"value": 0.3}]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three language models whose matrices are several blocks of the least size."""
    here = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 128, "intermediate_size": 144}
    names = enumerate(("base", "one", "two"))
    return {name: save_tiny(here / name, "llama", seed=seed, labels=None, **sizes) for seed, name in names}


def recipe(method: str, folders: dict[str, Path], seed: int = 0) -> Recipe:
    """Two models on their base, or one where the method takes one."""
    own = [values if method != "task_arithmetic" else {"weight": values["weight"]} for values in OWN]
    models = [{"model": str(folders[name]), "parameters": own[place]} for place, name in enumerate(("one", "two"))]
    models = [{"model": str(folders["one"])}] if method == "slerp" else models
    wish = {"merge_method": method, "models": models, "base_model": str(folders["base"])}
    return recipe_from_dict({**wish, "parameters": RECIPES[method], "seed": seed})


def run(wish: Recipe, out: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The merged tensors."""
    parents = [open_parent(entry.model, Path(entry.model)) for entry in wish.models]
    base = open_parent(str(wish.base_model), Path(str(wish.base_model)))
    run_to_end(merge(make_plan(wish, parents, base), parents, out, base=base, device="cpu", **options))
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("method", RECIPES)
def test_any_threads_blocks_and_spans_give_the_bits_of_whole_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path], method: str
) -> None:
    """Thresholds, norms, random values and depths are those of the tensor, not of the block or the thread."""
    wish = recipe(method, folders)
    results = [run(wish, tmp_path / "plain", threads=1)]
    monkeypatch.setattr("merging.work.SPAN", 8192)
    monkeypatch.setattr("merging.work.BLOCK", 4096)
    results += [run(wish, tmp_path / f"{threads}", threads=threads) for threads in (1, 3)]
    names = [str(place) for place in range(len(wish.models))]
    models = [load_file(Path(entry.model) / "model.safetensors") for entry in wish.models]
    base, place = load_file(folders["base"] / "model.safetensors"), depths(results[0])
    for name in results[0]:
        tensors = tuple(model[name] for model in models)
        group = TensorGroup(name=name, tensors=tensors, base=base[name], models=tuple(names))
        whole = wish.method.function(group, **wish.method.values_for(wish.bound(), name, place[name]))
        assert all(torch.equal(result[name], whole) for result in results), name


def test_another_seed_drops_other_changes(tmp_path: Path, folders: dict[str, Path]) -> None:
    """The seed of the recipe is that of DARE."""
    first, second = (run(recipe("dare_ties", folders, seed), tmp_path / f"{seed}", threads=1) for seed in (0, 1))
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])


def test_where_folders_lie_decides_nothing(tmp_path: Path, folders: dict[str, Path]) -> None:
    """DARE drops the same changes of the same models on another disk."""
    moved = {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in folders.items()}
    here, there = (run(recipe("dare_ties", ones), tmp_path / out) for ones, out in ((folders, "a"), (moved, "b")))
    assert all(torch.equal(here[name], there[name]) for name in here)
