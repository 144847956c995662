"""Every kind of task, by name. A new one is a file, a line here, one in `facts.OUTPUTS`, and its name in the recipe."""

from collections.abc import Mapping
from typing import Any

from merging.evaluation.classification import Classification
from merging.evaluation.facts import kind_name
from merging.evaluation.kind import Kind
from merging.evaluation.language_modelling import LanguageModelling
from merging.evaluation.token_classification import TokenClassification

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (Classification(), TokenClassification(), LanguageModelling())}


def kind_of(config: Mapping[str, Any]) -> Kind | None:
    """The kind that a model of that config.json is made for; None where there is none for it here."""
    return KINDS.get(kind_name(config))
