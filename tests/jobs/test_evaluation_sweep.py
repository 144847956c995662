"""A sweep carried out: on this machine, and by a real worker that is killed in the middle."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hub.client import Hub
from jobs.evaluation_words import table
from jobs.job import JobFolder
from jobs.local import evaluate_here, merge_here
from merging.engine import Report
from merging.evaluation.answers import seconds_of
from merging.recipe import EvaluationSet, Recipe, recipe_from_dict
from tests.jobs.processes import Workers, ended, wait_for
from tests.tiny_models import save_tiny, sentences

LABELS = ("bad", "good")


@pytest.fixture
def on_base(tmp_path: Path) -> dict[str, Any]:
    """Task arithmetic of two models in folders on a third, evaluated on a file."""
    folders = [save_tiny(tmp_path / name, seed=seed, labels=LABELS) for seed, name in enumerate(("one", "two", "base"))]
    rows = [{"text": text, "label": LABELS[place % 2]} for place, text in enumerate(sentences(40, seed=3))]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "merge_method": "task_arithmetic",
        "models": [{"model": str(folder)} for folder in folders[:2]],
        "base_model": str(folders[2]),
        "evaluate": [{"data": str(tmp_path / "rows.jsonl"), "name": "moods"}],
    }


def last(work: Any) -> Any:
    """What a generator returns, and the messages of its reports."""
    messages = []
    while True:
        try:
            messages.append(next(work).message)
        except StopIteration as end:
            return end.value, messages


def merged(recipe: Recipe, out: Path) -> tuple[Report, list[str]]:
    """The report of a merge on this machine."""
    return last(merge_here(Hub.anonymous(), recipe, out, device="cpu", check=False))  # type: ignore[no-any-return]


def test_each_value_has_the_figures_of_its_own_merge(on_base: dict[str, Any], tmp_path: Path) -> None:
    """They are those of a merge that is made with it; the published one is not made again, and stands among them."""
    recipe = recipe_from_dict(on_base | {"sweep": {"parameter": "lambda", "values": [2, 0]}})
    report, messages = merged(recipe, tmp_path / "out")
    (one,) = report.evaluation["sets"]
    assert [point["value"] for point in one["sweep"]] == [0.0, 1.0, 2.0]
    figures = {point["value"]: {key: point[key] for key in ("metrics", "low", "high")} for point in one["sweep"]}
    published = next(score for score in one["scores"] if score["who"] == "merge")
    assert figures[1.0] == {key: published[key] for key in ("metrics", "low", "high")}
    assert {words for words in messages if words.startswith("merging with")} == {
        "merging with lambda = 0",
        "merging with lambda = 2",
    }
    twice = recipe_from_dict(on_base | {"parameters": {"lambda": 2}, "evaluate": []})
    merged(twice, tmp_path / "twice")
    for value, folder in ((0.0, tmp_path / "base"), (2.0, tmp_path / "twice")):
        wish = EvaluationSet(data=str(tmp_path / "rows.jsonl"))
        found, _ = last(evaluate_here(Hub.anonymous(), [str(folder)], wish, device="cpu"))
        (alone,) = found["sets"]
        assert figures[value] == {key: alone["scores"][0][key] for key in ("metrics", "low", "high")}
    lines = table(report.evaluation)
    assert "moods by lambda" in lines
    assert [line.split()[2] for line in lines if line.startswith("  lambda = ")] == ["0", "1", "2"]
    told = report.evaluation["sweep"]
    assert (told["parameter"], told["model"], told["own"]) == ("lambda", "", 1.0)
    best = max(figures, key=lambda value: (figures[value]["metrics"]["accuracy"], value == 1.0))
    assert told["finding"].startswith(f"Accuracy is best at lambda = {best:g}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "one", "out", "rows.jsonl", "twice", "two"]


def test_a_value_that_no_merge_can_be_made_with_is_left_out(on_base: dict[str, Any], tmp_path: Path) -> None:
    """Numbers too large for the format: the others have figures, the notes say why that one has none."""
    for name, huge in (("one", 1e30), ("base", 0.0)):
        weights = load_file(tmp_path / name / "model.safetensors")
        next(value for key, value in sorted(weights.items()) if "query.bias" in key).fill_(huge)
        save_file(weights, tmp_path / name / "model.safetensors", {"format": "pt"})
    recipe = recipe_from_dict(on_base | {"sweep": {"parameter": "lambda", "values": [0, 1e9]}})
    report, _ = merged(recipe, tmp_path / "out")
    assert [point["value"] for point in report.evaluation["sets"][0]["sweep"]] == [0.0, 1.0]
    (note,) = [note for note in report.evaluation["notes"] if "lambda" in note]
    assert note.startswith("lambda = 1e+09: there are no figures. ")
    assert "became NaN or infinite" in note


@pytest.mark.slow
def test_a_killed_sweep_goes_on(hub: Any, service: Any, workers: Workers, tmp_path: Path) -> None:
    """With the first value that has no answers; what was said is kept, the base too, and nothing is left behind."""
    hub.add_user("ann")
    ann = Hub(hub.url, hub.add_token("ann"))
    for seed, name in enumerate(("base", "one", "two")):
        ann.api.create_repo(f"ann/{name}")
        folder = save_tiny(tmp_path / name, seed=seed, labels=LABELS)
        ann.api.upload_folder(repo_id=f"ann/{name}", folder_path=folder)
    rows = [{"text": text, "label": LABELS[place % 2]} for place, text in enumerate(sentences(120, seed=3))]
    recipe = recipe_from_dict(
        {
            "merge_method": "task_arithmetic",
            "models": ["ann/one", "ann/two"],
            "base_model": "ann/base",
            "evaluate": [{"data": "handed-over.jsonl", "name": "moods", "batch_size": 1}],
            "sweep": {"parameter": "lambda", "values": [0, 0.5]},
            "output": {"repo_id": "ann/merged"},
        }
    )
    worker = workers.start(fake=False, endpoint=hub.url)
    job = service.submit(recipe, ann, rows={0: rows})
    folder = JobFolder(workers.home, job.id)
    wait_for(lambda: list(folder.evaluation.glob("sweep-*.npz")), 120, 0.001)
    worker.kill()
    worker.wait()
    said = {path: path.stat().st_mtime_ns for path in folder.evaluation.glob("*.npz")}
    taken = sum(map(seconds_of, said))
    workers.start(fake=False, endpoint=hub.url)
    wait_for(lambda: len(list(folder.evaluation.glob("sweep-*.npz"))) > 1, 120, 0.001)
    assert all(path.stat().st_mtime_ns == time for path, time in said.items())
    job = ended(service, job.id, seconds=150)
    assert (job.status, job.error) == ("done", "")
    report = service.report(job.id, "ann")
    assert [point["value"] for point in report["evaluation"]["sets"][0]["sweep"]] == [0.0, 0.5, 1.0]
    assert report["evaluation"]["seconds"] >= round(taken, 1)
    assert not folder.evaluation.exists()
    assert not folder.parents.exists()
    assert report["evaluation"]["notes"] == [
        "There is no instance-wise ensemble: it needs the Gram statistics of two parents."
    ]
    published = Path(ann.api.hf_hub_download("ann/merged", "merge-report.json")).read_text()
    assert json.loads(published)["evaluation"]["sweep"] == report["evaluation"]["sweep"]
    assert "](figures/sweep.png)" in Path(ann.api.hf_hub_download("ann/merged", "README.md")).read_text()
    assert "sweep" not in Path(ann.api.hf_hub_download("ann/merged", "recipe.yaml")).read_text()  # nor its rows
