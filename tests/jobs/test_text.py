"""Text that is handed over: what is taken, and what is said about what is not."""

import pytest

from jobs.text import TEXT_LIMIT, pasted, uploaded
from merging.errors import InputError


@pytest.mark.parametrize(
    ("name", "body", "column"),
    [
        ("a.txt", "one\n\n two\n", None),
        ("a.JSONL", '{"text": "one", "n": 1}\n{"text": "two"}\n', None),
        ("a.csv", "n,review\n1,one\n2,two\n", None),
        ("a.csv", "left,right\nx,one\ny,two\n", "right"),
        ("a.tsv", "text\tn\none\t1\ntwo\t2\n", None),
    ],
)
def test_every_kind_of_file_gives_its_texts(name: str, body: str, column: str | None) -> None:
    """In order, without blank ones; the column is guessed where it can be."""
    assert list(uploaded(name, body.encode(), column)) == ["one", "two"]


def test_pasted_text_is_one_example_a_line() -> None:
    """Blank lines do not count."""
    assert list(pasted("one\n\n  two \r\n")) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "body", "sentence", "where"),
    [
        ("a.pdf", b"x", "a.pdf cannot be read: a file ending in .jsonl, .csv, .tsv, .txt is needed.", "text.data"),
        ("a.csv", b"a,b\n1,2\n", "Which column of a.csv is the text? It has a, b. Name", "text.text_column"),
        ("a.jsonl", b"{", "a.jsonl cannot be read: it is not jsonl: ", "text.data"),
        ("a.txt", b"\xff\xfe\x00", "a.txt cannot be read: it is not txt: ", "text.data"),
        ("a.txt", b"\n\n", "a.txt holds no text: every row of it is empty.", "text.data"),
        (
            "a.txt",
            b"x" * (TEXT_LIMIT + 1),
            "a.txt is too long: 5.0 MB, at most 5 MB are taken. Shorten it, a few thousand examples are plenty, "
            "or name a dataset of the Hub.",
            "text.data",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_own_name(name: str, body: bytes, sentence: str, where: str) -> None:
    """And never by the place where we read it."""
    with pytest.raises(InputError) as error:
        uploaded(name, body)
    assert str(error.value).startswith(sentence)
    assert error.value.problem.where == where
    assert "/tmp" not in str(error.value)


@pytest.mark.parametrize(("text", "sentence"), [(" \n", "There is no text"), ("x" * 6_000_000, "The text is too long")])
def test_pasted_text_has_a_limit(text: str, sentence: str) -> None:
    """The same as a file's."""
    with pytest.raises(InputError, match=sentence):
        pasted(text)
