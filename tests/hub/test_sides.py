"""Side files and modules of the Hub: looked at before any weight is fetched, downloaded and published whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.download import fetch
from hub.publish import publish, publishable
from hub.resolve import resolve
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.errors import InputError
from merging.plan import make_plan
from tests.hub.helpers import Put, texts, wish
from tests.tiny_models import save_sentence_model

pytestmark = pytest.mark.slow  # the library takes seconds to import


@pytest.fixture(scope="module")
def embedders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three embedding models with a Dense; copy before you change one."""
    root = tmp_path_factory.mktemp("embedders")
    return [save_sentence_model(root / f"e{seed}", seed=seed, dense=16) for seed in range(3)]


def copied(folder: Path, target: Path, path: str, **data: Any) -> Path:
    """A copy of a model with some keys of a JSON file changed."""
    shutil.copytree(folder, target)
    (target / path).write_text(json.dumps({**json.loads((target / path).read_text()), **data}))
    return target


def test_three_embedding_models_of_the_hub(
    hub: LoopbackHub, ann: Hub, put: Put, embedders: list[Path], tmp_path: Path
) -> None:
    """Planned from headers and small files, fetched, merged by the same plan, published, and loaded from there."""
    names = [f"ann/{folder.name}" for folder in embedders]
    for name, folder in zip(names, embedders, strict=True):
        put(ann, name, folder)
    hub.reset_counters()
    resolved = resolve(ann, wish(*names))
    plan = make_plan(resolved.recipe, resolved.parents).raise_if_impossible()
    assert hub.counters()["weight_bytes"] == 0
    assert resolved.problems == plan.problems == ()
    assert plan.steps[-1].name.startswith("2_Dense/linear.")
    assert {"2_Dense/model.safetensors", "1_Pooling/config.json", "modules.json"} <= set(plan.fetch[0])
    parents = []
    for index, parent in enumerate(resolved.parents):
        list(fetch(ann, parent, plan.fetch[index], tmp_path / str(index)))
        parents.append(open_parent(parent.model, tmp_path / str(index), revision=parent.revision))
        assert parents[-1].weights == parent.weights
        assert parents[-1].side == parent.side
    again = make_plan(resolved.recipe, parents)
    assert again.fingerprint == plan.fingerprint
    out = tmp_path / "job" / "output"
    run_to_end(merge(again, parents, out, threads=1))
    published = publish(ann, out, "ann/merged", private=False, job_id="job-1")
    listed = {
        sibling.rfilename for sibling in ann.api.model_info("ann/merged", revision=published.commit).siblings or []
    }
    assert listed == {".gitattributes", *publishable(out)}
    place = ann.api.snapshot_download("ann/merged", local_dir=tmp_path / "again")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(place, device="cpu", local_files_only=True)
    assert model.encode(["one two", "three"]).shape == (2, 16)


def problem_of(ann: Hub, put: Put, first: Path, second: Path) -> list[str]:
    """What the preview says of two models of the Hub; nothing is fetched for it."""
    put(ann, "ann/first", first)
    put(ann, "ann/second", second)
    resolved = resolve(ann, wish("ann/first", "ann/second"))
    found = resolved.problems or make_plan(resolved.recipe, resolved.parents).problems
    assert {problem.where for problem in found} <= {"models.1.model"}
    return texts(found)


def test_a_difference_is_seen_before_weights_are_fetched(
    hub: LoopbackHub, ann: Hub, put: Put, embedders: list[Path], tmp_path: Path
) -> None:
    """Pooling by another token: a problem beside the model, from a few hundred bytes."""
    other = copied(embedders[1], tmp_path / "other", "1_Pooling/config.json", pooling_mode="cls")
    assert problem_of(ann, put, embedders[0], other) == [
        "pooling_mode of the module 1_Pooling is cls in ann/second: it is mean in ann/first. "
        "Merge models that embed in the same way."
    ]
    assert hub.counters()["weight_bytes"] == 0


def test_a_pickled_dense_on_the_hub(ann: Hub, put: Put, embedders: list[Path], tmp_path: Path) -> None:
    """Safetensors for the transformer, a pickle for its Dense: refused, with the way out."""
    shutil.copytree(embedders[1], tmp_path / "other")
    dense = tmp_path / "other" / "2_Dense"
    (dense / "model.safetensors").rename(dense / "pytorch_model.bin")
    assert problem_of(ann, put, embedders[0], tmp_path / "other") == [
        "ann/second has no safetensors for its module 2_Dense: it has only 2_Dense/pytorch_model.bin, and loading "
        "pickles can run code. Load it once with sentence-transformers and save it again."
    ]


def test_a_module_of_a_stranger_on_the_hub(ann: Hub, put: Put, embedders: list[Path], tmp_path: Path) -> None:
    """A class path that is not one of sentence-transformers' own never gets further than the preview."""
    shutil.copytree(embedders[1], tmp_path / "other")
    modules = json.loads((tmp_path / "other" / "modules.json").read_text())
    (tmp_path / "other" / "modules.json").write_text(json.dumps([*modules[:2], {**modules[2], "type": "evil.Module"}]))
    (text,) = problem_of(ann, put, embedders[0], tmp_path / "other")
    assert text.startswith("ann/second has a modules.json that cannot be used: it names evil.Module: only modules of")


def test_a_side_file_that_is_too_large(ann: Hub, put: Put, embedders: list[Path], tmp_path: Path) -> None:
    """A small file is read up to a limit, by its listed size."""
    other = copied(embedders[1], tmp_path / "other", "sentence_bert_config.json", x="y" * 5_000_001)
    (text,) = problem_of(ann, put, embedders[0], other)
    assert text.startswith("ann/second: sentence_bert_config.json is too large: 5,000,")


@pytest.mark.parametrize(
    ("path", "data", "says"),
    [
        ("generation_config.json", {"a": [{"auto_map": {}}]}, "its auto_map names code to run"),
        ("2_Dense/config.json", {"activation_function": "evil.Run"}, "its activation_function names code to run"),
        ("modules.json", [{"type": "evil.Module", "path": ""}], "it names evil.Module"),
    ],
)
def test_class_paths_are_not_published(embedders: list[Path], tmp_path: Path, path: str, data: Any, says: str) -> None:
    """At any depth, in any folder."""
    shutil.copytree(embedders[0], tmp_path / "out")
    assert "2_Dense/model.safetensors" in publishable(tmp_path / "out")
    (tmp_path / "out" / path).write_text(json.dumps(data))
    with pytest.raises(InputError, match=says):
        publishable(tmp_path / "out")
