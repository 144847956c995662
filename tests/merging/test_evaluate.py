"""Accuracy counts right label names, whatever their order and whatever the batches."""

from pathlib import Path

import pytest
import torch
import transformers

from merging.errors import InputError
from merging.evaluate import Score, accuracy
from tests.tiny_models import save_tiny, sentences

torch.set_num_threads(1)
TEXTS = sentences(20, seed=3)


def answers(folder: Path) -> list[str]:
    """What the model says, one unpadded text at a time, by plain transformers."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in TEXTS]
    return [model.config.id2label[index] for index in found]


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_accuracy_is_the_share_of_right_answers(tmp_path: Path, kind: str) -> None:
    """Batches with padding give the answers of single texts; wrong gold labels count as wrong."""
    labels = ("red", "green", "blue")
    folder = save_tiny(tmp_path / kind, kind, labels=labels)
    gold = answers(folder)
    rows = list(zip(TEXTS, gold, strict=True))
    assert accuracy(folder, rows, batch_size=7) == Score(20, 20)
    other = {"red": "green", "green": "blue", "blue": "red"}
    wrong = [(text, other[label] if index < 5 else label) for index, (text, label) in enumerate(rows)]
    score = accuracy(folder, wrong, batch_size=3)
    assert (score.correct, score.total, score.accuracy) == (15, 20, 0.75)


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    """The same weights with the label names the other way round: every answer changes its name."""
    one = save_tiny(tmp_path / "one", labels=("no", "yes"))
    two = save_tiny(tmp_path / "two", labels=("yes", "no"))
    rows = list(zip(TEXTS, answers(one), strict=True))
    assert accuracy(one, rows).correct == 20
    assert accuracy(two, rows).correct == 0


def test_a_task_folder_is_a_model(tmp_path: Path) -> None:
    """A subfolder of a merged model is evaluated like any folder."""
    folder = save_tiny(tmp_path / "merged" / "banking")
    assert accuracy(folder, [(TEXTS[0], answers(folder)[0])]).accuracy == 1.0


def test_bad_input_has_a_sentence(tmp_path: Path) -> None:
    """An unknown label, no rows, no classifier, no folder."""
    folder = save_tiny(tmp_path / "bert")
    with pytest.raises(InputError) as error:
        accuracy(folder, [("one", "maybe")])
    assert str(error.value) == (
        "bert has no label 'maybe': its labels are no, yes. Use data with the model's own label names."
    )
    with pytest.raises(InputError, match="There is nothing to evaluate on: the data has no rows"):
        accuracy(folder, [])
    with pytest.raises(InputError, match="gpt2 is a GPT2LMHeadModel: accuracy is defined for text classifiers"):
        accuracy(save_tiny(tmp_path / "gpt2", "gpt2", labels=None), [("one", "a")])
    with pytest.raises(InputError, match=r"nowhere has no readable config\.json"):
        accuracy(tmp_path / "nowhere", [("one", "a")])
