"""A sweep: the same merge with other values of one numeric parameter, evaluated beside the one that is published."""

from collections.abc import Iterator
from dataclasses import replace

from merging.errors import InputError, Problem
from merging.layers import ByLayer
from merging.method import MergeMethod, Parameter
from merging.recipe import Recipe

LEAST, MOST = 2, 12  # values of a sweep


def numeric(method: MergeMethod) -> tuple[Parameter, ...]:
    """The parameters of a method that a sweep may go over."""
    return tuple(parameter for parameter in method.parameters if parameter.kind in ("float", "int"))


def usual_values(parameter: Parameter) -> tuple[float, ...]:
    """Five values over the range of a numeric parameter, or around its default where it has none."""
    low, high = parameter.option.minimum, parameter.option.maximum
    if low is None or high is None:
        middle = float(parameter.default) or 1.0
        low, high = middle / 2, 3 * middle / 2
    return tuple(low + (high - low) * place / 4 for place in range(5))


def swept(recipe: Recipe) -> Parameter:
    """The parameter of the recipe's sweep. Raises InputError for one that the method has not."""
    assert recipe.sweep is not None
    return recipe.method.parameter(recipe.sweep.parameter, "sweep.parameter")


def values_of(recipe: Recipe) -> tuple[float, ...]:
    """The values of a sweep in which nothing is wrong, the smallest first."""
    assert recipe.sweep is not None
    parameter = swept(recipe)
    return tuple(sorted(parameter.check(value, "sweep.values") for value in recipe.sweep.values))


def variant(recipe: Recipe, value: object) -> Recipe:
    """The recipe with that value of the swept parameter, without sweep or evaluation. Raises InputError."""
    assert recipe.sweep is not None
    parameter = swept(recipe)
    own = {parameter.name: value}
    changes: dict[str, object] = {"sweep": None, "evaluate": ()}
    if parameter.per_model:
        changes["models"] = tuple(
            entry.model_copy(update={"parameters": entry.parameters | own})
            if recipe.sweep.model in (None, task)
            else entry
            for entry, task in zip(recipe.models, recipe.tasks, strict=True)
        )
    else:
        changes["parameters"] = recipe.parameters | own
    found = recipe.model_copy(update=changes)
    found.bound()
    return found


def own_value(recipe: Recipe) -> float | None:
    """The value of the swept parameter in the recipe itself; None where it differs by layer or by model."""
    assert recipe.sweep is not None
    found = recipe.bound()[recipe.sweep.parameter]
    if isinstance(found, tuple):
        values = [one for one, task in zip(found, recipe.tasks, strict=True) if recipe.sweep.model in (None, task)]
        if any(one != values[0] for one in values):
            return None
        found = values[0]
    return None if isinstance(found, ByLayer) else found


def sweep_problems(recipe: Recipe) -> Iterator[Problem]:
    """What is wrong with the recipe's sweep, as far as the recipe itself tells."""
    wish = recipe.sweep
    if wish is None:
        return
    if not recipe.evaluate:
        why = "a sweep is read off an evaluation"
        yield Problem("There is no text to try the sweep on", why, "Add a set, or leave the sweep out", "sweep")
    try:
        parameter = swept(recipe)
    except InputError as error:
        yield from error.problems
        return
    known = [one.name for one in numeric(recipe.method)]
    if parameter.name not in known:
        fix = f"Pick one of {', '.join(known)}" if known else "Leave the sweep out"
        yield Problem(f"{parameter.name} is {parameter.range}", "a sweep goes over a number", fix, "sweep.parameter")
        return
    yield from list(_model_problems(recipe, parameter)) or _value_problems(recipe, parameter)


def _model_problems(recipe: Recipe, parameter: Parameter) -> Iterator[Problem]:
    assert recipe.sweep is not None
    task, where = recipe.sweep.model, "sweep.model"
    if task is not None and not parameter.per_model:
        what, why = f"The sweep over {parameter.name} names a model", "it is one value for all models"
        yield Problem(what, why, "Leave the model out", where)
    elif task is not None and task not in recipe.tasks:
        known = f"the tasks are {', '.join(recipe.tasks)}"
        yield Problem(f"The sweep: there is no task {task}", known, "Pick one as its model", where)
    elif task is None and parameter.name == "weight":
        why = "the same weight for all changes nobody's share"
        yield Problem("The sweep over weight names no model", why, "Name a task as its model", where)


def _value_problems(recipe: Recipe, parameter: Parameter) -> Iterator[Problem]:
    assert recipe.sweep is not None
    values, where = recipe.sweep.values, "sweep.values"
    if not LEAST <= len(values) <= MOST:
        what = f"The sweep has {len(values)} value{'s' * (len(values) != 1)}"
        fix = "Add some" if len(values) < LEAST else "Remove some"
        yield Problem(what, f"it takes {LEAST} to {MOST}", fix, where)
        return
    seen = set()
    for number, value in enumerate(values):
        place = f"{where}.{number}"
        try:
            variant(recipe, value)
        except InputError as error:
            yield replace(error.problem, where=place)
            continue
        plain = parameter.check(value, place)
        if plain in seen:
            what = f"The sweep has {parameter.name} = {plain:g} twice"
            yield Problem(what, "both would be the same merge", "Remove one", place)
        seen.add(plain)
