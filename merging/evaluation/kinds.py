"""Every kind of task, by name: a new one is a file, a line here, and its name in `merging.recipe.EvaluationKind`."""

from collections.abc import Mapping
from typing import Any

from merging.evaluation.classification import Classification
from merging.evaluation.kind import Kind, output_or_none
from merging.evaluation.language_modelling import LanguageModelling
from merging.evaluation.token_classification import TokenClassification

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (Classification(), TokenClassification(), LanguageModelling())}


def kind_of(config: Mapping[str, Any]) -> Kind | None:
    """The kind that a model of that config.json is made for; None where there is none for it here."""
    output = output_or_none(config)
    return next((kind for kind in KINDS.values() if kind.output == output), None)
