"""A published merge is made again and compared: as a job of a real worker, on this machine, and from a shell."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.follow import follow
from jobs.job import VERIFY_STAGES, JobFolder
from jobs.local import merge_here
from jobs.push import push_here
from jobs.service import JobService
from jobs.verify import VerifyPlan
from jobs.verify_result import Verification, keep, kept
from jobs.verify_stages import verify_here
from merging.errors import InputError
from merging.recipe import recipe_from_dict
from tests.jobs.processes import ROOT, Workers, ended
from tests.served import add_gram
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow  # a Hub of its own, and merges
TASKS = {"banking": ("card lost", "top up", "fee"), "mood": ("anger", "joy")}
QUERY = "bert.encoder.layer.1.attention.self.query.weight"
BODY, HEAD = "model-00001-of-00002.safetensors", "mood/model-00002-of-00002.safetensors"


@dataclass
class Scene:
    """A Hub with two classifiers of ann's that have Gram statistics."""

    hub: LoopbackHub
    ann: Hub
    root: Path

    def merge(self, **more: Any) -> str:
        """Their RegMean, published as ann/merged; its commit."""
        models = [{"model": f"ann/minilm-{task}"} for task in TASKS]
        recipe = recipe_from_dict({"merge_method": "regmean", "models": models} | more)
        follow(merge_here(self.ann, recipe, self.root / "merged", device="cpu", check=False), "none")
        return follow(push_here(self.ann, self.root / "merged", "ann/merged", private=False), "none").published.commit

    def alter(self, file: str, change: Callable[[Path], None]) -> str:
        """Publish a file changed; the new commit."""
        path = Path(self.ann.api.hf_hub_download("ann/merged", file, local_dir=self.root / "down"))
        change(path)
        return str(self.ann.api.upload_file(repo_id="ann/merged", path_or_fileobj=path, path_in_repo=file).oid)

    def add(self, file: str, content: bytes) -> None:
        """Publish one more file."""
        self.ann.api.upload_file(repo_id="ann/merged", path_or_fileobj=content, path_in_repo=file)

    def verify(self, name: str = "ann/merged") -> Verification:
        """Verify on this machine as nobody in particular; nothing stays."""
        told: list[VerifyPlan] = []
        here = self.root / "scratch"
        here.mkdir(exist_ok=True)
        nobody = Hub.anonymous(self.hub.url)
        found = follow(verify_here(nobody, name, here, tell=told.append, device="cpu", threads=1), "none")
        assert len(told) == 1
        assert list(here.iterdir()) == []
        return found

    def refusal(self, recipe: dict[str, Any]) -> str:
        """Why a repo with this recipe cannot be verified."""
        self.add("recipe.yaml", yaml.safe_dump(recipe).encode())
        with pytest.raises(InputError) as caught:
            self.verify()
        return str(caught.value)


@pytest.fixture
def scene(hub: LoopbackHub, tmp_path: Path) -> Scene:
    """The parents stand; nothing is merged yet."""
    hub.add_user("ann")
    ann = Hub(hub.url, hub.add_token("ann"))
    for seed, (task, labels) in enumerate(TASKS.items(), start=1):
        folder = save_tiny(tmp_path / "models" / task, seed=seed, labels=labels)
        ann.api.create_repo(f"ann/minilm-{task}")
        ann.api.upload_folder(repo_id=f"ann/minilm-{task}", folder_path=folder)
        add_gram(ann.api, f"ann/minilm-{task}", folder, seed)
    return Scene(hub, ann, tmp_path)


def times(name: str, factor: float) -> Callable[[Path], None]:
    """A change of the largest value of one tensor; the file is written anew."""

    def write(path: Path) -> None:
        tensors = load_file(path)
        flat = tensors[name].reshape(-1)
        flat[int(flat.abs().argmax())] *= factor
        save_file(tensors, path, {"format": "pt", "saved": "again"})

    return write


def flip(path: Path) -> None:
    """Change one bit: the highest of the exponent of the last value."""
    body = bytearray(path.read_bytes())
    body[-1] ^= 0x40
    path.write_bytes(body)


def last_tensor(path: Path) -> str:
    """The last tensor in a safetensors file."""
    body = path.read_bytes()
    return list(json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")]))[-1]


def test_a_job_finds_a_merge_identical_for_that_commit_alone(
    scene: Scene, service: JobService, workers: Workers
) -> None:
    """Kept by commit without anybody's name; asked for twice it is one job; the disk is given back."""
    commit = scene.merge()
    job = service.submit_verification("ann/merged", scene.ann)
    assert service.submit_verification("ann/merged", scene.ann).id == job.id
    assert (job.purpose, job.repo_id, job.models) == ("verify", "ann/merged", (f"ann/merged@{commit}",))
    assert tuple(stage.name for stage in job.stages) == VERIFY_STAGES
    (line,) = service.log(job.id, "ann")
    assert re.fullmatch(r"It downloads .* of published weights, needs at most .* of disk at a time", line["message"])
    workers.start(fake=False, endpoint=scene.hub.url)
    job = ended(service, job.id, "ann", 100)
    assert (job.status, job.error, job.url) == ("done", "", "")
    found = service.verification("ann/merged", commit)
    assert found is not None
    assert job.verification is not None
    assert (found.verdict, found.same_files, found.weight_files, found.notes) == ("identical", 6, 6, ())
    assert job.verification["title"] == found.title == f"Verified identical on {found.day} (commit {commit[:8]})"
    (path,) = (workers.home / "verified").iterdir()
    assert "ann" not in path.read_text().replace("ann/merged", "")
    folder = JobFolder(workers.home, job.id)
    assert not folder.output.exists()
    assert folder.size < 100_000
    later = scene.alter(BODY, times(QUERY, 1.0))
    assert service.verification("ann/merged", later) is None


def test_what_was_altered_is_named(scene: Scene) -> None:
    """The same values in another file; one within the tolerance; one bit of a head."""
    scene.merge()
    scene.alter(BODY, times(QUERY, 1.0))
    found = scene.verify()
    assert (found.verdict, found.same_files, found.weight_files) == ("identical", 5, 6)
    scene.hub.reset_counters()
    scene.alter(BODY, times(QUERY, 1 + 1e-5))
    found = scene.verify()
    assert (found.verdict, found.reasons, found.notes) == ("within", (), ())
    assert found.largest is not None
    assert (found.largest.tensor, found.largest.tolerance, found.largest.within) == (QUERY, 1e-4, True)
    assert found.largest.relative == pytest.approx(1e-5, rel=0.1)
    assert found.title.startswith("Verified equal within tolerance on ")
    scene.alter(HEAD, flip)
    found = scene.verify()
    named = f"mood/{last_tensor(scene.root / 'down' / HEAD)}"
    assert (found.verdict, found.differing) == ("different", 2)
    assert found.largest is not None
    assert found.largest.tensor == named
    assert found.reasons[0].startswith(f"{named} by ")
    assert found.reasons[0].endswith(" differs, where 0.0001 is allowed for float32.")


def test_what_stands_beside_the_weights_is_told(scene: Scene) -> None:
    """Other labels and code in notes; a pickle that a loader might take, and a tensor too many, are a difference."""
    scene.merge()
    scene.alter("mood/config.json", lambda path: path.write_text(path.read_text().replace('"joy"', '"hate"')))
    scene.add("modeling.py", b"import os")
    found = scene.verify()
    assert (found.verdict, found.reasons) == ("identical", ())
    assert found.notes == (
        "mood/config.json is not the one that the recipe makes.",
        "The repo also holds modeling.py, which is code: nothing here has run it.",
    )
    scene.add("mood/pytorch_model.bin", b"pickle")
    extra = scene.root / "adapter_model.safetensors"
    save_file({"lora": load_file(scene.root / "merged" / BODY)[QUERY]}, extra)
    scene.add("adapter_model.safetensors", extra.read_bytes())
    found = scene.verify()
    assert (found.verdict, found.reasons) == (
        "different",
        (
            "lora is published, and the recipe does not make it.",
            "The repo also holds mood/pytorch_model.bin, which the recipe does not make.",
        ),
    )


def test_what_is_not_recorded_cannot_be_verified(scene: Scene) -> None:
    """What was not merged here; unpinned models, folders, statistics without a place or a hash."""
    with pytest.raises(InputError, match=r"ann/minilm-mood was not merged by Merge My Models: it has no recipe\.yaml"):
        scene.verify("ann/minilm-mood")
    scene.merge()
    recipe = yaml.safe_load((scene.root / "merged" / "recipe.yaml").read_text())
    first = recipe["models"][0]
    head = "ann/merged cannot be verified: "
    for change, sentence in {
        (
            "model",
            "ann/minilm-banking",
        ): "its recipe names ann/minilm-banking, which is no model of the Hub at a commit",
        ("model", "./banking"): "its recipe names ./banking, which is no model of the Hub at a commit",
        ("model", "banking"): "its recipe names banking, which is no model of the Hub at a commit",
        ("statistics", ""): "the Gram statistics of ann/minilm-banking were collected for it and not published",
    }.items():
        key, value = change
        changed = {**first, key: value} if value else {name: part for name, part in first.items() if name != key}
        assert scene.refusal({**recipe, "models": [changed, *recipe["models"][1:]]}).startswith(head + sentence)
    loose = {**first, "statistics": {"gram": first["statistics"]["gram"]["source"]}}
    said = scene.refusal({**recipe, "models": [loose, *recipe["models"][1:]]})
    assert said.startswith(head + "its recipe does not say which Gram statistics of ann/minilm-banking it was made")
    false = {**first, "statistics": {"gram": {**first["statistics"]["gram"], "sha256": "0" * 64}}}
    said = scene.refusal({**recipe, "models": [false, *recipe["models"][1:]]})
    assert "are not those of the recipe: their SHA-256 is " in said


def test_a_shell_tells_by_its_exit_code(scene: Scene) -> None:
    """1 for different; what it takes is said before; one object."""
    scene.merge()
    scene.alter(HEAD, flip)
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MERGE_"))}
    environment = unset | {"HF_ENDPOINT": scene.hub.url, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "cli.py"), "verify", "ann/merged", "--json"]
    done = subprocess.run(command, cwd=scene.root, env=environment, capture_output=True, text=True, timeout=120)
    told = json.loads(done.stdout)
    assert (done.returncode, told["verdict"], told["title"].partition(" on ")[0]) == (
        1,
        "different",
        "Found different from its recipe",
    )
    assert done.stderr.startswith("Verifying ann/merged@")
    assert "of disk at a time" in done.stderr


def test_a_result_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    """Cut off, of another version, or of another repo."""
    found = Verification("ann/merged", "a" * 40, 1.0, "identical", 1, 1, 5, 0)
    keep(tmp_path, found)
    assert kept(tmp_path, "ann/merged", "a" * 40) == found
    assert kept(tmp_path, "ann/merged", "b" * 40) is None
    (path,) = (tmp_path / "verified").iterdir()
    for broken in ("", "[]", '{"verdict": "identical"}', json.dumps(json.loads(path.read_text()) | {"commit": "c"})):
        path.write_text(broken)
        assert kept(tmp_path, "ann/merged", "a" * 40) is None
