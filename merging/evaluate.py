"""How well a classifier does on labelled text. Label names are compared as names, never as indices."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from merging.errors import InputError
from merging.loading import batches, load


@dataclass(frozen=True)
class Score:
    """Right answers among all."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of right answers, between 0 and 1."""
        return self.correct / self.total


def accuracy(
    folder: Path,
    rows: Sequence[tuple[str, str]],
    *,
    batch_size: int = 32,
    max_length: int = 128,
    device: str = "auto",
    name: str = "",
    data: str = "",
) -> Score:
    """Accuracy of the classifier in `folder` (a model, or a task's subfolder of one) on (text, label name) rows.

    `name` and `data` are what their user calls the model and the rows, for errors.
    Raises InputError when there are no rows, the model is no text classifier, or a label is not one of its labels.
    """
    if not rows:
        raise InputError("There is nothing to evaluate on", "the data has no rows", "Give at least one labelled text")
    name = name or folder.name
    loaded = load(folder, max_length=max_length, device=device, name=name)
    if not type(loaded.model).__name__.endswith("ForSequenceClassification"):
        raise InputError(
            f"{name} is a {type(loaded.model).__name__}",
            "accuracy is defined for text classifiers",
            "Evaluate a model with a classification head",
        )
    labels = [str(loaded.model.config.id2label[index]) for index in range(loaded.model.config.num_labels)]
    unknown = sorted({label for _, label in rows} - set(labels))
    if unknown:
        raise InputError(
            f"{name} has no label {unknown[0]!r}{f', which stands in {data}' if data else ''}",
            f"its labels are {', '.join(labels[:20])}{', ...' if len(labels) > 20 else ''}",
            "Use data with the model's own label names",
        )
    correct = 0
    with torch.inference_mode():
        for chosen, inputs in batches(loaded, [text for text, _ in rows], batch_size):
            best = loaded.model(**inputs).logits.argmax(-1).tolist()
            correct += sum(labels[answer] == rows[index][1] for answer, index in zip(best, chosen, strict=True))
    return Score(correct, len(rows))
