"""What becomes of the heads: merged like any layer, or one for each task beside the shared body."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from merging.alignment import align, with_rows
from merging.architecture import architecture_of
from merging.errors import Problem
from merging.parent import Parent
from merging.roles import Architecture
from merging.tensors import TensorSpec

HeadRule = Literal["none", "merged", "apart"]
# classes whose head has labels of its own
LABELLED = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice", "ForImageClassification")
LABEL_ROWS = r"(?:^|\.)(?:classifier|score|out_proj)\.(?:weight|bias)$"  # one row a label, when it is a head's


@dataclass(frozen=True)
class Arrangement:
    """The parents as a plan and its merge see them: one set of names, one order of labels."""

    parents: tuple[Parent, ...]
    rule: HeadRule
    problems: tuple[Problem, ...] = ()
    base: Parent | None = None
    other_head: frozenset[str] = frozenset()  # tensors of the base's head that mean something else in the models


def arrange(parents: Sequence[Parent], base: Parent | None = None) -> Arrangement:
    """Align the names, decide what becomes of the heads, and put labels of another order into the first one's.

    What becomes of the heads is the parents' matter alone; the base follows.
    """
    if base is None or base.model_type != parents[0].model_type:
        return replace(_arrange(align(parents)), base=base)
    *aligned, base = align([*parents, base])
    arranged = _arrange(tuple(aligned))
    return _with_base(arranged, base) if arranged.rule == "merged" else replace(arranged, base=base)


def _arrange(aligned: tuple[Parent, ...]) -> Arrangement:
    architecture = architecture_of(aligned[0].config)
    if architecture is None:
        return Arrangement(aligned, "none")
    heads = [_head(parent, architecture) for parent in aligned]
    if not any(heads):
        return Arrangement(aligned, "none")
    if len(aligned) == 1:
        return Arrangement(aligned, "merged")
    if len({parent.architecture for parent in aligned}) > 1:
        return Arrangement(aligned, "apart")
    if not aligned[0].architecture.endswith(LABELLED):
        return Arrangement(aligned, "merged")
    return _labelled(aligned, heads)


def _labelled(parents: tuple[Parent, ...], heads: Sequence[Mapping[str, TensorSpec]]) -> Arrangement:
    labels = [parent.labels for parent in parents]
    shapes = [{name: spec.shape for name, spec in head.items()} for head in heads]
    if any(shape != shapes[0] for shape in shapes) or any(sorted(own) != sorted(labels[0]) for own in labels):
        return Arrangement(parents, "apart", _numbers_and_classes(parents))
    if _unnamed(labels[0]):
        warning = Problem(
            "The heads stay apart",
            "their labels have no names (LABEL_0, ...), so nothing says that they mean the same",
            "Name the labels in id2label of each config to have one merged head",
            "models",
            "warning",
        )
        return Arrangement(parents, "apart", (warning,))
    if len(set(labels[0])) < len(labels[0]):
        return Arrangement(parents, "apart")
    ordered, problems = [], []
    for index, (parent, own, head) in enumerate(zip(parents, labels, heads, strict=True)):
        ordered.append(_in_order(parent, head, labels[0]))
        if own == labels[0]:
            continue
        problems.append(
            Problem(
                f"{parent.model} has its labels in another order",
                f"the rows of its head are put into that of {parents[0].model}, by label name",
                "Nothing to do",
                f"models.{index}.model",
                "warning",
            )
        )
    return Arrangement(tuple(ordered), "merged", tuple(problems))


def _in_order(parent: Parent, head: Mapping[str, TensorSpec], labels: Sequence[str]) -> Parent:
    """The parent with the rows of its head in the order of these labels, which are its own in any order."""
    if parent.labels == labels:
        return parent
    order = tuple(parent.labels.index(label) for label in labels)
    rows = {
        name: order
        for name, spec in head.items()
        if re.search(LABEL_ROWS, name) and spec.shape and spec.shape[0] == len(order)
    }
    return with_rows(parent, rows)


def _with_base(arranged: Arrangement, base: Parent) -> Arrangement:
    """The base beside parents whose heads are merged: its head counts only where its labels are theirs."""
    first = arranged.parents[0]
    architecture = architecture_of(first.config)
    assert architecture is not None
    head = _head(base, architecture)
    if not first.architecture.endswith(LABELLED):
        return replace(arranged, base=base)
    known = not _unnamed(first.labels) and len(set(first.labels)) == len(first.labels)
    if not known or base.architecture != first.architecture or sorted(base.labels) != sorted(first.labels):
        return replace(arranged, base=base, other_head=frozenset(head))
    return replace(arranged, base=_in_order(base, head, first.labels))


def _head(parent: Parent, architecture: Architecture) -> dict[str, TensorSpec]:
    return {name: spec for name, spec in parent.source.specs.items() if architecture.role(name, spec.shape).head}


def _numbers_and_classes(parents: Sequence[Parent]) -> tuple[Problem, ...]:
    """One output beside several: the same question answered by a number and by classes cannot be one head."""
    counts = {parent.model: len(parent.labels) for parent in parents}
    if 1 not in counts.values() or set(counts.values()) == {1}:
        return ()
    single = next(model for model, count in counts.items() if count == 1)
    return (
        Problem(
            "The heads stay apart",
            f"{single} answers with one number, the others with one score a label",
            "Nothing to do: each task keeps its own head",
            "models",
            "warning",
        ),
    )


def _unnamed(labels: Sequence[str]) -> bool:
    """True when the labels are the names that transformers gives by itself."""
    return all(label == f"LABEL_{index}" for index, label in enumerate(labels))
