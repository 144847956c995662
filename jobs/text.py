"""What a person hands over with a wish: text for statistics, labelled rows for an evaluation.

It is read once, checked, and kept by the job alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hub.client import Hub
from hub.datasets import LOCAL_ENDINGS, load_rows
from hub.labelled import load_labelled
from merging.errors import InputError, Problem
from merging.recipe import EvaluationSet, Recipe

TEXT_LIMIT = 5_000_000  # bytes
WHERE = "text.data"
HandedOver = Mapping[int, Sequence[Mapping[str, Any]]]  # number of an evaluation set -> its rows


def pasted(text: str) -> Sequence[str]:
    """The examples of a pasted text, one a line. Raises InputError for none, and for too much."""
    _refuse_long(len(text.encode()), "The text")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError("There is no text", "statistics are collected from it", "Paste one example a line", WHERE)
    return lines


def uploaded(name: str, body: bytes, text_column: str | None = None) -> Sequence[str]:
    """The texts in the body of a .jsonl, .csv, .tsv or .txt file that its owner calls `name`. Raises InputError."""
    with _on_disk(name, body, WHERE) as path:
        try:
            rows = load_rows(Hub.anonymous(), str(path), text_column=text_column or None, files_allowed=True)
        except InputError as error:
            raise InputError.of(_renamed(problem, str(path), name[:100]) for problem in error.problems) from None
    return [text for text, _ in rows]


def labelled(name: str, body: bytes, wish: EvaluationSet, number: int = 0) -> Sequence[dict[str, Any]]:
    """The rows of a .jsonl, .csv or .tsv that its owner calls `name`, as `JobService.submit` takes them.

    Columns and kind are those of `wish`, the evaluation set of that number. Raises InputError with the field at fault.
    """
    where = f"evaluate.{number}"
    by_word = wish.kind == "token-classification"
    with _on_disk(name, body, f"{where}.data") as path:
        here = wish.model_copy(update={"data": str(path)})
        has_labels = wish.kind != "language-modelling"
        try:
            found = load_labelled(Hub.anonymous(), here, by_word=by_word, labelled=has_labels, files_allowed=True)
        except InputError as error:
            problems = [replace(p, what=p.what.replace(str(path), name[:100])) for p in error.problems]
            raise InputError.of(replace(p, where=f"{where}.{p.where or 'data'}") for p in problems) from None
    return [example.as_dict() for example in found.examples]


@contextmanager
def _on_disk(name: str, body: bytes, where: str) -> Iterator[Path]:
    """The body of an uploaded file in a file of our own, for as long as it is read. Raises InputError."""
    ending = Path(name).suffix.lower()
    if ending not in LOCAL_ENDINGS:
        known = ", ".join(LOCAL_ENDINGS)
        raise InputError(f"{name[:100]} cannot be read", f"a file ending in {known} is needed", "Upload another", where)
    _refuse_long(len(body), name[:100], where)
    with TemporaryDirectory(prefix="merge-text-") as folder:
        path = Path(folder) / f"text{ending}"
        path.write_bytes(body)
        yield path


def raise_unless_handed_over(recipe: Recipe, rows: HandedOver) -> None:
    """InputError for an evaluation set whose rows should have come with the recipe, and for rows of no such set."""
    wanted = {number for number, one in enumerate(recipe.evaluate) if one.is_handed_over}
    for number in sorted(wanted - {number for number, found in rows.items() if found}):
        what = f"There is no text for {recipe.evaluate[number].title}"
        raise InputError(what, "its rows are to come with the recipe", "Upload them", f"evaluate.{number}.data")
    if set(rows) - wanted:
        what = "There are rows for no evaluation set"
        raise InputError(what, "the recipe asks for none there", "Leave them out", "evaluate")


def _refuse_long(length: int, name: str, where: str = WHERE) -> None:
    if length > TEXT_LIMIT:
        raise InputError(
            f"{name} is too long",
            f"{length / 1e6:.1f} MB, at most {TEXT_LIMIT // 1_000_000} MB are taken",
            "Shorten it, a few thousand examples are plenty, or name a dataset of the Hub",
            where,
        )


def _renamed(problem: Problem, path: str, name: str) -> Problem:
    """The same problem about the file as its owner calls it."""
    column = "column" in problem.what
    where, fix = ("text.text_column", "Name the column of the texts") if column else (WHERE, problem.fix)
    return Problem(problem.what.replace(path, name), problem.why, fix, where, problem.severity)
