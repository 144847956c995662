"""A look at the first rows of labelled data: its columns, which of them are text and label, which labels there are."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hub.client import Hub
from hub.datasets import label_name, open_rows
from hub.labelled import WORD_COLUMNS, Columns, columns_of
from merging.errors import InputError
from merging.recipe import EvaluationSet

ROWS = 200  # rows that are looked at
LABELS = 200  # labels that are told
Row = Mapping[str, Any]


@dataclass(frozen=True)
class DataLook:
    """What the first rows say. All text is from strangers: escape it."""

    columns: tuple[str, ...]
    text: str  # column, "" where that cannot be told
    label: str  # column, "" where there is none, or that cannot be told
    labels: tuple[str, ...]  # of the label column: all where the data name its classes, else those of the first rows
    example: str  # the first text
    by_word: bool = False  # an example is a list of words, with a label each


def look_at_dataset(hub: Hub, data: str, text_column: str = "", label_column: str = "") -> DataLook:
    """The first rows of `id[:config][:split]`, which is read as a stream. Raises InputError, or HubUnavailable."""
    with TemporaryDirectory(prefix="merge-look-") as folder:
        source = open_rows(hub, data, cache_dir=Path(folder))
        rows = list(islice(source.rows, ROWS))
    return look_at_rows(rows, data, source.classes, text_column, label_column)


def look_at_rows(
    rows: Sequence[Row],
    name: str,
    classes: Mapping[str, Sequence[str]] | None = None,
    text_column: str = "",
    label_column: str = "",
) -> DataLook:
    """The columns of these rows of `name`; those that are named are taken, the others guessed. Raises InputError."""
    if not rows:
        raise InputError(f"{name} holds no rows", "", "Name another split, or another file")
    first, known = rows[0], classes or {}
    columns = tuple(str(column) for column in first)
    by_word = any(isinstance(first.get(column), list) for column in WORD_COLUMNS)
    wish = EvaluationSet(
        data=name[:300],
        text_column=text_column if text_column in columns else None,
        label_column=label_column if label_column in columns else None,
    )
    found = _guess(first, known, wish, by_word)
    labels = known.get(found.label) or _labels(rows, found.label)
    return DataLook(columns, found.text, found.label, tuple(labels)[:LABELS], _words(first.get(found.text)), by_word)


def _guess(
    first: Mapping[str, Any], classes: Mapping[str, Sequence[str]], wish: EvaluationSet, by_word: bool
) -> Columns:
    """The columns of text and label; the label is "" where none is found, the text where it cannot be told."""
    for labelled in (True, False):
        with suppress(InputError):
            return columns_of(first, classes, wish, by_word=by_word, labelled=labelled)
    return Columns(wish.text_column or "", wish.label_column or "")


def _labels(rows: Sequence[Row], column: str) -> Sequence[str]:
    if not column:
        return ()
    values = [row.get(column) for row in rows]
    each = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return sorted({label_name(one, None) for one in each})


def _words(value: Any) -> str:
    return " ".join(map(str, value))[:300] if isinstance(value, list) else str(value or "")[:300]
