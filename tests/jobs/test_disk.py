"""Three sharded models merge on a disk that holds neither all of them nor them and the result."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from demo.loopback_hub import LoopbackHub
from hub.client import Hub, SignInNeeded
from hub.resolve import resolve
from jobs import stages
from jobs.job import JobFolder
from jobs.local import merge_here, work_folder
from jobs.stages import StageContext
from merging.checkpoint import sha256_of
from merging.errors import InputError
from merging.plan import Plan, make_plan
from merging.progress import Progress
from merging.recipe import Recipe, recipe_from_dict
from tests.jobs.disks import disk_of
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow  # a Hub of its own for each test
SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024}
SHARDS = ("1MB", "2MB", "1500KB")  # of each model, of 13 MB


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models, each in shards of another size."""
    root = tmp_path_factory.mktemp("models")
    return [save_tiny(root / f"m{seed}", seed=seed, shard_size=size, **SIZES) for seed, size in enumerate(SHARDS)]


@pytest.fixture
def ann(hub: LoopbackHub, folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Who has them on the Hub. Output shards are small."""
    monkeypatch.setattr("merging.steps.SHARD_BYTES", 1_500_000)
    hub.add_user("ann")
    made = Hub(hub.url, hub.add_token("ann"))
    for folder in folders:
        made.api.create_repo(f"ann/{folder.name}")
        made.api.upload_folder(repo_id=f"ann/{folder.name}", folder_path=folder)
    return made


def wish(*models: str) -> Recipe:
    """Their average."""
    return recipe_from_dict({"merge_method": "average", "models": [{"model": model} for model in models]})


def planned(hub: Hub, recipe: Recipe) -> Plan:
    """The plan that the preview shows."""
    resolved = resolve(hub, recipe, folders_allowed=True).raise_if_impossible()
    return make_plan(resolved.recipe, resolved.parents)


class Watch:
    """Measures a folder without a pause."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ended = folder, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most = 0  # bytes

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.is_set():
            self.most = max(self.most, self._size())
            time.sleep(0.001)

    def _size(self) -> int:
        found: dict[int, int] = {}
        for folder, _, names in os.walk(self._folder):  # passes over what is gone meanwhile
            for name in names:
                with suppress(OSError):
                    stat = os.lstat(f"{folder}/{name}")
                    found[stat.st_ino] = stat.st_blocks * 512
        return sum(found.values())


def right(out: Path, folders: list[Path]) -> bool:
    """Whether a folder holds the average of these models."""
    merged, *models = (
        AutoModelForSequenceClassification.from_pretrained(folder).state_dict() for folder in (out, *folders)
    )
    return all((sum(model[name] for model in models) / 3 - merged[name]).abs().max() < 1e-5 for name in merged)


def test_the_plan_s_peak_is_kept(ann: Hub, folders: list[Path], tmp_path: Path) -> None:
    """What lies in the folders of a merge is measured throughout; bytes fetched and written are one count."""
    recipe = wish("ann/m0", "ann/m1", "ann/m2")
    plan = planned(ann, recipe)
    assert plan.disk_bytes < plan.download_bytes
    assert plan.disk_bytes < 0.6 * (plan.download_bytes + plan.output_bytes)
    place = tmp_path / "disk"
    place.mkdir()
    told: list[Progress] = []
    with Watch(place) as watch:
        told += merge_here(ann, recipe, place / "out", device="cpu", check=False)
    assert plan.output_bytes < watch.most <= plan.disk_bytes
    assert right(place / "out", folders)
    counts = [report for report in told if report.stage == "merge" and report.unit == "bytes"]
    assert [report.done for report in counts] == sorted(report.done for report in counts)
    assert plan.supply is not None
    assert counts[-1].done == counts[-1].total == plan.output_bytes + sum(plan.supply.sizes.values())


@pytest.fixture
def small_disk(ann: Hub, tmp_path: Path) -> Iterator[Path]:
    """A file system of exactly the size that the plan says; only root can make one."""
    with disk_of(planned(ann, wish("ann/m0", "ann/m1", "ann/m2")).disk_bytes, tmp_path / "small") as place:
        yield place


def test_a_disk_of_that_size_is_enough(ann: Hub, folders: list[Path], small_disk: Path) -> None:
    """And no smaller one is begun with: here one on which something lies already."""
    recipe = wish("ann/m0", "ann/m1", "ann/m2")
    (small_disk / "other").write_bytes(b"x" * 2_000_000)
    with pytest.raises(InputError, match="Not enough disk: this merge needs up to"):
        list(merge_here(ann, recipe, small_disk / "out", device="cpu", check=False))
    (small_disk / "other").unlink()
    list(merge_here(ann, recipe, small_disk / "out", device="cpu", check=False))
    assert right(small_disk / "out", folders)


def test_a_user_s_own_folder_is_left_alone(ann: Hub, folders: list[Path], tmp_path: Path) -> None:
    """It is read where it lies: nothing in it is written, dated or deleted, and it counts for no disk."""
    recipe = wish("ann/m0", str(folders[1]), "ann/m2")
    before = {path: (path.stat(), sha256_of(path)) for path in folders[1].iterdir()}
    place = tmp_path / "disk"
    place.mkdir()
    with Watch(place) as watch:
        list(merge_here(ann, recipe, place / "out", device="cpu", check=False))
    assert watch.most <= planned(ann, recipe).disk_bytes
    assert right(place / "out", folders)
    after = {path: (path.stat(), sha256_of(path)) for path in folders[1].iterdir()}
    unlike = ("st_atime", "st_atime_ns")
    for path, (stat, digest) in before.items():
        assert after[path][1] == digest
        for name in (name for name in dir(stat) if name.startswith("st_") and name not in unlike):
            assert getattr(after[path][0], name) == getattr(stat, name)
    assert after.keys() == before.keys()


def test_a_sign_in_that_runs_out_in_the_middle(hub: LoopbackHub, ann: Hub, tmp_path: Path) -> None:
    """The end is that of any stage; with a new sign-in the merge goes on, and fetches nothing twice."""
    recipe, home = wish("ann/m0", "ann/m1", "ann/m2"), tmp_path / "home"
    folder = JobFolder(home, "m1")
    folder.create()
    context = StageContext(folder, ann, recipe, device="cpu", publishes=False)
    for stage in (stages.pin, stages.fetch):
        list(stage(context))
    assert not list(folder.parents.rglob("*.safetensors"))

    def until_it_ends() -> None:
        for _ in stages.merge(context):
            if folder.journal.exists():
                hub.expire_token(str(ann.token))

    with pytest.raises(SignInNeeded, match=r"Your sign-in has run out: the Hub refuses it. Sign in again"):
        until_it_ends()
    done = set(json.loads(folder.journal.read_text())["shards"])
    again = Hub(hub.url, hub.add_token("ann"))
    parents = resolve(again, recipe).parents
    plan = make_plan(recipe, parents)
    assert 0 < len(done) < len(plan.shards)
    hub.reset_counters()
    list(stages.merge(StageContext(folder, again, recipe, device="cpu", publishes=False)))
    weights = {digest for parent in parents for digest in parent.weights.values()}
    fetched = {etag: count for etag, count in hub.counters()["body_gets"].items() if etag in weights}
    assert 0 < len(fetched) < len(weights)
    assert set(fetched.values()) == {1}
    assert len(json.loads(folder.journal.read_text())["shards"]) == len(plan.shards)


def test_an_interrupted_merge_goes_on_where_its_own_files_fill_the_disk(ann: Hub, tmp_path: Path) -> None:
    """What an earlier start left is not held against it."""
    recipe = wish("ann/m0", "ann/m1", "ann/m2")
    work = merge_here(ann, recipe, tmp_path / "out", device="cpu", check=False)
    for step in work:
        if step.stage == "merge" and step.done > step.total // 2:
            break
    work.close()
    folder = JobFolder(work_folder(tmp_path / "out"), "merge")
    assert folder.size > 5_000_000
    assert any(folder.output.glob("*.safetensors"))
    list(merge_here(ann, recipe, tmp_path / "out", device="cpu", check=False))
    assert (tmp_path / "out" / "config.json").is_file()
