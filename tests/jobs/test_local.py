"""A merge on one's own machine, when it ends badly: what is said, and what is kept."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hub.client import Hub
from jobs.local import merge_here, work_folder
from merging.errors import MergeError
from merging.recipe import Recipe, recipe_from_dict
from tests.tiny_models import save_tiny


def wish(root: Path, **more: object) -> Recipe:
    """The average of two small models in folders."""
    models = [{"model": str(save_tiny(root / f"m{seed}", seed=seed))} for seed in (0, 1)]
    return recipe_from_dict({"merge_method": "average", "models": models} | more)


def test_a_place_that_was_taken_meanwhile_is_told(tmp_path: Path) -> None:
    """Somebody writes into OUT while the merge runs: one sentence, and the same command goes on later."""
    recipe, out = wish(tmp_path), tmp_path / "out"
    work = merge_here(Hub.anonymous(), recipe, out, device="cpu", check=False)
    next(work)
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(MergeError, match=r"out cannot be made: Directory not empty. Make room") as caught:
        list(work)
    assert "the same command goes on from there" in caught.value.__notes__[0]
    (out / "mine").unlink()
    list(merge_here(Hub.anonymous(), recipe, out, device="cpu", check=False))
    assert not work_folder(out).exists()


def test_a_result_that_is_not_finite_raises_no_hope(tmp_path: Path) -> None:
    """Differences too large for any number: the same command would end the same way, so nothing is kept."""
    base = save_tiny(tmp_path / "base", seed=2)
    recipe, out = wish(tmp_path, merge_method="task_arithmetic", base_model=str(base)), tmp_path / "out"
    for name, huge in (("m0", 3e38), ("base", -3e38)):
        weights = load_file(tmp_path / name / "model.safetensors")
        next(value for name, value in sorted(weights.items()) if "query.weight" in name).fill_(huge)
        save_file(weights, tmp_path / name / "model.safetensors", {"format": "pt"})
    with pytest.raises(MergeError, match="became NaN or infinite") as caught:
        list(merge_here(Hub.anonymous(), recipe, out, device="cpu", check=False))
    assert not hasattr(caught.value, "__notes__")
    assert not work_folder(out).exists()
