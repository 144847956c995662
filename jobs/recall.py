"""What the Hub showed of the models when they were merged: for the card, should one be withdrawn before it is done.

Whoever merged a model might read it then. A result whose models cannot be seen any more is published for its owner
alone.
"""

import json
from typing import Any

from jobs.job import JobFolder, read_json, write_atomically
from merging.parent import Parent, with_base
from merging.tensors import HeaderSource

KEPT = ("model", "revision", "config", "license", "fine_tuned_from", "side")
Sources = tuple[tuple[Parent, ...], Parent | None]  # the parents, and the base of a method that needs one


def remember(folder: JobFolder, sources: Sources) -> None:
    """Note what a card tells of each model."""
    found = [{name: getattr(one, name) for name in KEPT} for one in with_base(*sources)]
    write_atomically(folder.seen, json.dumps({"models": found, "base": sources[1] is not None}))


def recall(folder: JobFolder) -> Sources | None:
    """The models as they were noted, each as if it were private; None where nothing was."""
    noted = read_json(folder.seen)
    if not noted:
        return None
    models = tuple(map(_recalled, noted["models"]))
    return (models[:-1], models[-1]) if noted["base"] else (models, None)


def _recalled(facts: dict[str, Any]) -> Parent:
    return Parent(**facts, source=HeaderSource({}), restricted=True)
