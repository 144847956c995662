"""What the stages report of themselves, on a real Hub."""

import json
import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.download import _Meter
from jobs import stages, statistics_stages
from jobs.job import JobFolder
from jobs.local import collect_here
from jobs.stages import StageContext
from jobs.statistics_preview import preview_statistics
from jobs.statistics_stages import StatisticsContext
from merging.errors import InputError
from merging.progress import Progress
from merging.recipe import Calibration, Recipe, recipe_from_dict
from merging.wish import HANDED_OVER, statistics_wish
from tests.tiny_models import sentences

pytestmark = pytest.mark.slow  # a Hub of its own for each test


def wish(*models: object, method: str = "average") -> Recipe:
    """A recipe."""
    return recipe_from_dict({"merge_method": method, "models": list(models), "output": {"repo_id": "ann/merged"}})


def context(hub: Hub, home: Path, recipe: Recipe) -> StageContext:
    """What a job's stages work with."""
    folder = JobFolder(home, "m1")
    folder.create()
    return StageContext(folder, hub, recipe, folders_allowed=True, device="cpu", threads=1)


def reports(stage: Generator[Progress, None, object]) -> list[Progress]:
    """All that a stage reports."""
    return list(stage)


def test_what_is_fetched_already_is_told_apart(ann: Hub, tmp_path: Path) -> None:
    """Of the second model nothing is there, of the first all: its bytes are done, and kept."""
    work = context(ann, tmp_path / "home", wish({"model": "ann/m0"}, {"model": "ann/m1"}))
    reports(stages.pin(work))
    first = reports(stages.fetch(work))
    assert first[-1].done == first[-1].total > 0
    assert {report.kept for report in first} == {0}
    shutil.rmtree(work.folder.parent(1))
    second = reports(stages.fetch(work))
    one = sum(path.stat().st_size for path in work.folder.parent(0).iterdir())
    assert [report.done for report in second] == sorted(report.done for report in second)
    assert (second[-1].done, second[-1].kept) == (first[-1].total, one)
    assert second[0].kept == one


def test_the_half_of_a_file_that_was_there_is_kept() -> None:
    """The client begins its bar where an earlier download ended."""
    meter = _Meter()
    with meter.bar()(total=100, initial=40) as bar:
        bar.update(10)
    assert (meter.done, meter.kept) == (50, 40)


def test_quantised_weights_give_no_statistics(hub: LoopbackHub, ann: Hub, tmp_path: Path) -> None:
    """Refused before anything of the model is fetched, by the preview and by the shell, from the Hub and a folder."""
    folder = tmp_path / "m0"
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (folder / "config.json").write_text(json.dumps(config))
    ann.api.upload_file(path_or_fileobj=folder / "config.json", path_in_repo="config.json", repo_id="ann/m0")
    sentence = (
        " is quantised \\(gptq\\): its config says so. Use the float32, float16 or bfloat16 version of this model."
    )
    hub.reset_counters()
    text = Calibration(data="texts.txt")
    for model in ("ann/m0", str(folder)):
        with pytest.raises(InputError, match=f"{model}{sentence}"):
            list(collect_here(ann, "gram", model, text, tmp_path / "g.safetensors", device="cpu"))
    wanted = statistics_wish({"collect": ["gram"], "model": "ann/m0", "text": {"data": HANDED_OVER}})
    (problem,) = preview_statistics(wanted, ann, free=10**12).problems
    assert (str(problem).startswith("ann/m0 is quantised (gptq)"), problem.where) == (True, "model")
    assert hub.counters()["weight_bytes"] == 0


def test_statistics_of_all_models_are_one_count(ann: Hub, tmp_path: Path) -> None:
    """Texts done of those of all models, so that what is left is that of the stage."""
    (tmp_path / "texts.txt").write_text("\n".join(sentences(8)))
    models = [{"model": f"ann/m{index}", "calibration": {"data": str(tmp_path / "texts.txt")}} for index in (0, 1)]
    work = context(ann, tmp_path / "home", wish(*models, method="regmean"))
    for stage in (stages.pin, stages.fetch):
        reports(stage(work))
    told = reports(stages.calibrate(work))
    assert [report.done for report in told] == sorted(report.done for report in told)
    assert {report.total for report in told} == {16}
    assert (told[-1].done, told[-1].unit, told[-1].partial) == (16, "examples", False)


def test_the_reserve_of_the_disk_is_no_job_s(ann: Hub, tmp_path: Path) -> None:
    """A merge and statistics say before they fetch anything that what is left beside it is too little."""
    work = context(ann, tmp_path / "merge", wish("ann/m0", "ann/m1"))
    wanted = statistics_wish({"collect": ["gram"], "model": "ann/m0", "text": {"data": HANDED_OVER}})
    collecting = StatisticsContext(JobFolder(tmp_path / "statistics", "m1"), ann, wanted, reserve=1 << 60)
    collecting.folder.write_text(sentences(8))
    with pytest.raises(InputError, match="Not enough disk: this merge needs up to"):
        reports(stages.pin(replace(work, reserve=1 << 60)))
    with pytest.raises(InputError, match="Not enough disk: this model with its statistics needs up to"):
        reports(statistics_stages.pin(collecting))


def test_statistics_of_two_kinds_are_two_counts(ann: Hub, tmp_path: Path) -> None:
    """They take different times: while the first is collected, nothing is said of the end of the stage."""
    wanted = statistics_wish({"collect": ["gram", "fisher"], "model": "ann/m0", "text": {"data": HANDED_OVER}})
    folder = JobFolder(tmp_path / "home", "m1")
    folder.write_text(sentences(8))
    work = StatisticsContext(folder, ann, wanted, device="cpu")
    for stage in (statistics_stages.pin, statistics_stages.fetch):
        reports(stage(work))
    told = reports(statistics_stages.calibrate(work))
    assert {(report.message.partition(" ")[0], report.partial, report.total) for report in told} == {
        ("gram", True, 8),
        ("fisher", False, 8),
    }
