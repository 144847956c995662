"""Labelled rows from files and uploads: columns found or named, words with labels, rows without one."""

import json
from pathlib import Path
from typing import Any

import pytest

from hub.client import Hub
from hub.labelled import Labelled, load_labelled
from jobs.text import labelled
from merging.errors import InputError
from merging.evaluation.facts import Example
from merging.recipe import HANDED_OVER, EvaluationSet

NOBODY = Hub("http://127.0.0.1:9", False)
ROWS = "id,review,stars,intent\n1,good,5,praise\n2,bad,1,\n3,,2,praise\n4,fine,3,shrug\n"


def load(path: Path, *, by_word: bool = False, has_labels: bool = True, **wish: Any) -> Labelled:
    """The rows of a local file."""
    one = EvaluationSet(data=str(path), **wish)
    return load_labelled(NOBODY, one, by_word=by_word, labelled=has_labels, files_allowed=True)


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    """Rows without text do not count, rows without a label are counted and left out."""
    path = tmp_path / "a.csv"
    path.write_text(ROWS)
    found = load(path)
    assert found.examples == (Example("good", "praise"), Example("fine", "shrug"))
    assert (found.columns and (found.columns.text, found.columns.label), found.unlabelled) == (("review", "intent"), 1)
    assert load(path, label_column="stars").examples[1] == Example("bad", "1")
    assert load(path, has_labels=False).examples[1] == Example("bad", None)
    assert len(load(path, label_column="stars", examples=2).examples) == 2


def test_words_have_a_label_each(tmp_path: Path) -> None:
    """Lists, or texts that blanks divide; another number of labels than of words is an error."""
    path = tmp_path / "a.jsonl"
    rows = [{"tokens": ["Ann", "runs"], "ner_tags": ["B-PER", "O"]}, {"tokens": "in Rome", "ner_tags": "O B-LOC"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load(path, by_word=True).examples == (
        Example(("Ann", "runs"), ("B-PER", "O")),
        Example(("in", "Rome"), ("O", "B-LOC")),
    )
    path.write_text(json.dumps({"tokens": ["a", "b"], "tags": ["O"]}))
    with pytest.raises(InputError, match="A row has another number of labels than words: 2 words, 1 labels"):
        load(path, by_word=True)


@pytest.mark.parametrize(
    ("body", "wish", "said"),
    [
        ("text,a,b\nx,1,2\n", {}, "Which column of .* is the label\\? It has text, a, b. Name it as label_column"),
        ("text,label\nx,\n", {}, "has no labels: none of its 1 rows has one"),
        ("text,label\nx,1\n", {"label_column": "gold"}, "has no column 'gold': it has text, label"),
        ("text,label\n", {}, "is empty: it has no rows"),
        ("text,label\n,a\n", {}, "holds no text: every row of it is empty"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, body: str, wish: dict[str, Any], said: str) -> None:
    """With the columns there are."""
    path = tmp_path / "a.csv"
    path.write_text(body)
    with pytest.raises(InputError, match=said):
        load(path, **wish)


def test_an_upload_becomes_rows() -> None:
    """As the job takes them, by its own columns; what is wrong with it names the file as its owner does."""
    wish = EvaluationSet(data=HANDED_OVER, label_column="stars")
    rows = labelled("mine.CSV", ROWS.encode(), wish)
    assert rows[0] == {"text": "good", "label": "5"}
    assert list(map(Example.from_dict, rows))[1] == Example("bad", "1")
    for name, body, field, said in (
        ("mine.pdf", b"x", "data", "mine.pdf cannot be read: a file ending in .jsonl, .csv, .tsv, .txt is needed."),
        ("mine.csv", b"text,a\nx,\n", "label_column", "mine.csv has no column 'stars': it has text, a. Name"),
        ("mine.csv", b"x" * 6_000_000, "data", "mine.csv is too long: 6.0 MB, at most 5 MB are taken."),
    ):
        with pytest.raises(InputError) as error:
            labelled(name, body, wish, 3)
        assert str(error.value).startswith(said)
        assert error.value.problem.where == f"evaluate.3.{field}"
