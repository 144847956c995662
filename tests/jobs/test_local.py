"""A merge on one's own machine, when it ends badly: what is said, and what is kept."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hub.client import Hub
from jobs.local import merge_here, work_folder
from merging.engine import Report, run_to_end
from merging.errors import MergeError
from merging.progress import Progress
from merging.recipe import Recipe, recipe_from_dict
from tests.tiny_models import save_tiny, sentences

LABELS = ("no", "yes")


def wish(root: Path, **more: object) -> Recipe:
    """The average of two small models in folders."""
    models = [{"model": str(save_tiny(root / f"m{seed}", seed=seed, labels=LABELS))} for seed in (0, 1)]
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


def evaluation(work: Generator[Progress, None, Report]) -> dict[str, Any]:
    """The figures of a merge, without what tells the time."""
    return {name: value for name, value in run_to_end(work).evaluation.items() if name != "seconds"}


@pytest.mark.slow
def test_figures_are_those_of_the_models_as_they_are_now(tmp_path: Path) -> None:
    """Who stops an evaluation, trains a model on, mends the rows and starts again does not read what held before."""
    rows, scratch = tmp_path / "rows.csv", work_folder(tmp_path / "out") / "jobs" / "merge" / "evaluation"
    rows.write_text("text,label\n" + "".join(f"{text},{LABELS[at % 2]}\n" for at, text in enumerate(sentences(40))))
    recipe = wish(tmp_path, evaluate=[{"data": str(rows), "batch_size": 4}])
    work = merge_here(Hub.anonymous(), recipe, tmp_path / "out", device="cpu", check=False)
    while not list(scratch.glob("answers-*")):
        next(work)
    work.close()
    save_tiny(tmp_path / "m0", seed=7, labels=LABELS)
    rows.write_text("text,label\n" + "".join(f"{text},{LABELS[0]}\n" for text in sentences(12, seed=3)))
    found = evaluation(merge_here(Hub.anonymous(), recipe, tmp_path / "out", device="cpu", check=False))
    assert found == evaluation(merge_here(Hub.anonymous(), recipe, tmp_path / "new", device="cpu", check=False))
    assert found["sets"][0]["examples"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["model", "text", "nothing"])
def test_collected_statistics_are_those_of_model_and_text_as_they_are_now(tmp_path: Path, changed: str) -> None:
    """What an interrupted merge has collected is collected anew where one of them was changed since, and only there."""
    text, kept = tmp_path / "text.txt", work_folder(tmp_path / "out") / "jobs" / "merge" / "statistics"
    text.write_text("\n".join(sentences(60)))
    folders = [str(save_tiny(tmp_path / f"m{seed}", seed=seed)) for seed in (0, 1)]
    models = [{"model": folder, "calibration": {"data": str(text), "examples": 40}} for folder in folders]
    recipe = recipe_from_dict({"merge_method": "regmean", "models": models})
    work = merge_here(Hub.anonymous(), recipe, tmp_path / "out", device="cpu", check=False)
    while next(work).stage != "merge":
        pass
    work.close()
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("gram.safetensors")}
    if changed == "model":
        save_tiny(tmp_path / "m0", seed=7)
    if changed == "text":
        text.write_text("\n".join(sentences(60, seed=9)))
    again = merge_here(Hub.anonymous(), recipe, tmp_path / "out", device="cpu", check=False)
    while next(again).stage != "merge":
        pass
    anew = [path.parent.name for path, date in sorted(before.items()) if path.stat().st_mtime_ns != date]
    assert anew == {"model": ["0"], "text": ["0", "1"], "nothing": []}[changed]
    fresh = run_to_end(merge_here(Hub.anonymous(), recipe, tmp_path / "new", device="cpu", check=False))
    assert run_to_end(again).files == fresh.files


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
