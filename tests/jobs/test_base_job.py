"""A merge on a base as a job: real workers on a loopback Hub, from the wish to the published result."""

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.job import JobFolder
from jobs.service import JobService
from merging.errors import InputError
from merging.recipe import Recipe, recipe_from_dict
from tests.jobs.processes import Workers, ended
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow  # real processes and a Hub
QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def ann(hub: LoopbackHub, tmp_path: Path) -> Hub:
    """The Hub as ann sees it: two classifiers, and their base, which nobody else may see."""
    hub.add_user("ann")
    made = Hub(hub.url, hub.add_token("ann"))
    for seed, name in enumerate(("base", "one", "two")):
        made.api.create_repo(f"ann/{name}", private=name == "base")
        folder = save_tiny(tmp_path / name, seed=seed, labels=None if name == "base" else ("no", "yes"))
        made.api.upload_folder(repo_id=f"ann/{name}", folder_path=folder)
    return made


def on_base(base: str = "ann/base") -> Recipe:
    """Both models and, as in many files, the base itself in the list."""
    models = [{"model": "ann/base"}, {"model": "ann/one", "parameters": {"weight": 0.5}}, {"model": "ann/two"}]
    return recipe_from_dict(
        {
            "merge_method": "task_arithmetic",
            "models": models,
            "base_model": base,
            "output": {"repo_id": "ann/merged"},
        }
    )


def test_from_the_wish_to_the_published_result(
    workers: Workers, service: JobService, ann: Hub, hub: LoopbackHub, tmp_path: Path
) -> None:
    """The values, the pinned base in the published recipe, its name in the card, private as the base is."""
    workers.start(fake=False, endpoint=hub.url)
    job = ended(service, service.submit(on_base(), ann).id, "ann", seconds=100)
    assert (job.status, job.error) == ("done", "")
    info = ann.api.model_info("ann/merged")
    assert info.private
    down = Path(ann.api.snapshot_download("ann/merged", local_dir=tmp_path / "down"))
    recipe = yaml.safe_load((down / "recipe.yaml").read_text())
    assert recipe["base_model"] == f"ann/base@{ann.api.model_info('ann/base').sha}"
    assert [entry["model"].partition("@")[0] for entry in recipe["models"]] == ["ann/one", "ann/two"]
    assert "their base `ann/base`" in (down / "README.md").read_text()
    base, one, two = (load_file(tmp_path / name / "model.safetensors")[QUERY] for name in ("base", "one", "two"))
    merged = load_file(down / "model.safetensors")[QUERY]
    assert (merged - (base + 0.5 * (one - base) + (two - base))).abs().max() < 1e-6
    assert not JobFolder(workers.home, job.id).parents.exists()


def test_a_base_that_cannot_be_read_is_refused_before_anything_is_queued(service: JobService, ann: Hub) -> None:
    """Beside its field."""
    with pytest.raises(InputError, match="ann/nothing does not exist") as error:
        service.submit(on_base("ann/nothing"), ann)
    assert error.value.problem.where == "base_model"
    assert service.list("ann") == []
