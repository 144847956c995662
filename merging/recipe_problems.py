"""What is wrong with a recipe by itself, whatever its models turn out to be."""

from collections import Counter
from collections.abc import Iterator

from merging.errors import Problem
from merging.recipe import Recipe
from merging.sweep import sweep_problems

FILE_ENDINGS = (".json", ".yaml", ".md", ".txt", ".model", ".jinja", ".safetensors", ".gitattributes")


def recipe_problems(recipe: Recipe) -> list[Problem]:
    """What is wrong with the wish itself, whatever the models are."""
    method, count = recipe.method, len(recipe.models)
    problems = []
    if count < method.minimum_models or (method.maximum_models and count > method.maximum_models):
        least, most = method.minimum_models, method.maximum_models
        range_ = f"exactly {least}" if least == most else f"at least {least}" + f" and at most {most}" * bool(most)
        needed = f"{method.name} takes {range_}"
        fix = "Add a model" if count < method.minimum_models else "Remove one"
        beside = " beside the base" * (recipe.base is not None)
        what = f"The recipe has {count} model{'s' * (count != 1)}{beside}"
        problems.append(Problem(what, needed, fix, "models"))
    double = [task for task, times in Counter(recipe.tasks).items() if times > 1]
    if double:
        problems.append(
            Problem(f"Two models have the task {double[0]}", "each gets its own folder", "Name them apart", "models")
        )
    for index, task in enumerate(recipe.tasks):
        if task.lower().endswith(FILE_ENDINGS):
            problems.append(
                Problem(
                    f"The task {task} is named like a file", "it becomes a folder", "Rename it", f"models.{index}.task"
                )
            )
    problems += [*_evaluation_problems(recipe), *sweep_problems(recipe)]
    root = recipe.output.root
    if root is not None and root not in recipe.tasks:
        problems.append(
            Problem(f"There is no task {root}", f"the tasks are {', '.join(recipe.tasks)}", "Pick one", "output.root")
        )
    if recipe.base_model is not None and "base" not in method.needs:
        problems.append(
            Problem("base_model is not used", f"{method.name} needs no base", "Leave it out", "base_model", "warning")
        )
    if recipe.base_model is None and "base" in method.needs:
        what = f"{method.title} needs the model that the others were fine-tuned from"
        problems.append(Problem(what, "the recipe names none", "Name it as base_model, or use average", "base_model"))
    return problems


def _evaluation_problems(recipe: Recipe) -> Iterator[Problem]:
    """Tasks of evaluation sets that are none of the recipe's."""
    known = f"the tasks are {', '.join(recipe.tasks)}"
    for number, one in enumerate(recipe.evaluate):
        where = f"evaluate.{number}"
        if one.head is not None and one.head not in recipe.tasks:
            yield Problem(f"{one.title}: there is no task {one.head}", known, "Pick one", f"{where}.head")
        for task in one.in_domain:
            if task not in recipe.tasks:
                yield Problem(f"{one.title}: there is no task {task}", known, "Pick some", f"{where}.in_domain")
