"""Which label of a model each label of the data is: by name, or as their owner says; never by the place in a list."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from merging.errors import InputError

SHOWN = 20


def match_labels(
    data: Iterable[str],
    model: Sequence[str],
    wish: Mapping[str, str] | None = None,
    *,
    data_name: str = "the data",
    model_name: str = "the model",
    where: str = "",
) -> dict[str, str]:
    """Label of the data -> label of the model, for every label of the data.

    First as `wish` says, then the same name, then the same name but for case and separators where only one label of
    each side is called so. Raises InputError, with the labels of both sides, where one is left over.
    """
    labels, wish = sorted(set(data)), wish or {}
    plain, folded = set(model), unique_folds(model)
    own = unique_folds(labels)
    found: dict[str, str] = {}
    for label in labels:
        name = wish.get(label, label)
        by_fold = folded.get(fold(name)) if label in wish or own.get(fold(label)) == label else None
        match = name if name in plain else by_fold
        if match is None:
            raise _unmatched(label, name, labels, model, data_name, model_name, where)
        found[label] = match
    twice = [match for match, times in Counter(found.values()).items() if times > 1 and not wish]
    if twice:
        both = " and ".join(label for label, match in found.items() if match == twice[0])
        what = f"{both} of {data_name} are both {twice[0]} of {model_name}"
        raise InputError(what, "names are told apart by more than case", "Say which label is which", where)
    return found


def fits(data: Iterable[str], model: Sequence[str], wish: Mapping[str, str] | None = None) -> bool:
    """Whether every label of the data is one of the model's."""
    try:
        match_labels(data, model, wish)
    except InputError:
        return False
    return True


def fold(label: str) -> str:
    """The label without case and separators: `Sci/Tech`, `sci_tech` and `SCI-TECH` are one."""
    return re.sub(r"[\W_]+", "", label.casefold()) or label


def unique_folds(labels: Iterable[str]) -> dict[str, str]:
    """Folded label -> label, for those whose fold is nobody else's."""
    labels = list(labels)
    times = Counter(map(fold, labels))
    return {fold(label): label for label in labels if times[fold(label)] == 1}


def listed(labels: Sequence[str]) -> str:
    """`negative, positive`, cut where there are many."""
    shown = ", ".join(label[:60] for label in labels[:SHOWN])
    return f"{shown}, ..." if len(labels) > SHOWN else shown


def _unmatched(
    label: str, name: str, labels: Sequence[str], model: Sequence[str], data_name: str, model_name: str, where: str
) -> InputError:
    said = f", which is to be {label!r} of {data_name}" if name != label else f", which stands in {data_name}"
    numbers = all(re.fullmatch(r"-?\d+", one) for one in labels)
    why = f"its labels are {listed(model)}; those of {data_name} are {listed(labels)}"
    if numbers:
        why += ": numbers say nothing about names"
    return InputError(
        f"{model_name} has no label {name[:60]!r}{said}",
        why,
        "Say which label of the data is which of the model",
        where,
    )
