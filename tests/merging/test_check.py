"""The check of a written model: every kind is loaded as its user would and run once; what is wrong stops it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from merging.check import check_folder
from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from tests.tiny_models import VOCABULARY, save_sentence_model, save_tiny, save_tokenizer, tiny_config

torch.set_num_threads(1)
WORDS = len(VOCABULARY)
LENGTH = 8  # tokens of the sentence that a model is tried with, in the tiny vocabulary


def checked(folder: Path, *files: str) -> dict[str, Any]:
    """The check of a folder that has as many parameters as it has."""
    return check_folder(folder, sum(spec.numel for spec in Checkpoint(folder).specs.values()), files)


def save_class(folder: Path, name: str, kind: str = "bert", **changes: Any) -> Path:
    """A tiny model of one class of transformers."""
    getattr(transformers, name)(tiny_config(kind, architectures=[name], **changes)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "output"),
    [
        ("BertForSequenceClassification", "bert", [1, 2]),
        ("BertForTokenClassification", "bert", [1, LENGTH, 2]),
        ("BertForQuestionAnswering", "bert", [1, LENGTH]),
        ("BertForMaskedLM", "bert", [1, LENGTH, WORDS]),
        ("BertForMultipleChoice", "bert", [1, 2]),
        ("BertModel", "bert", [1, LENGTH, 32]),
        ("T5EncoderModel", "t5", [1, LENGTH, 32]),
    ],
)
def test_models_that_read_text(tmp_path: Path, name: str, kind: str, output: list[int]) -> None:
    """Classifiers of texts and of tokens, question answering, masked words, bare bodies."""
    found = checked(save_class(tmp_path / "m", name, kind))
    assert (found["class"], found["output"], found["tokenizer"]) == (name, output, True)
    assert "written" not in found
    assert "note" not in found


@pytest.mark.parametrize(("kind", "length"), [("t5", 1), ("bart", 1), ("gpt2", LENGTH), ("llama", LENGTH)])
def test_models_that_write(tmp_path: Path, kind: str, length: int) -> None:
    """Encoder-decoders and causal models score the vocabulary and write a few tokens."""
    found = checked(save_tiny(tmp_path / "m", kind, labels=None))
    assert found["output"] == [1, length, WORDS]
    assert 1 <= found["written"] <= 4


def test_models_that_see(tmp_path: Path) -> None:
    """A picture goes through the model's own processor; CLIP gets a text too."""
    found = checked(save_tiny(tmp_path / "vit", "vit", labels=("no", "yes", "so")))
    assert (found["output"], found["processor"], found["tokenizer"]) == ([1, 3], True, False)
    found = checked(save_tiny(tmp_path / "clip", "clip", labels=None))
    assert (found["output"], found["processor"], found["tokenizer"]) == ([1, 1], True, True)


def test_without_a_tokenizer_or_a_processor(tmp_path: Path) -> None:
    """Parents may have had none: plain numbers are enough to try the weights, and the result says so."""
    folder = save_tiny(tmp_path / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert checked(folder)["tokenizer"] is False
    folder = save_tiny(tmp_path / "vit", "vit")
    (folder / "preprocessor_config.json").unlink()
    assert (checked(folder)["processor"], checked(folder)["output"]) == (False, [1, 2])


@pytest.mark.slow
@pytest.mark.parametrize("dense", [0, 16])
def test_an_embedding_model_embeds(tmp_path: Path, dense: int) -> None:
    """A folder with modules.json is loaded by sentence-transformers too, with its Dense."""
    found = checked(save_sentence_model(tmp_path / "m", dense=dense))
    assert (found["class"], found["embedding"]) == ("BertModel", [1, dense or 32])


@pytest.mark.slow
def test_a_cross_encoder_scores_a_pair(tmp_path: Path) -> None:
    """The other model types of sentence-transformers are loaded by their own class."""
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(save_tiny(tmp_path / "plain", labels=("score",))), device="cpu").save(str(tmp_path / "m"))
    assert (tmp_path / "m" / "modules.json").is_file()
    assert checked(tmp_path / "m")["embedding"] == [1]


@pytest.mark.slow
def test_without_sentence_transformers(tmp_path: Path) -> None:
    """Where the library is missing the transformer is tried alone, and the report says so."""
    folder = save_sentence_model(tmp_path / "m", dense=16)
    count = sum(spec.numel for spec in Checkpoint(folder).specs.values())
    hide = (
        "import importlib.util as u, json, sys\n"
        "from pathlib import Path\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'sentence_transformers' else find(name, *rest)\n"
        "from merging.check import check_folder\n"
        f"print(json.dumps(check_folder(Path({str(folder)!r}), {count})))"
    )
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["note"] == (
        "sentence-transformers is not installed, so the transformer alone was tried, with plain transformers"
    )
    assert "embedding" not in found
    assert found["parameters"] == count


def wrong(folder: Path, *files: str) -> str:
    """The sentence with which the check stops."""
    with pytest.raises(MergeError) as error:
        checked(folder, *files)
    return str(error.value)


def test_what_is_wrong_stops_it_with_one_sentence(tmp_path: Path) -> None:
    """A wrong count, a lost file, NaN in a module, a tokenizer without words."""
    folder = save_sentence_model(tmp_path / "m", dense=16)
    with pytest.raises(MergeError, match=r"^m has [\d,]+ parameters: the plan promised 5\.$"):
        check_folder(folder, 5)
    assert wrong(folder, "modules.json", "1_Pooling/lost.json") == (
        "m lacks 1_Pooling/lost.json: it should have been carried from a parent."
    )
    dense = load_file(folder / "2_Dense" / "model.safetensors")
    save_file({**dense, "linear.bias": torch.full((16,), torch.nan)}, folder / "2_Dense" / "model.safetensors")
    assert wrong(folder) == "2_Dense/linear.bias holds NaN or infinity: it was written so."
    save_file({"linear.bias": dense["linear.bias"]}, folder / "2_Dense" / "model.safetensors")
    assert wrong(folder).startswith(
        "m does not load with sentence-transformers: Error(s) in loading state_dict for Dense"
    )
    (folder / "tokenizer.json").unlink()
    assert wrong(folder).startswith("The tokenizer of m does not load: ")


def test_a_processor_that_does_not_fit(tmp_path: Path) -> None:
    """The picture goes through the processor that was carried: one of another size is found out."""
    folder = save_tiny(tmp_path / "m", "vit")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": {"height": 32, "width": 32}}))
    assert wrong(folder).startswith("m loads and does not run: Input image size (32*32) doesn't match model (16*16)")


def test_a_model_that_computes_nan(tmp_path: Path) -> None:
    """Every weight is finite, the answer is not."""
    folder = save_tiny(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"] = torch.full_like(tensors["classifier.weight"], 3e38)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert wrong(folder) == "m answers NaN: its weights are finite but do not compute."


@pytest.mark.slow
def test_the_command_line(tmp_path: Path) -> None:
    """One object a folder; exit 1 and the sentence alone on the last line of stderr."""
    folder = save_tiny(tmp_path / "m")
    count = str(sum(spec.numel for spec in Checkpoint(folder).specs.values()))
    command = [sys.executable, "-m", "merging.check", str(folder), str(folder), "--parameters", count, count, "--files"]
    done = subprocess.run([*command, "config.json,tokenizer.json", "spiece.model"], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["output"] == [1, 2]
    assert done.stderr.splitlines()[-1] == "m lacks spiece.model: it should have been carried from a parent."
