"""What is wrong with the evaluation sets of a recipe, as far as headers and the cards of datasets tell."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from hub.client import Hub, explained
from hub.datasets import is_local, listed, raise_unless_readable
from merging.errors import InputError, Problem
from merging.evaluation.facts import kind_name, label_names, wanted_kind
from merging.evaluation.labels import fits, match_labels
from merging.parent import Parent
from merging.recipe import EvaluationSet, Recipe


@dataclass(frozen=True)
class Described:
    """What the card of a dataset says of one config; all empty where it says nothing."""

    columns: tuple[str, ...] = ()
    classes: Mapping[str, tuple[str, ...]] | None = None  # column -> label names
    splits: tuple[str, ...] = ()


def evaluation_problems(
    hub: Hub, recipe: Recipe, parents: Sequence[Parent], *, folders_allowed: bool = False
) -> list[Problem]:
    """Every problem with the field at fault (`evaluate.0.data`). Raises HubUnavailable and SignInNeeded."""
    if not recipe.evaluate:
        return []

    def look(number: int) -> list[Problem]:
        try:
            return list(_problems(hub, recipe, parents, number, folders_allowed))
        except InputError as error:
            where = f"evaluate.{number}.data"
            return [replace(problem, where=problem.where or where) for problem in error.problems]

    with ThreadPoolExecutor(len(recipe.evaluate)) as pool:
        return [problem for found in pool.map(look, range(len(recipe.evaluate))) for problem in found]


def _problems(
    hub: Hub, recipe: Recipe, parents: Sequence[Parent], number: int, folders_allowed: bool
) -> Iterator[Problem]:
    wish, where = recipe.evaluate[number], f"evaluate.{number}"
    described = Described()
    if not wish.is_handed_over and is_local(wish.data):
        if not folders_allowed:
            why = "only datasets of the Hub are read by name"
            raise InputError(f"{wish.data[:200]} is a file", why, "Name owner/dataset, or upload the file")
        raise_unless_readable(wish.data, f"{where}.data")
    elif not wish.is_handed_over:
        described = describe(hub, wish.data)
    yield from _columns(wish, described, where)
    if parents:
        yield from _labels(recipe, parents, number, described)


def _columns(wish: EvaluationSet, described: Described, where: str) -> Iterator[Problem]:
    """Columns that somebody named and that the card does not know."""
    for field in ("text_column", "label_column"):
        name = getattr(wish, field)
        if name is not None and described.columns and name not in described.columns:
            known = f"it has {listed(described.columns)}"
            yield Problem(f"{wish.data} has no column {name!r}", known, "Name one of these", f"{where}.{field}")


def _labels(recipe: Recipe, parents: Sequence[Parent], number: int, described: Described) -> Iterator[Problem]:
    """Nobody is made for such data, or nobody has its labels."""
    wish, where = recipe.evaluate[number], f"evaluate.{number}"
    configs = [(task, parent.config) for task, parent in zip(recipe.tasks, parents, strict=True)]
    kind = wanted_kind(wish, number, configs)
    fitting = [parent for parent in parents if kind_name(parent.config) == kind]
    if not fitting:
        what = f"{wish.title}: no model is made for {kind}"
        yield Problem(what, "there would be no figures", "Pick another kind, or leave the set out", f"{where}.kind")
    names = (described.classes or {}).get(wish.label_column or "", ())
    if fitting and names and not any(fits(names, label_names(own.config), wish.labels) for own in fitting):
        first = next((own for task, own in zip(recipe.tasks, parents, strict=True) if task == wish.head), fitting[0])
        called = {"data_name": wish.title, "model_name": first.model, "where": f"{where}.labels"}
        match_labels(names, label_names(first.config), wish.labels, **called)


def describe(hub: Hub, data: str) -> Described:
    """What the card of `id[:config][:split]` says. Raises InputError for a dataset that this person may not read."""
    name, *parts = data.split(":")
    with explained(hub, name):
        hub.api.auth_check(name, repo_type="dataset")
        card = hub.api.dataset_info(name).card_data
    told = card.get("dataset_info") if card is not None else None
    configs = [one for one in (told if isinstance(told, list) else [told]) if isinstance(one, dict)]
    known = [one for one in configs if parts and one.get("config_name") == parts[0]]
    chosen = known[0] if known else configs[0] if len(configs) == 1 else {}
    features = [one for one in chosen.get("features") or [] if isinstance(one, dict) and one.get("name")]
    classes = {str(one["name"]): names for one in features if (names := _class_names(one))}
    splits = [str(one["name"]) for one in chosen.get("splits") or [] if isinstance(one, dict) and one.get("name")]
    if len(parts) == 2 and splits and parts[1] not in splits:
        raise InputError(f"{name} has no split {parts[1]!r}", f"it has {listed(splits)}", "Name one of these")
    return Described(tuple(str(one["name"]) for one in features), classes, tuple(splits))


def _class_names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Label names of a column, or of the items of a list, in a card's `dataset_info`."""
    for part in ("dtype", "sequence", "list"):
        inner = feature.get(part)
        if isinstance(inner, dict):
            names = (inner.get("class_label") or {}).get("names") if "class_label" in inner else None
            if isinstance(names, dict):
                return tuple(map(str, names.values()))
            return tuple(map(str, names)) if isinstance(names, list) else _class_names(inner)
    return ()
