"""A merge that is compared with its parents: by a real worker, from rows that are handed over and from the Hub."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.job import EVALUATED_STAGES, JobFolder
from jobs.service import JobService
from merging.calibrate import collect
from merging.errors import InputError
from merging.recipe import HANDED_OVER, Recipe, recipe_from_dict
from tests.jobs.processes import Workers, ended, wait_for
from tests.tiny_models import save_tiny, sentences

pytestmark = pytest.mark.slow  # real processes and a Hub
SECRET = "one two three one two three a b c c b a"  # a row that stands nowhere but in the job's folder
HEADS = {"mood": ("bad", "good"), "topic": ("news", "sport", "weather")}


@dataclass
class Scene:
    """A Hub with two models of different labels and their Grams, and workers on a home."""

    hub: LoopbackHub
    ann: Hub
    service: JobService
    workers: Workers

    def recipe(self, *sets: dict[str, Any], method: str = "regmean") -> Recipe:
        """RegMean of both, compared on these sets."""
        models = [{"model": f"ann/{task}", "task": task} for task in HEADS]
        output = {"repo_id": "ann/merged"}
        return recipe_from_dict({"merge_method": method, "models": models, "evaluate": list(sets), "output": output})

    def published(self, name: str) -> str:
        """A text file of the published repo."""
        return Path(self.ann.api.hf_hub_download("ann/merged", name)).read_text()


def rows(task: str, count: int = 30) -> list[dict[str, Any]]:
    """Labelled rows, the first of them the secret one."""
    texts = [SECRET, *sentences(count - 1, seed=5)]
    labels = HEADS[task]
    return [{"text": text, "label": labels[place % len(labels)]} for place, text in enumerate(texts)]


@pytest.fixture
def scene(hub: LoopbackHub, service: JobService, workers: Workers, tmp_path: Path) -> Scene:
    """The models, and a dataset."""
    hub.add_user("ann")
    ann = Hub(hub.url, hub.add_token("ann"))
    for seed, (task, labels) in enumerate(HEADS.items()):
        folder = save_tiny(tmp_path / task, seed=seed, labels=labels)
        for _ in collect("gram", folder, sentences(60), folder / "merge-statistics" / "gram.safetensors", examples=60):
            pass
        ann.api.create_repo(f"ann/{task}")
        ann.api.upload_folder(repo_id=f"ann/{task}", folder_path=folder)
    ann.api.create_repo("ann/labelled", repo_type="dataset")
    lines = [f"{row['text']},{row['label'].upper()}" for row in rows("topic", 24)]
    body = "\n".join(["sentence,topic", *lines]).encode()
    ann.api.upload_file(repo_id="ann/labelled", repo_type="dataset", path_or_fileobj=body, path_in_repo="train.csv")
    return Scene(hub, ann, service, workers)


MINE = {"data": HANDED_OVER, "name": "my moods", "in_domain": ["mood"]}
TOPICS = {"data": "ann/labelled", "name": "topics", "in_domain": ["topic"], "examples": 20}


def who(one: dict[str, Any]) -> list[tuple[str, str]]:
    """Whose figures a set has."""
    return [(score["who"], score["task"]) for score in one["scores"]]


def test_a_merge_is_published_with_its_figures(scene: Scene) -> None:
    """Parents, average, instance-wise ensemble and merge, with intervals, on both sets; the text stays with the job.
    The card shows them as pictures, published beside it.
    """
    handed = {0: rows("mood")}
    job = scene.service.submit(scene.recipe(MINE, TOPICS), scene.ann, rows=handed, nonce="1")
    assert scene.service.submit(scene.recipe(MINE, TOPICS), scene.ann, rows=handed, nonce="1").id == job.id
    assert [stage.name for stage in job.stages] == list(EVALUATED_STAGES)
    kept = JobFolder(scene.workers.home, job.id).rows(0)
    assert (kept.parent.stat().st_mode & 0o77, SECRET in kept.read_text()) == (0, True)
    scene.workers.start(fake=False, endpoint=scene.hub.url)
    job = ended(scene.service, job.id, seconds=150)
    assert (job.status, job.error) == ("done", "")
    report = scene.service.report(job.id, "ann")
    assert report is not None
    mine, topics = report["evaluation"]["sets"]
    assert (mine["name"], mine["data"], mine["examples"], mine["head"]) == ("my moods", "", 30, "mood")
    assert (topics["data"], topics["examples"], topics["head"]) == ("ann/labelled", 20, "topic")
    assert re.fullmatch("[0-9a-f]{40}", topics["revision"])
    for one, task in ((mine, "mood"), (topics, "topic")):
        assert who(one) == [("parent", task), ("average", task), ("instance-wise", task), ("merge", task)]
        for score in one["scores"]:
            assert score["low"]["accuracy"] <= score["metrics"]["accuracy"] <= score["high"]["accuracy"]
    assert mine["scores"][1]["against_average"] == {}
    assert len(mine["scores"][3]["against_average"]["accuracy"]) == 3
    assert "my moods: no ensemble of logits, for only ann/mood has these labels." in report["evaluation"]["notes"]
    told = json.loads(scene.published("merge-report.json"))
    assert told["evaluation"]["sets"] == report["evaluation"]["sets"]
    card = scene.published("README.md")
    assert "| ann/mood |" in card.replace("`", "") and "model-index" in card  # noqa: PT018
    for name in ("figures/evaluation.png", "figures/differences.png"):
        assert f"]({name})" in card
        with Image.open(scene.ann.api.hf_hub_download("ann/merged", name)) as picture:
            assert (picture.format, picture.width > 400) == ("PNG", True)
    assert HANDED_OVER not in scene.published("recipe.yaml")
    assert "ann/labelled" in scene.published("recipe.yaml")
    found = subprocess.run(["grep", "-rlaF", SECRET, scene.workers.home], capture_output=True, text=True)
    assert found.stdout == ""


def test_a_failing_evaluation_costs_no_merge(scene: Scene) -> None:
    """Labels that are nobody's, and data that cannot be read: the merge is published, and the card says why."""
    wrong = [{"text": text, "label": "7"} for text in sentences(5)]
    sets = [MINE, TOPICS | {"label_column": "nothing"}]
    scene.workers.start(fake=False, endpoint=scene.hub.url)
    job = ended(scene.service, scene.service.submit(scene.recipe(*sets), scene.ann, rows={0: wrong}).id, seconds=150)
    assert (job.status, job.error) == ("done", "")
    notes = (scene.service.report(job.id, "ann") or {})["evaluation"]["notes"]
    assert [note.partition(" Say")[0] for note in notes] == [
        "topics: there are no figures. ann/labelled has no column 'nothing': it has sentence, topic. "
        "Name one of these.",
        "my moods: there are no figures. ann/mood has no label '7', which stands in my moods: its labels are bad, "
        "good; those of my moods are 7: numbers say nothing about names.",
    ]
    assert "there are no figures" in scene.published("README.md")
    assert "model-index" not in scene.published("README.md")


def test_a_killed_evaluation_goes_on(scene: Scene) -> None:
    """Only that stage is started again, with what the models had said."""
    worker = scene.workers.start(fake=False, endpoint=scene.hub.url)
    big = TOPICS | {"batch_size": 1}
    job = scene.service.submit(scene.recipe(MINE | {"batch_size": 1}, big), scene.ann, rows={0: rows("mood", 300)})
    folder = JobFolder(scene.workers.home, job.id)
    wait_for(lambda: list(folder.evaluation.glob("answers-*.npz")), 120, 0.001)
    worker.kill()
    worker.wait()
    said = {path: path.stat().st_mtime_ns for path in folder.evaluation.glob("answers-*.npz")}
    scene.workers.start(fake=False, endpoint=scene.hub.url)
    wait_for(lambda: len(list(folder.evaluation.glob("answers-*.npz"))) > len(said), 120, 0.001)
    assert all(path.stat().st_mtime_ns == time for path, time in said.items())
    job = ended(scene.service, job.id, seconds=150)
    assert (job.status, job.error) == ("done", "")
    started = [line["message"] for line in scene.service.log(job.id, "ann") if " started on " in line["message"]]
    stages = ["pin", "fetch", "merge", "check", "evaluate", "evaluate", "publish", "clean"]
    assert [words.split()[0] for words in started] == stages  # no statistics are to be collected
    assert not folder.evaluation.exists()


def test_rows_come_with_the_sets_that_want_them(scene: Scene) -> None:
    """And with no others; the field is named."""
    for sets, handed, where in (((MINE,), {}, "evaluate.0.data"), ((TOPICS,), {0: rows("topic")}, "evaluate")):
        with pytest.raises(InputError) as error:
            scene.service.submit(scene.recipe(*sets), scene.ann, rows=handed)
        assert error.value.problem.where == where
