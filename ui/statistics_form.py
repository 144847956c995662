"""The fields of the Statistics page and back: its values are a wish and a text, problems stand beside their field."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.text import pasted, uploaded
from merging.errors import InputError, Problem
from merging.roles import Reads
from merging.wish import HANDED_OVER, StatisticsWish, statistics_wish
from ui.forms import hub_id

Values = Mapping[str, Any]
DATASET, UPLOAD, PASTE = "dataset", "upload", "paste"
SOURCES = (("A dataset of the Hub", DATASET), ("A file of mine", UPLOAD), ("Text that I paste", PASTE))
KINDS = (("Gram matrices, for RegMean", "gram"), ("Fisher information, for Fisher merging", "fisher"))
VARIANTS = (
    ("By the kind of model", "auto"),
    ("Exact: all of its answers", "exact"),
    ("Sampled: answers drawn from it", "sampled"),
    ("Empirical: the true answers", "empirical"),
)
PLACES = (
    ("A repo of its own: owner/<model>-merge-statistics", "own"),
    ("Next to the model, in its repo", "model"),
    ("A pull request to the model's repo", "pull-request"),
)
WRITTEN = ("model", "dataset", "text_column", "target_column", "image_column", "label_column")
COUNTED = ("examples", "max_length", "seed")
PICKED = {
    name: [value for _, value in one] for name, one in (("source", SOURCES), ("variant", VARIANTS), ("publish", PLACES))
}  # of what an address may say
BESIDE = {"model": "model", "collect": "model", "text": "data", "publish": "place", "repo_id": "place"}


def has_text(values: Values) -> bool:
    """Whether the field that the chosen source stands for is filled."""
    return bool(str(values[str(values["source"])] or "").strip())


def read_wish(values: Values) -> StatisticsWish:
    """The wish in the form. Raises InputError that names every field at fault."""
    missing = _missing(values)
    if missing:
        raise InputError.of(missing)
    text = {
        "data": hub_id(values["dataset"]) if values["source"] == DATASET else HANDED_OVER,
        **(_columns(values) if values["source"] == DATASET else {}),
        "variant": values["variant"] if "fisher" in values["collect"] else "auto",
        "examples": values["examples"],
        "max_length": values["max_length"],
        "seed": values["seed"] or 0,
    }
    return statistics_wish(
        {
            "collect": values["collect"],
            "model": hub_id(values["model"]),
            "text": text,
            "publish": values["publish"],
            "private": bool(values["private"]),
        }
    )


def _missing(values: Values) -> list[Problem]:
    """What a wish cannot do without, in the order of the page."""
    found = []
    if not hub_id(values["model"] or ""):
        found.append(Problem("There is no model", "statistics are of one", "Pick it, or paste owner/name", "model"))
    if not values["collect"]:
        found.append(Problem("No kind of statistics is ticked", "there are two", "Tick one or both", "collect"))
    if not has_text(values):
        fix = {DATASET: "Name a dataset", UPLOAD: "Upload a file", PASTE: "Paste one example a line"}[values["source"]]
        found.append(Problem("There is no text", "statistics are collected from it", fix, "text.data"))
    return found


def to_query(values: Values, untouched: Values) -> dict[str, str]:
    """What of the form an address holds: all that somebody changed, but for a text that is handed over."""
    return {
        name: ",".join(value) if isinstance(value, list) else str(value)
        for name, default in untouched.items()
        if name not in (UPLOAD, PASTE) and (value := values[name]) and value != default
    }


def from_query(query: Mapping[str, str]) -> dict[str, Any]:
    """The fields that an address fills; what no field can hold is left out."""
    found: dict[str, Any] = {name: words[:300] for name, words in query.items() if name in WRITTEN and words}
    found |= {name: query[name] for name, known in PICKED.items() if query.get(name) in known}
    found |= {name: int(query[name]) for name in COUNTED if re.fullmatch(r"\d{1,9}", query.get(name, ""), re.ASCII)}
    kinds = [kind for _, kind in KINDS if kind in query.get("collect", "").split(",")]
    found |= {"collect": kinds} if kinds else {}
    return found | ({"private": True} if query.get("private") == "True" else {})


def shown_columns(values: Values, reads: Reads) -> dict[str, bool]:
    """Which of the fields of columns mean something: `reads` is what the model is fed with."""
    dataset, fisher = values["source"] == DATASET, "fisher" in values["collect"]
    return {
        "text_column": reads != "images",
        "target_column": dataset and reads == "pairs",
        "image_column": dataset and reads.startswith("images"),
        "variant": fisher,
        "label_column": dataset and fisher and values["variant"] == "empirical",
    }


def _columns(values: Values) -> dict[str, str | None]:
    """The columns of a dataset that are named. Those that the model has no use for are not read."""
    names = ["text_column", "target_column", "image_column"]
    names += ["label_column"] if "fisher" in values["collect"] and values["variant"] == "empirical" else []
    return {name: (values[name] or "").strip() or None for name in names}


def read_text(values: Values) -> Sequence[str] | None:
    """The texts that are handed over, None for a dataset. Raises InputError with the field at fault."""
    if values["source"] == PASTE:
        return pasted(values["paste"])
    if values["source"] == UPLOAD:
        path = Path(values["upload"])
        try:
            body = path.read_bytes()
        except OSError:
            raise InputError("The file is here no more", "uploads expire", "Upload it again", "text.data") from None
        return uploaded(path.name, body, (values["text_column"] or "").strip() or None)
    return None


def by_field(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """Problems by the part of the page that they stand in: `model`, `data`, `place`, or "" for none."""
    sorted_out: dict[str, list[Problem]] = {}
    for problem in problems:
        sorted_out.setdefault(BESIDE.get(problem.where.partition(".")[0], ""), []).append(problem)
    return sorted_out
