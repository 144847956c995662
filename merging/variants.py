"""Whether the Fisher statistics of several models are of one variant (see `merging.objectives`), from headers alone."""

from collections.abc import Sequence

from merging.errors import Problem
from merging.parent import Parent
from merging.recipe import Recipe


def variant_problems(recipe: Recipe, parents: Sequence[Parent]) -> list[Problem]:
    """A Fisher of gold labels is another quantity; one of drawn answers is the exact one with noise."""
    variants = {}
    for index, (entry, parent) in enumerate(zip(recipe.models, parents, strict=False)):
        fact, wish = parent.statistics.get("fisher"), entry.calibration
        variants[index] = fact.variant if fact else wish.variant if wish else ""
    known = {index: variant for index, variant in variants.items() if variant not in ("", "auto")}
    gold = {index for index, variant in known.items() if variant == "empirical"}
    others = {index: variant for index, variant in variants.items() if variant and index not in gold}
    if gold and others:
        index, variant = next(iter(others.items()))
        return [
            Problem(
                f"The Fisher of {parents[min(gold)].model} is empirical and that of {parents[index].model} is "
                f"{'not' if variant == 'auto' else variant}",
                "gradients of gold labels and of the model's own answers are not on one scale",
                "Collect both by the same variant",
                f"models.{index}.model",
            )
        ]
    if len(set(known.values())) > 1:
        return [
            Problem(
                "Some of the Fisher statistics are exact and some sampled",
                "their expectation is the same, but the sampled ones are noisier",
                "Collect all by one variant to be sure",
                "models",
                "warning",
            )
        ]
    return []
