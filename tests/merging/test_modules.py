"""Embedding models of sentence-transformers: three become one that its library loads; code of strangers is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merging.calibrate import collect
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from merging.statistics import Statistics
from tests.merging.folders import change, merged, refusal, sentences
from tests.tiny_models import save_body, save_sentence_model, save_tiny
from tests.tiny_models import sentences as texts

torch.set_num_threads(1)
pytestmark = pytest.mark.slow  # the library takes seconds to import


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, made once: copy before you change one."""
    root = tmp_path_factory.mktemp("models")
    for seed in range(3):
        save_sentence_model(root / f"e{seed}", seed=seed, dense=16)
    return root


@pytest.fixture
def models(made: Path, tmp_path: Path) -> Path:
    """A copy of those models that may be changed."""
    shutil.copytree(made, tmp_path / "models")
    return tmp_path / "models"


def embed(folder: Path) -> Any:
    """Embeddings of two texts by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(["one two three a b", "c"], convert_to_tensor=True)


def test_three_embedding_models_become_one(models: Path, tmp_path: Path) -> None:
    """The result loads with its own library, its Dense is the mean, and it embeds as its parts by hand do."""
    folders = [models / f"e{seed}" for seed in range(3)]
    out = merged(tmp_path / "out", *folders)
    dense = [load_file(folder / "2_Dense" / "model.safetensors") for folder in folders]
    ours = load_file(out / "2_Dense" / "model.safetensors")
    assert ours.keys() == {"linear.weight", "linear.bias"}
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, sum(part[name] for part in dense) / 3)
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(out)(["one two three a b", "c"], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(out)(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    pooled = (states * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(torch.tanh(pooled @ ours["linear.weight"].T + ours["linear.bias"]), dim=1)
    torch.testing.assert_close(embed(out), expected, rtol=1e-4, atol=1e-5)


def test_a_dense_is_averaged_and_named_where_statistics_are_needed(models: Path) -> None:
    """RegMean and Fisher have no statistics of a module: the plan says so of its tensors."""
    folders = [models / f"e{seed}" for seed in range(2)]
    for method in ("regmean", "fisher"):
        recipe = recipe_from_dict({"merge_method": method, "models": [{"model": str(folder)} for folder in folders]})
        parents = [open_parent(folder.name, folder, calibration=True) for folder in folders]
        fallbacks = make_plan(recipe, parents).fallbacks
        assert fallbacks["2_Dense/linear.weight"] == "no statistics are collected of the module 2_Dense"
        assert all(name.startswith("2_Dense/") for name in fallbacks)


def test_regmean_of_embedding_models(models: Path, tmp_path: Path) -> None:
    """Statistics collected of whole repos fit them: the body is solved, the Dense averaged and named."""
    folders, files = [models / "e0", models / "e1"], []
    for folder in folders:
        path = tmp_path / f"{folder.name}.gram"
        list(collect("gram", folder, texts(40), path, examples=40, batch_size=8, max_length=32))
        files.append({"gram": Statistics(path)})
    recipe = recipe_from_dict({"merge_method": "regmean", "models": [{"model": str(folder)} for folder in folders]})
    parents = [
        replace(open_parent(folder.name, folder), statistics={"gram": file["gram"].fact})
        for folder, file in zip(folders, files, strict=True)
    ]
    plan = make_plan(recipe, parents).raise_if_impossible()
    assert list(plan.fallbacks) == ["2_Dense/linear.weight"]
    report = run_to_end(merge(plan, parents, tmp_path / "out", statistics=files, threads=1))
    assert report.tensors["merge"] == 13
    assert report.files.keys() == {"model.safetensors", "2_Dense/model.safetensors"}
    assert embed(tmp_path / "out").shape == (2, 16)


def test_a_sharded_embedding_model_keeps_its_dense_out_of_the_index(
    models: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """The index names the transformer's shards alone; the Dense is found in its folder."""
    monkeypatch.setattr("merging.steps.SHARD_BYTES", 30_000)
    out = merged(tmp_path / "out", models / "e0", models / "e1")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert not any("/" in name or name.startswith("linear") for name in index["weight_map"])
    assert embed(out).shape == (2, 16)


def test_an_embedding_model_beside_a_classifier(models: Path, tmp_path: Path) -> None:
    """Heads apart: each task's folder has the side files of its own model, the Dense is nobody else's."""
    classifier = save_tiny(tmp_path / "classifier", seed=5)
    out = merged(tmp_path / "out", classifier, models / "e1", output={"root": "e1"})
    assert not (out / "classifier" / "modules.json").exists()
    assert (out / "classifier" / "tokenizer.json").is_file()
    for folder in (out, out / "e1"):
        assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode"] == "mean"
        assert embed(folder).shape == (2, 16)
    assert (out / "2_Dense" / "model.safetensors").samefile(out / "e1" / "2_Dense" / "model.safetensors")


@pytest.mark.parametrize(
    ("path", "data", "says"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode": "cls"},
            "error: pooling_mode of the module 1_Pooling is cls in e1: it is mean in e0. "
            "Merge models that embed in the same way.",
        ),
        (
            "2_Dense/config.json",
            {"activation_function": "torch.nn.modules.linear.Identity"},
            "error: activation_function of the module 2_Dense is Identity in e1: it is Tanh in e0. "
            "Merge models that embed in the same way.",
        ),
        (
            "2_Dense/config.json",
            {"activation_function": "evil.code.Run"},
            "error: The module 2_Dense of e1 names code to run: its activation is evil.code.Run, and only those of "
            "torch are carried. Leave this model out.",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "query: ", "document": ""}},
            "warning: prompts is {'query': 'query: '} in e1: it is {} in e0, and so in the result. "
            "Put the model first whose setting you want.",
        ),
        (
            "sentence_bert_config.json",
            {"max_seq_length": 128},
            "warning: max_seq_length is 128 in e1: it is 256 in e0, and so in the result. "
            "Put the model first whose setting you want.",
        ),
    ],
)
def test_embedding_models_that_differ(models: Path, path: str, data: dict[str, Any], says: str) -> None:
    """What changes the arithmetic is an error; what the first parent decides is a warning."""
    change(models / "e0" / "sentence_bert_config.json", {"max_seq_length": 256})
    change(models / "e1" / path, data)
    assert says in sentences(models / "e0", models / "e1")
    assert len(sentences(models / "e0", models / "e1")) == 1


def test_embedding_models_of_two_classes(models: Path, tmp_path: Path) -> None:
    """One of them has a head: each keeps its own modules, for its embeddings are made by them."""
    classifier = save_tiny(tmp_path / "classifier", seed=5)
    for name in ("1_Pooling", "2_Dense"):
        shutil.copytree(models / "e1" / name, classifier / name)
    (classifier / "modules.json").write_text(json.dumps(json.loads((models / "e1" / "modules.json").read_text())[:3]))
    merged(tmp_path / "out", classifier, models / "e0")
    for folder, own in (("classifier", models / "e1"), ("e0", models / "e0")):
        dense = [load_file(place / "2_Dense" / "model.safetensors") for place in (tmp_path / "out" / folder, own)]
        torch.testing.assert_close(*dense)


def test_an_older_pooling_config_says_the_same(models: Path) -> None:
    """One true flag of many is what one mode is today."""
    old = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    change(models / "e1" / "1_Pooling" / "config.json", {"pooling_mode": None, "embedding_dimension": None, **old})
    assert sentences(models / "e0", models / "e1") == []
    change(models / "e1" / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})
    assert "pooling_mode of the module 1_Pooling is max+mean in e1" in sentences(models / "e0", models / "e1")[0]


def test_a_repo_of_an_older_version(models: Path, tmp_path: Path) -> None:
    """Class paths of before version 5 and a Normalize without a folder: merged with today's, and loaded."""
    modules = json.loads((models / "e1" / "modules.json").read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    change(models / "e1" / "modules.json", modules)
    shutil.rmtree(models / "e1" / "3_Normalize")
    assert sentences(models / "e0", models / "e1") == []
    new, old = (merged(tmp_path / name, *folders) for name, folders in {
        "new": (models / "e0", models / "e1"), "old": (models / "e1", models / "e0")
    }.items())  # fmt: skip
    assert "sentence_transformers.models.Dense" in (old / "modules.json").read_text()
    torch.testing.assert_close(embed(new), embed(old))


def test_models_with_other_modules(models: Path, tmp_path: Path) -> None:
    """A Dense that one lacks is an error; Normalize, or no modules at all beside plain pooling, a warning."""
    bare = save_sentence_model(tmp_path / "bare", seed=7)
    assert sentences(models / "e0", bare) == [
        "error: bare is built from Transformer, Pooling: e0 from Transformer, Pooling, Dense. "
        "Merge models with the same modules."
    ]
    longer = save_sentence_model(tmp_path / "longer", seed=8, normalize=False)
    assert sentences(bare, longer) == [
        "warning: longer does not scale its embeddings to length 1: bare does, and so does the result. "
        "Put the model first whose setting you want."
    ]
    plain = save_body(tmp_path / "plain", seed=9)
    assert sentences(bare, plain) == [
        "warning: plain is no sentence-transformers model: the result is an embedding model, as bare is. "
        "Put the model first whose setting you want."
    ]
    assert "the result is a plain transformer, as plain is" in sentences(plain, bare)[0]
    assert sentences(models / "e0", plain)[0].startswith("error: plain is built from a transformer alone: e0 from")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"type": "evil.Module"}, "it names evil.Module: only modules of sentence-transformers that are known here"),
        ({"type": "sentence_transformers.models.Router"}, "it names sentence_transformers.models.Router: only modules"),
        ({"type": "sentence_transformers.util.file_io.Dense"}, "it names sentence_transformers.util.file_io.Dense"),
        ({"type": 5}, "it names 5"),
        ({"path": "../2_Dense"}, "a module has a folder that cannot be used"),
        ({"path": "1_Pooling"}, "followed by modules in folders of their own"),
        ({"path": ""}, "its Dense has no folder"),
    ],
)
def test_modules_of_strangers_are_refused(models: Path, entry: dict[str, Any], why: str) -> None:
    """modules.json may name classes of sentence-transformers that are known here, and nothing else."""
    modules = json.loads((models / "e1" / "modules.json").read_text())
    modules[2] |= entry
    change(models / "e1" / "modules.json", modules)
    text = refusal(models / "e1")
    assert text.startswith("e1 has a modules.json that cannot be used: ")
    assert why in text


def test_a_transformer_in_a_folder_of_its_own(models: Path) -> None:
    """Older repos keep it in 0_Transformer: refused, with the way out."""
    modules = json.loads((models / "e1" / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    change(models / "e1" / "modules.json", modules)
    assert refusal(models / "e1") == (
        "e1 has a modules.json that cannot be used: its transformer stands in 0_Transformer, not at the root. "
        "Save the model again with sentence-transformers."
    )


def test_a_pickled_dense_is_refused(models: Path) -> None:
    """A Dense without safetensors: a sentence with the way out, never a pickle."""
    dense = models / "e1" / "2_Dense"
    (dense / "model.safetensors").rename(dense / "pytorch_model.bin")
    assert refusal(models / "e1") == (
        "e1 has no safetensors for its module 2_Dense: it has only 2_Dense/pytorch_model.bin, and loading pickles can "
        "run code. Load it once with sentence-transformers and save it again."
    )
    (dense / "pytorch_model.bin").unlink()
    assert refusal(models / "e1") == "e1: 2_Dense/model.safetensors is missing: modules.json names it. Add it."


def test_a_task_named_like_a_module(models: Path) -> None:
    """Both would be one folder."""
    entries = [{"model": str(models / "e0"), "task": "2_dense"}, {"model": str(models / "e1")}]
    recipe = recipe_from_dict({"merge_method": "average", "models": entries})
    (problem,) = make_plan(recipe, [open_parent("a", models / "e0"), open_parent("b", models / "e1")]).problems
    assert str(problem) == "The task 2_dense is named like a module: both become a folder. Rename it."
