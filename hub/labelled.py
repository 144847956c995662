"""Labelled examples for an evaluation, from a dataset of the Hub or a file: columns and labels found, or named.

A column that is not named is guessed by its usual names and by what it holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hub.client import Hub
from hub.datasets import POOL, TEXT_LIMIT, drawn, label_name, listed, no_column, open_rows, text_column_of
from merging.errors import InputError
from merging.evaluation.facts import Example
from merging.recipe import EvaluationSet

LABEL_COLUMNS = ("label", "labels", "intent", "emotion", "sentiment", "category", "class", "topic", "target", "gold")
WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "ner", "pos_tags", "chunk_tags")


@dataclass(frozen=True)
class Columns:
    """Where the text and the label of a row are; no label where none is asked for."""

    text: str
    label: str


@dataclass(frozen=True)
class Labelled:
    """The examples of an evaluation set, the commit that they come from ("" for a file), and where they stood."""

    examples: tuple[Example, ...]
    revision: str
    columns: Columns | None = None
    unlabelled: int = 0  # rows that were left out, for they have no label


def load_labelled(
    hub: Hub,
    wish: EvaluationSet,
    *,
    by_word: bool = False,
    labelled: bool = True,
    cache_dir: Path | None = None,
    files_allowed: bool = False,
) -> Labelled:
    """`wish.examples` rows, drawn by its seed from the first 50,000. `by_word`: an example is words with a label each.

    Words are a list, or a text that blanks divide. Raises InputError that lists the columns, configs or splits there
    are, and where no row has a label.
    """
    source = open_rows(hub, wish.data, cache_dir=cache_dir, files_allowed=files_allowed)
    rows = islice(source.rows, POOL)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{wish.data} is empty", "it has no rows", "Pick another split")
    columns = columns_of(first, source.classes, wish, by_word=by_word, labelled=labelled)
    found: list[Example] = []
    unlabelled = 0
    for row in chain([first], rows):
        example = _example(row, columns, source.classes.get(columns.label, ()), by_word)
        if not example.text:
            continue
        if labelled and not example.label:
            unlabelled += 1
            continue
        found.append(example)
    if not found:
        what = f"{wish.data} has no labels" if unlabelled else f"{wish.data} holds no text"
        why = f"none of its {unlabelled:,} rows has one" if unlabelled else "every row of it is empty"
        raise InputError(what, why, "Pick another split or column", "label_column" if unlabelled else "")
    return Labelled(tuple(drawn(found, wish.examples, wish.seed)), source.revision, columns, unlabelled)


def columns_of(
    row: Mapping[str, Any],
    classes: Mapping[str, Sequence[str]],
    wish: EvaluationSet,
    *,
    by_word: bool = False,
    labelled: bool = True,
) -> Columns:
    """The columns of text and label, as the wish names them, or as they are usually called. Raises InputError."""
    text = _word_column(row, wish) if by_word else text_column_of(row, wish.data, wish.text_column)
    if not labelled:
        return Columns(text, "")
    if wish.label_column is not None:
        if wish.label_column not in row:
            raise no_column(wish.data, wish.label_column, row, "label_column")
        return Columns(text, wish.label_column)
    others = [name for name in row if name != text]
    usual = [name for name in (TAG_COLUMNS if by_word else LABEL_COLUMNS) if name in others]
    named = [name for name in others if name in classes]
    found = usual[:1] or (named if len(named) == 1 else others if len(others) == 1 else [])
    if not others:
        why = f"{text} is its only column"
        raise InputError(f"{wish.data} has no labels", why, "Take data with a label in each row", "label_column")
    if not found:
        what = f"Which column of {wish.data} is the label?"
        raise InputError(what, f"It has {listed(row)}", "Name it as label_column", "label_column")
    return Columns(text, found[0])


def _word_column(row: Mapping[str, Any], wish: EvaluationSet) -> str:
    if wish.text_column is not None:
        if wish.text_column not in row:
            raise no_column(wish.data, wish.text_column, row, "text_column")
        return wish.text_column
    found = [name for name in WORD_COLUMNS if name in row] or [name for name in row if _is_words(row[name])]
    if not found:
        what = f"Which column of {wish.data} holds the words?"
        raise InputError(what, f"It has {listed(row)}", "Name it as text_column", "text_column")
    return found[0]


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _example(row: Mapping[str, Any], columns: Columns, classes: Sequence[str], by_word: bool) -> Example:
    value = row.get(columns.label) if columns.label else None
    if not by_word:
        return Example(str(row.get(columns.text) or "").strip()[:TEXT_LIMIT], _name(value, classes))
    words = _items(row.get(columns.text))
    tags = [_name(tag, classes) or "" for tag in _items(value)]
    if columns.label and words and tags and len(words) != len(tags):
        raise InputError(
            "A row has another number of labels than words", f"{len(words)} words, {len(tags)} labels", "Mend the data"
        )
    return Example(tuple(map(str, words)), tuple(tags) if all(tags) else None)


def _name(value: Any, classes: Sequence[str]) -> str | None:
    """The name of a label; None for none, and for the -1 that datasets give to what has no class."""
    if value is None or value == "" or (classes and value == -1):
        return None
    return label_name(value, classes)


def _items(value: Any) -> list[Any]:
    return value.split() if isinstance(value, str) else list(value or [])
