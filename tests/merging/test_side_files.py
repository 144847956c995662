"""What stands beside the weights: carried whole, without code, and compared before anything is merged."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.merging.folders import change, merged, planned, refusal, sentences
from tests.tiny_models import save_body, save_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, made once: copy before you change one."""
    root = tmp_path_factory.mktemp("models")
    for seed in range(2):
        save_tiny(root / f"vit{seed}", "vit", seed=seed)
        save_tiny(root / f"llama{seed}", "llama", seed=seed, labels=None)
    return root


@pytest.fixture
def models(made: Path, tmp_path: Path) -> Path:
    """A copy of those models that may be changed."""
    shutil.copytree(made, tmp_path / "models")
    return tmp_path / "models"


def test_bare_bodies_merge_as_one_model(tmp_path: Path) -> None:
    """Models of the class BertModel have no head: one model, at the root."""
    folders = [save_body(tmp_path / f"m{seed}", seed=seed) for seed in range(3)]
    plan = planned(*folders)
    assert (plan.head_rule, [output.folder for output in plan.outputs]) == ("none", [""])
    merged(tmp_path / "out", *folders)


def test_pictures_made_ready_in_another_way(models: Path) -> None:
    """Mean, spread and size of pictures: a warning that says whose are used; the form of a size does not matter."""
    path = models / "vit1" / "preprocessor_config.json"
    change(path, {"size": 16})
    assert sentences(models / "vit0", models / "vit1") == []
    change(path, {"image_mean": [0.1, 0.2, 0.3], "size": {"height": 32, "width": 32}})
    assert sentences(models / "vit0", models / "vit1") == [
        "warning: image_mean is [0.1, 0.2, 0.3] in vit1 (and 1 more): it is [0.5, 0.5, 0.5] in vit0, and so in the "
        "result. Put the model first whose setting you want."
    ]
    path.unlink()
    assert sentences(models / "vit0", models / "vit1") == [
        "warning: vit1 has no preprocessor_config.json: nothing says how a picture is made ready for it. "
        "Add the file of the model that it was trained from."
    ]


def test_chats_and_generation_settings_that_differ(models: Path) -> None:
    """Another chat template or other generation settings: a warning each, wherever the template stands."""
    first, second = models / "llama0", models / "llama1"
    for folder in (first, second):
        (folder / "chat_template.jinja").write_text("{{ messages }}\n")
        change(folder / "generation_config.json", {"temperature": 0.5})
    (second / "chat_template.jinja").unlink()
    change(second / "tokenizer_config.json", {"chat_template": "{{ messages }}"})
    assert sentences(first, second) == []
    change(second / "tokenizer_config.json", {"chat_template": "other"})
    change(second / "generation_config.json", {"temperature": 0.9, "transformers_version": "4.0"})
    assert sentences(first, second) == [
        "warning: temperature is 0.9 in llama1: it is 0.5 in llama0, and so in the result. "
        "Put the model first whose setting you want.",
        "warning: llama1 has another chat template: the result has that of llama0. "
        "Put the model first whose setting you want.",
    ]
    (first / "chat_template.jinja").unlink()
    assert "llama1 has a chat template: llama0 has none, nor has the result." in sentences(first, second)[1]


def test_all_side_files_are_carried_and_no_code(models: Path, tmp_path: Path) -> None:
    """Templates, vocabularies of all kinds and configs arrive; code, class paths and other files do not."""
    first = models / "llama0"
    (first / "additional_chat_templates").mkdir()
    plain = ("chat_template.jinja", "additional_chat_templates/tools.jinja", "merges.txt", "special_tokens_map.json")
    for name in plain:
        (first / name).write_text('{"bos_token": "[CLS]"}')
    for name in ("modeling.py", "weights.bin", "additional_chat_templates/evil.py", "notes.txt"):
        (first / name).write_text("print()")
    hidden = {"auto_map": {"AutoModel": "evil.Model"}, "custom_pipelines": {}, "_name_or_path": "/home/ann"}
    change(first / "generation_config.json", {**hidden, "temperature": 0.5, "inner": [{"trust_remote_code": True}]})
    change(first / "config.json", {**hidden, "sentence_transformers": {"activation_fn": "evil.code.Run", "version": 5}})
    change(first / "tokenizer_config.json", hidden)
    out = merged(tmp_path / "out", first, models / "llama1")
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        *plain,
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("model.safetensors", "recipe.yaml"),
    }
    for path in out.rglob("*.json"):
        assert not any(word in path.read_text() for word in ("evil", "auto_map", "custom_pipelines", "/home/ann"))
    settings = json.loads((out / "generation_config.json").read_text())
    assert (settings["temperature"], settings["inner"]) == (0.5, [{}])
    assert json.loads((out / "config.json").read_text())["sentence_transformers"] == {"version": 5}


@pytest.mark.parametrize(("name", "says"), [
    ("generation_config.json", "llama1 has a broken generation_config.json: it is not JSON of the right form. "),
    ("chat_template.jinja", "llama1 has a broken chat_template.jinja: it is not text. "),
])  # fmt: skip
def test_a_broken_side_file_is_found_before_anything_is_merged(models: Path, name: str, says: str) -> None:
    """One sentence that names the file."""
    (models / "llama1" / name).write_bytes(b"\xff[")
    assert refusal(models / "llama1") == f"{says}Save the model again."
