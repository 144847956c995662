"""Parents, average, Fisher, RegMean and (with one label set) the ensemble, merged by the product's engine."""

import argparse
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from benchmarks.tasks import Family, Run, Scores, logits, percent_right, table
from merging.calibrate import Kind
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.parent import Parent
from merging.plan import make_plan
from merging.recipe import Recipe, recipe_from_dict
from merging.statistics import Statistics


def recipes(run: Run, alphas: Iterable[float], fisher: bool) -> Iterator[tuple[str, Recipe]]:
    """Every merge of the table with its name."""
    models = [
        {"model": str(folder.absolute()), "task": task}
        for folder, task in zip(run.models(), run.family.tasks, strict=True)
    ]
    yield "average", recipe_from_dict({"merge_method": "average", "models": models})
    for root, normalize in product((False, True), ("none", "model", "tensor") if fisher else ()):
        wish = {"merge_method": "fisher", "models": models, "parameters": {"normalize": normalize, "root": root}}
        yield f"Fisher, normalize: {normalize}{', root' if root else ''}", recipe_from_dict(wish)
    for alpha in alphas:
        wish = {"merge_method": "regmean", "models": models, "parameters": {"alpha": alpha}}
        yield f"RegMean, alpha {alpha:g}", recipe_from_dict(wish)


def merged(run: Run, recipe: Recipe, files: Mapping[Kind, Sequence[Path]]) -> Scores:
    """Merge, and evaluate on every task: one model for all where the heads are merged, else each task's own."""
    parents: list[Parent] = []
    opened: list[dict[str, Statistics]] = []
    for index, entry in enumerate(recipe.models):
        found: dict[str, Statistics] = {
            kind: Statistics(paths[index]) for kind, paths in files.items() if kind in recipe.method.needs
        }
        facts = {kind: file.fact for kind, file in found.items()}
        parents.append(replace(open_parent(entry.model, Path(entry.model)), statistics=facts))
        opened.append(found)
    out = run.folder / "merged"
    shutil.rmtree(out, ignore_errors=True)
    run_to_end(merge(make_plan(recipe, parents), parents, out, statistics=opened))
    scores = {task: score(out if run.family.one_head else out / task, run.family, task) for task in run.family.tasks}
    shutil.rmtree(out)
    return scores


def score(model: Path, family: Family, task: str) -> float:
    """Accuracy of a model on a task's test split, in percent."""
    rows = family.rows(task, "test")
    return percent_right(logits(model, [text for text, _ in rows]), rows)


def parents_alone(run: Run) -> dict[str, Scores]:
    """Each model on its own task; with one label set also on the others' tasks, and the mean of all logits."""
    tasks, models = run.family.tasks, run.models()
    if not run.family.one_head:
        own = {task: score(model, run.family, task) for task, model in zip(tasks, models, strict=True)}
        return {"each model on its own task": own}
    rows: dict[str, Scores] = {"each model on its own domain": {}, "each model on the others": {}, "ensemble": {}}
    for index, task in enumerate(tasks):
        test = run.family.rows(task, "test")
        answers = [logits(model, [text for text, _ in test]) for model in models]
        alone = [percent_right(answer, test) for answer in answers]
        rows["each model on its own domain"][task] = alone.pop(index)
        rows["each model on the others"][task] = sum(alone) / len(alone)
        rows["ensemble"][task] = percent_right(torch.stack(answers).mean(0), test)
    return rows


def comparison(run: Run, alphas: Sequence[float], examples: int, fisher_examples: int) -> dict[str, Scores]:
    """All rows of the table for one run."""
    rows: dict[str, Scores] = run.remembered("parents", lambda: parents_alone(run))
    files: dict[Kind, list[Path]] = {"gram": run.statistics("gram", examples)}
    if fisher_examples:
        files["fisher"] = run.statistics("fisher", fisher_examples)
    for name, recipe in recipes(run, alphas, fisher_examples > 0):
        counts = {"gram": f", {examples} texts", "fisher": f", {fisher_examples} texts"}
        key = name + "".join(counts.get(kind, "") for kind in sorted(recipe.method.needs))
        rows[name] = run.remembered(key, lambda recipe=recipe: merged(run, recipe, files))
    return rows


def main(family: Family, description: str) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rate", type=float, nargs="+", default=[1.0], help="factors on the learning rate, 2e-4")
    parser.add_argument("--examples", type=int, default=400 if family.one_head else 600, help="texts for Gram matrices")
    parser.add_argument("--fisher-examples", type=int, default=150, help="texts for Fisher; 0 leaves it out")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.1, 0.5, 0.9, 1.0], help="of RegMean; one row each")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    for rate in wish.rate:
        runs = [
            comparison(Run(family, seed, rate), wish.alpha, wish.examples, wish.fisher_examples) for seed in wish.seeds
        ]
        counts = f"Gram from {wish.examples} texts, Fisher from {wish.fisher_examples}"
        print(f"\n{len(runs)} seeds, learning rate x {rate:g}, {counts}\n\n{table(runs, family.tasks)}", flush=True)
