"""A sweep in the stage evaluate: the same merge at other values of one parameter, one at a time, in its own folder.

Each is deleted as soon as it has answered every set. After a kill it goes on with the first value that has not.
"""

import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.recall import Sources
from jobs.stages import StageContext
from merging.errors import MergeError
from merging.plan import Plan, make_plan
from merging.progress import Progress
from merging.recipe import Recipe
from merging.supply import read_of
from merging.sweep import own_value, values_of, variant

if TYPE_CHECKING:  # it imports transformers
    from merging.evaluation.comparison import Comparison
    from merging.evaluation.swept import Swept


def sweep(
    context: StageContext, sources: Sources, comparison: "Comparison", evaluation: dict[str, Any]
) -> Generator[Progress, None, dict[str, Any]]:
    """The evaluation with the figures of the recipe's sweep. `comparison` has run; `sources` are the pinned models.

    A value that no merge can be made with is left out, and the notes say why.
    """
    from merging.evaluation.swept import Swept

    recipe, own = context.pinned, own_value(context.pinned)
    assert recipe.sweep is not None
    values = [value for value in values_of(recipe) if value != own]
    swept = Swept(comparison, recipe.sweep.parameter, values, own)
    for value in values:
        if not swept.is_asked(value):
            try:
                yield from _one(context, sources, swept, value)
            except MergeError as error:
                comparison.notes.append(f"{swept.name(value)}: there are no figures. {error.problem}")
    told = swept.into(evaluation, model=recipe.sweep.model or "")
    return told | {"notes": list(dict.fromkeys(comparison.notes))}


def _one(context: StageContext, sources: Sources, swept: "Swept", value: float) -> Generator[Progress, None, None]:
    """Merge at that value, ask it, delete it."""
    out = context.folder.evaluation / "variant"
    try:
        yield from _merge(context, sources, variant(context.pinned, value), out, swept.name(value))
        yield from swept.ask(value, out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _merge(
    context: StageContext, sources: Sources, recipe: Recipe, out: Path, name: str
) -> Generator[Progress, None, None]:
    from merging.engine import merge

    parents, base = context.opened(sources)
    plan = make_plan(recipe, parents, base).raise_if_impossible()
    yield from _bring_base(context, sources, plan)
    work = merge(
        plan,
        parents,
        out,
        base=base,
        statistics=[context.statistics(index) for index in range(len(parents))],
        device=context.device,
        threads=context.threads,
        memory=context.memory,
    )
    for step in work:
        yield replace(step, stage="evaluate", message=f"merging with {name}", partial=True)


def _bring_base(context: StageContext, sources: Sources, plan: Plan) -> Generator[Progress, None, None]:
    """What is read of the base is here: it was kept while it was merged, unless this is another machine."""
    from hub.download import fetch

    parents, base = sources
    if base is None or not base.revision or plan.supply is None:
        return
    read = sorted(piece.file for piece in read_of(plan.supply.needs, len(parents)))
    missing = [name for name in read if not (context.folder.base / name).is_file()]
    for step in fetch(context.hub, base, missing, context.folder.base) if missing else ():
        yield replace(step, stage="evaluate", partial=True)
