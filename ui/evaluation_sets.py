"""From the fields of an evaluation set to the recipe's `evaluate` and back. Nothing here knows a component.

In a form's draft a set is what it is in a recipe, but for two things: `in_domain` and `head` name models, since task
names change as models come and go, and `file` is where the rows lie that somebody uploaded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hub.client import Hub
from hub.dataset_look import DataLook
from hub.datasets import open_rows
from jobs.text import TEXT_LIMIT, labelled
from merging.errors import InputError
from merging.evaluation.labels import fits, match_labels
from merging.parent import Parent
from merging.recipe import HANDED_OVER, SETS_LIMIT, EvaluationSet, Recipe

Set = dict[str, Any]
DATASET, UPLOAD = "dataset", "upload"
WHERE = "evaluate"


def read_set(values: Mapping[str, Any], look: DataLook | None = None) -> Set:
    """The set that the fields say, without what was left at its default. Raises InputError.

    Of an uploaded file the kind is told by a `look` at it: nothing else is known of it when the job begins.
    """
    uploaded, source = values["source"] == UPLOAD, source_of(values)
    if not source:
        fix = "Upload a file" if uploaded else "Write owner/name[:config][:split]"
        raise InputError("There is no data", "the merge is tried on it", fix, f"{WHERE}.data")
    entry: Set = {"data": HANDED_OVER if uploaded else source}
    if uploaded:
        entry |= {"file": source} | _kind(look)
    name = (values["name"] or "").strip()  # not that of the file: the recipe will be public
    entry |= {"name": name} if name else {}
    for column in ("text_column", "label_column"):
        entry |= {column: values[column]} if values[column] else {}
    if values["in_domain"]:
        entry["in_domain"] = list(values["in_domain"])
    labels = label_wish(values["labels"])
    entry |= {"labels": labels} if labels else {}
    if values["examples"] not in (None, 500):
        entry["examples"] = values["examples"]
    return entry


def source_of(values: Mapping[str, Any]) -> str:
    """The data that the fields name, "" for none."""
    return str(values["file"] or "") if values["source"] == UPLOAD else (values["data"] or "").strip()


def _kind(look: DataLook | None) -> Set:
    if look is None or (look.label and not look.by_word):
        return {}
    return {"kind": "token-classification" if look.by_word else "language-modelling"}


def raise_if_unlabelled(entry: Set, parents: Sequence[Parent]) -> None:
    """InputError for plain text where a model is a classifier: its answers are compared with labels."""
    if entry.get("kind") == "language-modelling" and any(parent.labels for parent in parents):
        what = "This file has no column of labels"
        why = "the answers of a classifier are compared with them"
        raise InputError(what, why, "Name the column, or take a file that has one", f"{WHERE}.label_column")


def with_set(sets: Sequence[Set], entry: Set) -> list[Set]:
    """The sets with one more, which replaces one of the same name and data. Raises InputError for too many."""
    others = [one for one in sets if _key(one) != _key(entry)]
    if len(others) == SETS_LIMIT:
        raise InputError("There is no room for another set", f"a merge has at most {SETS_LIMIT}", "Remove one", WHERE)
    return [*others, entry]


def _key(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return entry["data"], entry.get("name", ""), entry.get("file", "")


def title(entry: Mapping[str, Any]) -> str:
    """What a set is called: by its name, or its data."""
    if entry["data"] == HANDED_OVER:
        own = (str(model).rpartition("/")[2] for model in entry.get("in_domain") or ())
        return str(entry.get("name") or " and ".join(own) or "uploaded text")
    return str(entry.get("name") or str(entry["data"]).rstrip("/").rpartition("/")[2])


def label_wish(lines: str | None) -> dict[str, str]:
    """Label in the data -> label of the model, one a line. Raises InputError for a line that says neither."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, (lines or "").splitlines())):
        left, equals, right = (part.strip() for part in line.partition("="))
        if not (left and equals and right):
            fix = "Write: label in the data = label of the model"
            raise InputError(f"{line[:80]!r} says of no label what it is called", "", fix, f"{WHERE}.labels")
        found[left] = right
    return found


def guessed_domain(look: DataLook, parents: Mapping[str, Parent]) -> list[str]:
    """The one model whose labels these are; [] for none, and for several: that is for people to say."""
    found = [model for model, parent in parents.items() if look.labels and fits(look.labels, parent.labels)]
    return found if len(found) == 1 else []


def matched(look: DataLook, parent: Parent, wish: Mapping[str, str]) -> Mapping[str, str] | InputError:
    """Label of the data -> label of the model, or what keeps them apart."""
    try:
        return match_labels(look.labels, parent.labels, wish, data_name="the data", model_name=parent.model)
    except InputError as error:
        return error


def to_recipe(sets: Sequence[Set], tasks: Mapping[str, str]) -> list[dict[str, Any]]:
    """A recipe's `evaluate`; `tasks` are the names of the models' tasks. A model that is gone is no domain any more.

    What is no model's name was no task of the recipe either, and stays for its reader to complain about.
    """
    data = []
    for entry in sets:
        plain = {key: value for key, value in entry.items() if key not in ("file", "in_domain", "head")}
        domain, head = (
            [tasks.get(one, one) for one in found if one in tasks or "/" not in one] for found in _of(entry)
        )
        plain |= {"in_domain": domain} if domain else {}
        plain |= {"head": head[0]} if head else {}
        data.append(plain)
    return data


def _of(entry: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    """The models whose domain a set is, and the one whose head answers."""
    return entry.get("in_domain", ()), [entry["head"]] if entry.get("head") else ()


def from_recipe(recipe: Recipe, models: Sequence[str]) -> list[Set]:
    """The draft's sets of a recipe, whose models the form calls `models`. Uploaded rows are not there any more."""
    named = dict(zip(recipe.tasks, models, strict=True))
    sets = []
    for entry in recipe.to_dict().get("evaluate", ()):
        domain = [named.get(task, task) for task in entry.pop("in_domain", ())]
        head = entry.pop("head", None)
        sets.append(
            entry | ({"in_domain": domain} if domain else {}) | ({"head": named.get(head, head)} if head else {})
        )
    return sets


def handed_over(sets: Sequence[Set]) -> dict[int, Sequence[Mapping[str, Any]]]:
    """Number of a set -> the rows that were uploaded for it. Raises InputError for a file that is gone, or is none."""
    found: dict[int, Sequence[Mapping[str, Any]]] = {}
    for number, entry in enumerate(sets):
        if entry.get("file"):
            wish = EvaluationSet.model_validate(to_recipe([entry], {})[0])
            file = Path(entry["file"])
            found[number] = labelled(file.name, _body(file, f"{WHERE}.{number}.data"), wish, number)
    return found


def uploaded_rows(file: str) -> Sequence[Mapping[str, Any]]:
    """The rows of an uploaded file, as they stand there. Raises InputError."""
    path = Path(file)
    _body(path, f"{WHERE}.data")
    try:
        return list(open_rows(Hub.anonymous(), str(path.absolute()), files_allowed=True).rows)
    except InputError as error:
        what, why = (
            words.replace(str(path.absolute()), path.name) for words in (error.problem.what, error.problem.why)
        )
        raise InputError(what, why, error.problem.fix, f"{WHERE}.data") from None


def _body(file: Path, where: str) -> bytes:
    try:
        length = file.stat().st_size
        body = file.read_bytes() if length <= TEXT_LIMIT else b""
    except OSError:
        raise InputError("The file is here no more", "uploads expire", "Upload it again", where) from None
    if length > TEXT_LIMIT:
        most = f"{length / 1e6:.1f} MB, at most {TEXT_LIMIT // 1_000_000} MB are taken"
        raise InputError(f"{file.name} is too long", most, "Shorten it, or name a dataset of the Hub", where)
    return body
