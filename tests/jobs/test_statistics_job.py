"""Statistics as a job: real workers on a loopback Hub, killed in the middle, cancelled, with a text handed over."""

import json
import re
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import LOG_IN_AGAIN, Hub
from hub.resolve import resolve
from jobs.job import STATISTICS_STAGES, Job, JobFolder
from jobs.service import JobService
from jobs.upkeep import sweep_tokens
from merging.errors import InputError
from merging.recipe import recipe_from_dict
from merging.statistics import Statistics
from merging.wish import HANDED_OVER, StatisticsWish, statistics_wish
from tests.jobs.processes import TOKEN, Workers, ended, queue, wait_for
from tests.tiny_models import save_tiny, sentences

pytestmark = pytest.mark.slow  # real processes and a Hub
SECRET = "one two three one two three a b c c b a"  # a text that stands nowhere but in the job's folder
GRAM = "merge-statistics/gram.safetensors"


@dataclass
class Scene:
    """A Hub with a model and a dataset of ann's, and workers on a home."""

    hub: LoopbackHub
    ann: Hub
    service: JobService
    workers: Workers
    root: Path

    def wish(self, **changes: Any) -> StatisticsWish:
        """Both kinds from the dataset, into ann's own repo."""
        text = {"data": "ann/texts", "examples": 120, "max_length": 16, "batch_size": 4}
        return statistics_wish({"collect": ["gram", "fisher"], "model": "ann/m", "text": text} | changes)

    def handed_over(self, **changes: Any) -> StatisticsWish:
        """Gram from a text that comes with the wish."""
        return self.wish(collect=["gram"], text={"data": HANDED_OVER, "max_length": 16}, **changes)

    def published(self, repo_id: str, path: str = GRAM, revision: str | None = None) -> Path:
        """A published file."""
        return Path(self.ann.api.hf_hub_download(repo_id, path, revision=revision, local_dir=self.root / repo_id))

    def stays(self, words: str, *folders: Path) -> list[str]:
        """The files below some folders that hold these words. Read by another process: SQLite's locks are ours."""
        found = subprocess.run(["grep", "-rlaF", words, *folders], capture_output=True, text=True)
        assert found.returncode < 2, found.stderr
        return found.stdout.split()


@pytest.fixture
def scene(hub: LoopbackHub, service: JobService, workers: Workers, tmp_path: Path) -> Scene:
    """A model and a dataset."""
    hub.add_user("ann")
    ann = Hub(hub.url, hub.add_token("ann"))
    ann.api.create_repo("ann/m")
    ann.api.upload_folder(repo_id="ann/m", folder_path=save_tiny(tmp_path / "m"))
    ann.api.create_repo("ann/texts", repo_type="dataset")
    rows = "text\n" + "\n".join(sentences(200)) + "\n"
    ann.api.upload_file(
        repo_id="ann/texts", repo_type="dataset", path_or_fileobj=rows.encode(), path_in_repo="train.csv"
    )
    return Scene(hub, ann, service, workers, tmp_path / "down")


def starts(scene: Scene, job: Job) -> dict[str, int]:
    """How often each stage was started."""
    lines = [line["message"] for line in scene.service.log(job.id, "ann")]
    return dict(Counter(found[1] for line in lines if (found := re.match(r"(\w+) started on", line))))


def test_statistics_are_collected_checked_and_published(scene: Scene) -> None:
    """From a dataset of the Hub into an own repo; a merge finds them; the job tells what they are."""
    scene.workers.start(fake=False, endpoint=scene.hub.url)
    job = scene.service.submit_statistics(scene.wish(), scene.ann)
    assert (job.purpose, job.method, job.models) == ("statistics", "statistics", ("ann/m",))
    assert job.repo_id == "ann/m-merge-statistics"
    assert [stage.name for stage in job.stages] == list(STATISTICS_STAGES)
    job = ended(scene.service, job.id, seconds=100)
    assert (job.status, job.error) == ("done", "")
    assert job.url == f"{scene.hub.url}/ann/m-merge-statistics"
    assert [stage.status for stage in job.stages] == ["done"] * 6
    gram, fisher = job.summaries
    assert gram["source"] == f"ann/m-merge-statistics@{job.commit}:{GRAM}"
    assert (gram["belongs"], gram["dataset"], gram["examples"]) == (True, "ann/texts", 120)
    assert fisher["kind"] == "fisher"
    recipe = recipe_from_dict({"merge_method": "regmean", "models": ["ann/m", "ann/m"]})
    ref = resolve(scene.ann, recipe).recipe.models[0].statistics["gram"]
    assert (ref.source, ref.sha256) == (gram["source"], gram["sha256"])
    folder = JobFolder(scene.workers.home, job.id)
    assert not folder.output.exists()
    assert not folder.parents.exists()


def test_a_text_that_is_handed_over_stays_with_the_job(scene: Scene) -> None:
    """It is read by nobody else while the job waits, and is in no log, record or published file when it has ended."""
    texts = [*sentences(40), SECRET]
    job = scene.service.submit_statistics(scene.handed_over(), scene.ann, texts=texts, nonce="1")
    assert scene.service.submit_statistics(scene.handed_over(), scene.ann, texts=texts, nonce="1").id == job.id
    text = JobFolder(scene.workers.home, job.id).text
    assert (text.parent.stat().st_mode & 0o77, text.parent.parent.stat().st_mode & 0o77) == (0, 0)
    assert scene.stays(SECRET, scene.workers.home) == [str(text)]
    scene.workers.start(fake=False)
    job = ended(scene.service, job.id, seconds=100)
    assert (job.status, job.error) == ("done", "")
    published = scene.published(job.repo_id)
    card = scene.published(job.repo_id, "README.md")
    assert not text.parent.exists()
    assert scene.stays(SECRET, scene.workers.home, scene.root) == []
    assert HANDED_OVER not in card.read_text()
    statistics = Statistics(published)
    assert statistics.metadata["dataset"] == ""
    assert statistics.fact.examples == 41
    assert not [
        line for line in scene.service.log(job.id, "ann") if any(w in line["message"] for w in (SECRET, "a b c"))
    ]


@pytest.mark.parametrize("stage", ["calibrate", "publish"])
def test_a_statistics_job_survives_kill_nine(stage: str, scene: Scene) -> None:
    """Only the interrupted stage is started again, what it had is kept, and there is one commit."""
    if stage == "publish":
        scene.hub.set_fault("/commit/", method="POST", delay=1.5)
    worker = scene.workers.start(fake=False, endpoint=scene.hub.url)
    text = {"data": "ann/texts", "examples": 190, "max_length": 16, "batch_size": 4}
    job = scene.service.submit_statistics(scene.wish(text=text), scene.ann)
    folder = JobFolder(scene.workers.home, job.id)
    moments: dict[str, Callable[[], bool]] = {
        "calibrate": lambda: (folder.output / GRAM).exists(),
        "publish": lambda: scene.ann.api.repo_exists("ann/m-merge-statistics"),
    }
    wait_for(moments[stage], 150, 0.001)
    made = (folder.output / GRAM).stat().st_mtime_ns
    worker.kill()
    worker.wait()
    scene.hub.clear_faults()
    assert not scene.service.get(job.id, "ann").ended
    scene.workers.start(fake=False, endpoint=scene.hub.url)
    if stage == "calibrate":
        assert (folder.output / GRAM).stat().st_mtime_ns == made
    job = ended(scene.service, job.id, seconds=100)
    assert (job.status, job.error) == ("done", "")
    assert starts(scene, job) == {name: 1 + (name == stage) for name in STATISTICS_STAGES}
    assert len(scene.ann.api.list_repo_commits("ann/m-merge-statistics")) == 2
    assert [one["kind"] for one in job.summaries] == ["gram", "fisher"]


def test_a_cancelled_job_leaves_neither_text_nor_token(scene: Scene) -> None:
    """Cancelled while it waits, and while it runs."""
    waiting = scene.service.submit_statistics(scene.handed_over(), scene.ann, texts=[SECRET])
    folder = JobFolder(scene.workers.home, waiting.id)
    assert folder.text.exists()
    assert scene.service.cancel(waiting.id, "ann").status == "cancelled"
    assert not folder.text.exists()
    scene.hub.set_fault("/resolve/.*safetensors", method="GET", delay=20)
    scene.workers.start(fake=False)
    running = scene.service.submit_statistics(scene.handed_over(), scene.ann, texts=[SECRET])
    folder = JobFolder(scene.workers.home, running.id)
    wait_for(lambda: scene.service.get(running.id, "ann").stage == "fetch", 60)
    scene.service.cancel(running.id, "ann")
    wait_for(lambda: not folder.text.exists(), 20)
    with sqlite3.connect(scene.workers.home / "jobs.sqlite") as database:
        wait_for(lambda: database.execute("SELECT count(*) FROM merge_tokens").fetchone() == (1,), 20)  # the canary
    assert not scene.ann.api.repo_exists("ann/m-merge-statistics")
    assert scene.service.get(running.id, "ann").status == "cancelled"


def test_a_text_of_a_job_that_never_was_is_swept(scene: Scene) -> None:
    """The service was killed between keeping the text and queueing the job."""
    store = scene.service._store
    store.tokens.put("m1", TOKEN)
    left, kept = JobFolder(store.home, "m1"), JobFolder(store.home, "m2")
    left.write_text([SECRET])
    queue(scene.service, "m2")
    kept.write_text([SECRET])
    assert sweep_tokens(store, scene.service._client, lambda *_: None, older_than=0.0) == 1
    assert (left.text.exists(), kept.text.exists()) == (False, True)


def test_a_pull_request_is_the_result_where_it_was_asked_for(scene: Scene) -> None:
    """By somebody whose sign-in carries write-discussions; the link is that of the pull request."""
    scene.hub.add_user("bob")
    scopes = ["openid", "profile", "contribute-repos", "write-discussions"]
    bob = Hub(scene.hub.url, scene.hub.add_token("bob", scopes), frozenset(scopes))
    scene.workers.start(fake=False)
    wish = scene.handed_over(publish="pull-request")
    job = scene.service.submit_statistics(wish, bob, texts=sentences(20))
    job = ended(scene.service, job.id, "bob", 100)
    assert (job.status, job.error, job.repo_id) == ("done", "", "ann/m")
    assert job.url == f"{scene.hub.url}/ann/m/discussions/1"
    assert job.summaries[0]["source"] == f"ann/m@{job.commit}:{GRAM}"
    assert Statistics(scene.published("ann/m", revision="refs/pr/1")).fact.examples == 20
    recipe = {
        "merge_method": "regmean",
        "models": [{"model": "ann/m", "statistics": {"gram": job.summaries[0]["source"]}}, "ann/m"],
    }
    assert resolve(bob, recipe_from_dict(recipe)).found[0] is not None


def test_few_tokens_are_for_nobody_else(scene: Scene) -> None:
    """A Gram that says much about single texts becomes public for nobody who did not say so; private it may be."""
    scene.workers.start(fake=False)
    texts = [SECRET, *sentences(2)]
    job = ended(scene.service, scene.service.submit_statistics(scene.handed_over(), scene.ann, texts=texts).id)
    assert (job.status, job.error) == (
        "failed",
        "The statistics of ann/m come from few tokens and would be public: such a file says much about single texts. "
        "Tick private, or give more text.",
    )
    assert not scene.ann.api.repo_exists("ann/m-merge-statistics")
    wish = scene.handed_over(private=True)
    job = ended(scene.service, scene.service.submit_statistics(wish, scene.ann, texts=texts).id)
    assert (job.status, job.error) == ("done", "")
    assert scene.ann.api.model_info("ann/m-merge-statistics").private


@pytest.mark.parametrize("own_machine", [False, True])
def test_a_sign_in_that_ran_out_keeps_the_statistics(scene: Scene, own_machine: bool) -> None:
    """They are published after the next sign-in; the text is gone by then. Who came by a shell signs in there."""
    scene.hub.set_fault("/commit/", method="POST", status=401, times=None)
    scene.workers.start(fake=False)
    wish = scene.handed_over(few_texts=True)
    ann = replace(scene.ann, own_machine=own_machine)
    job = scene.service.submit_statistics(wish, ann, texts=[SECRET, *sentences(5)])
    job = ended(scene.service, job.id, seconds=100)
    assert (job.status, job.publishable) == ("failed", True)
    what, fix = (
        ("Your token is not valid", LOG_IN_AGAIN) if own_machine else ("Your sign-in has run out", "Sign in again")
    )
    assert job.error == f"{what}: the statistics are kept and wait to be published. {fix}."
    assert not JobFolder(scene.workers.home, job.id).text.exists()
    scene.hub.clear_faults()
    scene.service.go_on(job.id, scene.ann)
    wait_for(lambda: scene.service.get(job.id, "ann").status == "done", 60, 0.1)
    assert len(scene.ann.api.list_repo_commits("ann/m-merge-statistics")) == 2


def refusals(scene: Scene, texts: list[str] | None = None, **changes: Any) -> Iterator[tuple[str, str]]:
    """The sentences of a refused submission, each with its field."""
    with pytest.raises(InputError) as error:
        scene.service.submit_statistics(scene.wish(**changes), scene.ann, texts=texts)
    return ((str(problem), problem.where) for problem in error.value.problems)


def test_bad_wishes_are_refused_before_anything_is_queued(scene: Scene) -> None:
    """With the field at fault; a second job for the same repo waits for the first."""
    assert dict(refusals(scene, model="ann/none")) == {
        "ann/none does not exist, or it is private: you have no access to it. "
        "Check the name, or ask its owner for access.": "model"
    }
    assert next(iter(refusals(scene, text={"data": "ann/none"})))[1] == "text.data"
    assert dict(refusals(scene, text={"data": "./mine.csv"})) == {
        "./mine.csv is a file: only datasets of the Hub are read by name. Name owner/dataset, or upload the file.": (
            "text.data"
        )
    }
    assert dict(refusals(scene, text={"data": HANDED_OVER})) == {
        "There is no text: statistics are collected from it. Upload or paste some.": "text.data"
    }
    scene.ann.api.create_repo("ann/vectors")
    vectors = json.dumps({"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 34})
    for name, body in (("config.json", vectors.encode()), ("model.safetensors", None)):
        source = body or scene.root.parent / "m" / name
        scene.ann.api.upload_file(repo_id="ann/vectors", path_or_fileobj=source, path_in_repo=name)
    (told,) = (one for one in refusals(scene, model="ann/vectors") if one[1] == "collect")
    assert told[0] == (
        "No Fisher for BertModel: it has no head: it gives vectors, and a Fisher is made of probabilities. "
        "Collect Gram matrices alone."
    )
    gold = {"data": "ann/texts", "variant": "empirical"}
    assert dict(refusals(scene, text=gold)) == {
        "There are no labels: an empirical Fisher is made of the true answers. Name their column.": "text.label_column"
    }
    assert dict(refusals(scene, text=gold | {"data": HANDED_OVER}, texts=["one"])) == {
        "There are no labels: an empirical Fisher is made of the true answers. "
        "Name a dataset of the Hub that has them, or choose another.": "text.variant"
    }
    job = scene.service.submit_statistics(scene.wish(), scene.ann)
    assert dict(refusals(scene)) == {
        f"A job of yours is making ann/m-merge-statistics already: job {job.id} is waiting. "
        "Wait for it, or pick another name.": "output.repo_id"
    }
    assert len(scene.service.list("ann")) == 1
