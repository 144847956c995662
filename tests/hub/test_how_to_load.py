"""The Python that a card shows is run as it stands, on real models of every kind."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.card import render_card
from hub.how_to_load import how_to_load, loadable
from merging.checkpoint import open_parent
from merging.engine import Report, merge, run_to_end
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from tests.tiny_models import save_body, save_sentence_model, save_tiny

pytestmark = pytest.mark.slow  # whole libraries are imported


def ran(text: str) -> list[dict[str, Any]]:
    """The names that each Python block of a card leaves behind, run by itself."""
    found: list[dict[str, Any]] = []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        found.append({})
        exec(block, found[-1])
    assert found
    return found


@pytest.mark.parametrize(
    ("kind", "labels", "name", "tag"),
    [
        ("bert", ("no", "yes"), "BertForSequenceClassification", "text-classification"),
        ("bert", None, "BertForMaskedLM", "fill-mask"),
        ("llama", None, "LlamaForCausalLM", "text-generation"),
        ("t5", None, "T5ForConditionalGeneration", None),
        ("bart", None, "BartForConditionalGeneration", None),
        ("vit", ("no", "yes"), "ViTForImageClassification", "image-classification"),
        ("clip", None, "CLIPModel", "zero-shot-image-classification"),
    ],
)
def test_one_model(tmp_path: Path, kind: str, labels: Any, name: str, tag: str | None) -> None:
    """The class is the one that was saved; where transformers has a pipeline for the task, it is made."""
    folder = save_tiny(tmp_path / "m", kind, labels=labels)
    text = how_to_load(str(folder), [loadable(open_parent("m", folder))])
    (names,) = ran(text)
    assert type(names["model"]).__name__ == name
    assert ("pipe" in names, f'pipeline("{tag}"' in text) == (tag is not None, tag is not None)
    assert ("answer" in names) == (tag is None)
    assert ("image_processor" in names) == (kind in ("vit", "clip"))
    assert ("tokenizer" in names) == (kind != "vit")


def test_a_bare_body(tmp_path: Path) -> None:
    """A model without a head is loaded as one."""
    folder = save_body(tmp_path / "m")
    (names,) = ran(how_to_load(str(folder), [loadable(open_parent("m", folder))]))
    assert type(names["model"]).__name__ == "BertModel"


def card(out: Path, *folders: Path, **more: Any) -> str:
    """The card of a real merge of folders, as it would be published from there."""
    recipe = recipe_from_dict({"merge_method": "average", "models": [{"model": str(f)} for f in folders], **more})
    parents = [open_parent(folder.name, folder) for folder in folders]
    report: Report = run_to_end(merge(make_plan(recipe, parents), parents, out, threads=1))
    return render_card(recipe, [replace(parent, license="mit") for parent in parents], report, repo_id=str(out))


def test_an_embedding_model_has_its_own_library(tmp_path: Path) -> None:
    """Library, task and tags are those of sentence-transformers, and its lines embed."""
    folders = [save_sentence_model(tmp_path / f"e{seed}", seed=seed, dense=16) for seed in range(3)]
    text = card(tmp_path / "out", *folders)
    head = yaml.safe_load(text[4:].split("\n---\n")[0])
    assert (head["library_name"], head["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert head["tags"] == ["merge", "merge-my-models", "average", "sentence-transformers", "feature-extraction"]
    assert ran(text)[0]["embeddings"].shape == (2, 16)
    assert "They share one body" not in text


def test_tasks_of_several_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder with its own class or library; the root's kind is the repo's."""
    folders = [save_tiny(tmp_path / "mood"), save_tiny(tmp_path / "words", seed=1, labels=None)]
    folders.append(save_sentence_model(tmp_path / "embed", seed=2))
    text = card(tmp_path / "out", *folders, output={"root": "words"})
    assert yaml.safe_load(text[4:].split("\n---\n")[0])["pipeline_tag"] == "fill-mask"
    assert f'AutoModelForSequenceClassification.from_pretrained("{tmp_path / "out"}", subfolder="mood")' in text
    assert f'AutoModelForMaskedLM.from_pretrained("{tmp_path / "out"}", subfolder="words")' in text
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, allow_patterns: repo)
    mood, words, embed = ran(text)
    assert type(mood["model"]).__name__ == "BertForSequenceClassification"
    assert mood["pipe"]("a b")[0]["label"] in ("no", "yes")
    assert type(words["model"]).__name__ == "BertForMaskedLM"
    assert embed["embeddings"].shape == (2, 32)
