"""From the fields of a sweep to the recipe's `sweep`. Nothing here knows a component."""

import re
from collections.abc import Mapping
from typing import Any

from merging.method import METHODS, MergeMethod
from merging.sweep import numeric, usual_values


def choices(method: MergeMethod) -> list[tuple[str, str]]:
    """What a sweep may go over with that method, by title and name. A weight is a model's own, and has no field."""
    names = [parameter.name for parameter in numeric(method) if parameter.name != "weight"]
    return [("No sweep", ""), *((name.replace("_", " ").capitalize(), name) for name in names)]


def is_of_another(name: str | None, method: MergeMethod) -> bool:
    """Whether only other methods have such a number."""
    having = [other for other in METHODS.values() if name in {parameter.name for parameter in numeric(other)}]
    return bool(having) and method not in having


def sweep_data(model: str | None, values: Mapping[str, Any], method: MergeMethod) -> dict[str, Any]:
    """The `sweep` that the fields say, {} for none; `model` is the task that a loaded recipe named.

    What was chosen for another method is left out, as its parameters are. No values mean the usual ones.
    """
    name = str(values["sweep.parameter"] or "")
    own = {parameter.name: parameter for parameter in numeric(method)}
    if not name or is_of_another(name, method):
        return {}
    words = re.split(r"[\s,;]+", str(values["sweep.values"] or "").strip(" ,;"))
    given = [_number(word) for word in words if word]
    if not given and name in own:
        given = list(usual_values(own[name]))
    kept = model if model and name in own and own[name].per_model else None
    return {"parameter": name, "values": given} | ({"model": kept} if kept else {})


def _number(word: str) -> float | str:
    """The number that a word says, or the word: the recipe says what is wrong with it."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
