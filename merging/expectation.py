"""Whether RegMean will be better than the average, as far as the headers of the statistics tell.

The two numbers and their thresholds were measured on merges of small classifiers trained at several learning rates
(docs/statistics.md, "Will it help?"): how much larger a layer's inputs are in one model than in another, and how far
the models are apart.
"""

from collections.abc import Sequence

from merging.architecture import GENERIC, architecture_of
from merging.errors import Problem
from merging.heads import HeadRule
from merging.parent import Parent, StatisticsFact
from merging.recipe import Recipe
from merging.sketch import distance

TOO_HOT, UNSURE = 10.0, 5.0  # ratio of tr(G) between two models in one layer
OTHER_TASKS = (
    "These models have tasks of their own, of which RegMean usually keeps more than the average: 88 instead of 76 % "
    "right with three small classifiers. It needs statistics, collected once from some hundred texts a model."
)
CLOSE = 0.045  # distance of two models as a share of their norm


def expectation(recipe: Recipe, parents: Sequence[Parent], rule: HeadRule) -> tuple[str, tuple[Problem, ...]]:
    """(what to expect, what to be warned of) of a merge with Gram matrices; nothing where the headers do not tell.

    Of an average of models with labels of their own: that there is something better.
    """
    if recipe.method.name == "average" and rule == "apart" and len(parents) > 1:
        return OTHER_TASKS, ()
    facts = [parent.statistics["gram"] for parent in parents if "gram" in parent.statistics]
    if "gram" not in recipe.method.needs or len(facts) < len(parents):
        return "", ()
    title = recipe.method.title
    layers = _layers(parents, facts, rule)
    if not layers:
        return "", ()
    ratio, layer = max((_ratio(facts, name), name) for name in layers)
    if ratio >= UNSURE:
        sizes = [fact.traces[layer] for fact in facts]
        large, small = (parents[sizes.index(value)].model for value in (max(sizes), min(sizes)))
        what = "will hardly be better than the average and may be far worse" if ratio >= TOO_HOT else "may not help"
        why = f"the inputs of {layer} are {ratio:.0f} times larger in {large} than in {small}"
        why += ", as after training at a high learning rate"
        fix = "Compare with the average, or leave that model out"
        return "", (Problem(f"{title} {what}", why, fix, "models", "warning"),)
    apart = distance([{name: fact.sketches[name] for name in layers if name in fact.sketches} for fact in facts])
    if apart is None:
        return "", ()
    if apart < CLOSE:
        return f"{title} and the average will be about as good: the models are close to each other ({apart:.1%}).", ()
    return f"{title} should be better than the average: the models are {apart:.1%} apart, their inputs alike.", ()


def _layers(parents: Sequence[Parent], facts: Sequence[StatisticsFact], rule: HeadRule) -> list[str]:
    """The merged layers of which every file tells the trace."""
    architecture = architecture_of(parents[0].config) or GENERIC
    shared = set(facts[0].traces).intersection(*(fact.traces for fact in facts[1:]))
    specs = parents[0].source.specs
    return sorted(
        name
        for name in shared & set(specs)
        if not (rule == "apart" and architecture.role(name, specs[name].shape).head)
    )


def _ratio(facts: Sequence[StatisticsFact], layer: str) -> float:
    sizes = [fact.traces[layer] for fact in facts]
    return max(sizes) / min(sizes) if min(sizes) > 0 else 1.0
