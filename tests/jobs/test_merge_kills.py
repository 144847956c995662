"""kill -9 of the merge stage at random points: what is finished is kept, what it needed is not fetched again."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.download import facts_of, is_right
from jobs import stages
from jobs.job import JobFolder
from jobs.stages import StageContext
from merging.checkpoint import sha256_of
from merging.parent import Parent
from merging.plan import Plan, make_plan
from merging.recipe import recipe_from_dict
from tests.jobs.processes import ROOT, alive, wait_for
from tests.tiny_models import save_tiny

KILLS, SEED = int(os.environ.get("SOAK_KILLS", "5")), 5  # `make soak` tries 20
SHARD_BYTES = 120_000
SIZES = {"hidden_size": 96, "num_hidden_layers": 2, "intermediate_size": 128}


class Scene:
    """Two sharded models on a Hub, a job whose merge is next, and the process that runs it."""

    def __init__(self, hub: LoopbackHub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub, self._root = hub, root
        hub.add_user("ann")
        self._ann = Hub(hub.url, hub.add_token("ann"))
        for seed, size in enumerate(("150KB", "200KB")):
            folder = save_tiny(root / f"m{seed}", seed=seed, shard_size=size, **SIZES)
            self._ann.api.create_repo(f"ann/m{seed}")
            self._ann.api.upload_folder(repo_id=f"ann/m{seed}", folder_path=folder)
        models = [{"model": f"ann/m{seed}"} for seed in range(2)]
        self._recipe = recipe_from_dict({"merge_method": "average", "models": models})
        self._fetched = JobFolder(root / "fetched", "m1")
        self._fetched.create()
        monkeypatch.setattr("merging.steps.SHARD_BYTES", SHARD_BYTES)
        context = StageContext(self._fetched, self._ann, self._recipe, device="cpu", publishes=False)
        for stage in (stages.pin, stages.fetch):
            list(stage(context))
        self.parents: tuple[Parent, ...] = context.remote()[0]
        self.plan: Plan = make_plan(context.pinned, self.parents)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "jobs" / "stage_forks.py"), str(SHARD_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(root / "said").open("w"),
            text=True,
            env=environment,
        )

    def job(self, name: str) -> JobFolder:
        """A job whose merge has not begun."""
        shutil.copytree(self._fetched.path, self._root / name / "jobs" / "m1")
        return JobFolder(self._root / name, "m1")

    def merge(self, folder: JobFolder, kill_at: int | None = None, pause: float = 0.0) -> int:
        """Run the merge to its end, or to its death so many seconds after as many shards; its exit status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "token": self._ann.token,
            "endpoint": self.hub.url,
            "scopes": None,
            "recipe_yaml": self._recipe.to_yaml(),
            "own_machine": False,
            "folders_allowed": False,
            "device": "cpu",
            "threads": 2,
            "memory": 1 << 30,
            "reserve": 0,
            "public_url": "",
        }
        order = {"stage": "merge", "folder": str(folder.path), "request": request}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_at is not None:
            wait_for(lambda: len(finished(folder)) >= kill_at or not alive(child), 60, 0.001)
            time.sleep(pause)
            with suppress(ProcessLookupError):  # it was done before
                os.killpg(child, signal.SIGKILL)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def scene(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A Hub and a process."""
    made = Scene(hub, tmp_path, monkeypatch)
    yield made
    made.close()


def finished(folder: JobFolder) -> dict[str, Any]:
    """Path -> (inode, date) of the shards that the journal knows."""
    if not folder.journal.exists():
        return {}
    stats = {path: (folder.output / path).stat() for path in json.loads(folder.journal.read_text())["shards"]}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def digests(folder: JobFolder) -> dict[str, str]:
    """Every file of the result."""
    return {path.name: sha256_of(path) for path in folder.output.rglob("*") if path.is_file()}


def to_fetch(scene: Scene, folder: JobFolder, done: dict[str, Any]) -> set[str]:
    """SHA-256 of the files that are missing for the shards that are not finished."""
    assert scene.plan.supply is not None
    missing = set()
    for path in set(scene.plan.supply.needs) - set(done):
        for piece in scene.plan.supply.needs[path]:
            parent = scene.parents[piece.model]
            if not is_right(folder.parent(piece.model) / piece.file, facts_of(parent, piece.file)):
                missing.add(parent.weights[piece.file])
    return missing


@pytest.mark.slow
def test_a_killed_merge_goes_on_where_it_was(scene: Scene) -> None:
    """Bytes and figures are those of an undisturbed run; no finished shard is made and no file fetched twice."""
    weights = {digest for parent in scene.parents for digest in parent.weights.values()}
    undisturbed = scene.job("undisturbed")
    assert scene.merge(scene.job("warm")) == 0
    began = time.monotonic()
    assert scene.merge(undisturbed) == 0
    length, expected = time.monotonic() - began, digests(undisturbed)
    differences = json.loads(undisturbed.report.read_text())["differences"]
    assert len(scene.plan.shards) >= 6
    assert differences["pairs"][0]["distance"] > 0
    assert not list(undisturbed.parents.rglob("*.safetensors"))

    shards = len(scene.plan.shards)
    chance, kills, tries = random.Random(SEED), 0, 0
    while kills < KILLS and tries < 3 * KILLS:
        tries += 1
        folder, place = scene.job(f"killed{tries}"), kills % (shards - 1)
        if scene.merge(folder, place, chance.uniform(0, length / shards)) != -signal.SIGKILL:
            continue  # it was done before
        kills += 1
        done = finished(folder)
        assert len(done) >= place
        taken = json.loads(folder.journal.read_text())["told"]["seconds"] if done else 0.0
        wanted = to_fetch(scene, folder, done)
        scene.hub.reset_counters()
        assert scene.merge(folder) == 0
        fetched = {etag: count for etag, count in scene.hub.counters()["body_gets"].items() if etag in weights}
        assert fetched == dict.fromkeys(wanted, 1)
        assert done.items() <= finished(folder).items()
        assert digests(folder) == expected
        report = json.loads(folder.report.read_text())
        assert report["differences"] == differences
        assert report["seconds"] > taken
        shutil.rmtree(folder.home)
    assert kills == KILLS
