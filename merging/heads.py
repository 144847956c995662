"""What becomes of the heads: merged like any layer, or one for each task beside the shared body."""

from collections.abc import Sequence
from typing import Literal

from merging.architecture import Architecture
from merging.errors import Problem
from merging.parent import Parent
from merging.recipe import Recipe

HeadRule = Literal["none", "merged", "apart"]
# classes whose head has labels of its own
LABELLED = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice", "ForImageClassification")


def head_rule(recipe: Recipe, parents: Sequence[Parent], architecture: Architecture) -> tuple[HeadRule, list[Problem]]:
    """Merged when all heads have the same labels in the same order, else apart; with what a person should know."""
    heads = [
        {name: spec.shape for name, spec in parent.source.specs.items() if architecture.role(name, spec.shape).head}
        for parent in parents
    ]
    if not any(heads):
        return "none", []
    if not parents[0].architecture.endswith(LABELLED):
        return "merged", []
    labels = [parent.labels for parent in parents]
    if all(own == labels[0] for own in labels) and all(head == heads[0] for head in heads):
        if not _unnamed(labels[0]):
            return "merged", []
        return "apart", [
            Problem(
                "The heads stay apart",
                "their labels have no names (LABEL_0, ...), so nothing says that they mean the same",
                "Name the labels in id2label of each config to have one merged head",
                "models",
                "warning",
            )
        ]
    if all(sorted(own) == sorted(labels[0]) for own in labels):
        return "apart", [
            Problem(
                "The heads stay apart",
                "the models have the same labels in another order",
                "Save them with one order of labels to have one merged head",
                "models",
                "warning",
            )
        ]
    return "apart", []


def _unnamed(labels: Sequence[str]) -> bool:
    """True when the labels are the names that transformers gives by itself."""
    return all(label == f"LABEL_{index}" for index, label in enumerate(labels))
