"""What the pages call the fields of a recipe, whose keys stand in the sentences of the floors below."""

import re
from dataclasses import replace

from merging.errors import Problem

NAMES = {
    "base_model": "Base model",
    "merge_method": "Merge method",
    "dtype": "Numbers are stored",
    "task": "Task name",
    "calibration.data": "Text to collect statistics from",
    "output.repo_id": "Name of the new repo",
    "output.root": "The repo's root loads the task",
    "output.private": "Private",
    "data": "Dataset",
    "examples": "Examples",
    "in_domain": "Own domain of",
    "labels": "Labels that are called otherwise",
    "max_length": "Longest, in tokens",
    "text_column": "Column of the texts",
    "label_column": "Column of the labels",
    "image_column": "Column of the images",
    "target_column": "Column of the answers",
}  # a key, or the end of its path -> the label of its field
ALONE = ("base_model", "merge_method", "dtype", "max_length", *(name for name in NAMES if name.endswith("_column")))
KEY = re.compile(
    r"""(?<![\w./@'"-])(?:(?P<list>models|evaluate)\.(?P<at>\d+)\.(?P<part>[\w.]*\w)"""
    rf"""|(?P<path>(?:output|text|parameters)\.[\w.]*\w)|(?P<alone>{"|".join(ALONE)}))"""
    r"""(?: in the recipe)?(?![\w/@'"-])"""
)
ITEMS = {"models": "model", "evaluate": "set"}


def on_page(problem: Problem) -> str:
    """The sentence of a problem, with the names of fields in place of keys. Its reason may list a dataset's."""
    what, fix = (KEY.sub(_named, part) for part in (problem.what, problem.fix))
    parameter = re.search(r"(?:^|\.)parameters\.(\w+)", problem.where)
    if parameter and re.match(rf"{parameter[1]} (?:=|is) ", what):  # a parameter is named without its path
        what = f"“{_label(parameter[0].lstrip('.'))}”{what[len(parameter[1]) :]}"
    return str(replace(problem, what=what, fix=fix))


def _named(found: re.Match[str]) -> str:
    if not found["list"]:
        name = _label(found["path"] or found["alone"])
        return f"“{name}”" if name else found[0]
    item = f"{ITEMS[found['list']]} {int(found['at']) + 1}"
    if found["part"] == "model":
        return item.capitalize()
    name = _label(found["part"])
    return f"“{name}” of {item}" if name else found[0]


def _label(path: str) -> str:
    """The field of a path, "" for one that no page has."""
    if path.startswith("parameters."):
        return path.split(".")[1].replace("_", " ").capitalize()
    return NAMES.get(path) or NAMES.get(path.removeprefix("text."), "")
