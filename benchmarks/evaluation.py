"""The product's own evaluation of three skills and of three sentiment domains: merge, average, ensembles.

    python -m benchmarks.evaluation --seeds 0 1 2

For each seed: the fine-tunes of `.demo` and their Grams, a RegMean and a plain average by the engine, and all of them
compared by `merging.evaluation` on each test split. Accuracy in percent, mean ± standard deviation over the seeds, then
how often the instance-wise ensemble gives the right parent the largest weight, and other temperatures of it.
"""

import argparse
import shutil
import statistics as numbers
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tasks import FAMILIES, MAX_LENGTH, Family, Run, Scores, last, table
from merging.checkpoint import open_parent
from merging.engine import merge
from merging.evaluation import closeness
from merging.evaluation.answers import read_answers
from merging.evaluation.comparison import Candidate, Comparison, LabelledSet
from merging.evaluation.ensembles import instance_wise
from merging.evaluation.facts import Example
from merging.evaluation.kinds import KINDS
from merging.evaluation.labels import match_labels
from merging.plan import make_plan
from merging.recipe import EvaluationSet, recipe_from_dict
from merging.statistics import Statistics

ALPHA = 0.9
TEMPERATURES = (0.005, 0.02, 0.05, 0.1, 0.5)


def merged(run: Run, method: str, grams: list[Path], out: Path) -> Path:
    """The three models merged by the engine."""
    models = [{"model": str(run.model(task).absolute()), "task": task} for task in run.family.tasks]
    parameters = {"alpha": ALPHA} if method == "regmean" else {}
    recipe = recipe_from_dict({"merge_method": method, "models": models, "parameters": parameters})
    opened = [{"gram": Statistics(path)} if method == "regmean" else {} for path in grams]
    parents = [
        replace(open_parent(entry.model, Path(entry.model)), statistics={kind: one.fact for kind, one in own.items()})
        for entry, own in zip(recipe.models, opened, strict=True)
    ]
    last(merge(make_plan(recipe, parents), parents, out, statistics=opened))
    return out


def sets_of(family: Family) -> list[LabelledSet]:
    """The test split of each task."""
    found = []
    for number, task in enumerate(family.tasks):
        wish = EvaluationSet(data=task, name=task, in_domain=(task,), max_length=MAX_LENGTH, batch_size=32)
        rows = tuple(Example(text, label) for text, label in family.rows(task, "test"))
        found.append(LabelledSet(wish, rows, number=number))
    return found


def evaluation(run: Run) -> dict[str, Any]:
    """Row -> task -> percent, and what the closeness of the parents' answers tells."""
    grams = run.statistics("gram", 400 if run.family.one_head else 600)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        candidates = [
            Candidate("parent", task, run.model(task), task, path)
            for task, path in zip(run.family.tasks, grams, strict=True)
        ]
        for who, method in (("average", "average"), ("merge", "regmean")):
            out = merged(run, method, grams, root / who)
            heads = [("", out)] if run.family.one_head else [(task, out / task) for task in run.family.tasks]
            candidates += [Candidate(who, who, folder, task) for task, folder in heads]  # type: ignore[arg-type]
        sets = sets_of(run.family)
        found = last(Comparison(candidates, sets, root / "answers").run())
        rows = scores_of(found)
        told = {f"temperature {value:g}": value for value in TEMPERATURES}
        rows |= {title: at_temperature(run, sets, root / "answers", value) for title, value in told.items()}
        rows["right parent closest"] = closest(run, sets, root / "answers")
        shutil.rmtree(root / "answers")
    return rows


def scores_of(found: dict[str, Any]) -> dict[str, Scores]:
    """Row -> task -> accuracy in percent."""
    rows: dict[str, Scores] = {}
    for one in found["sets"]:
        for score in one["scores"]:
            own = "own model" if score["task"] == one["name"] else "the others' models"
            row = own if score["who"] == "parent" else score["who"]
            rows.setdefault(row, {}).setdefault(one["name"], []).append(100 * score["metrics"]["accuracy"])
    return {row: {task: numbers.mean(values) for task, values in scores.items()} for row, scores in rows.items()}


def parents_answers(run: Run, one: LabelledSet, answers: Path) -> Iterator[Any]:
    """What each parent said to a set."""
    for place in range(len(run.family.tasks)):
        yield read_answers(answers / f"answers-{place}-{one.number}.npz")


def at_temperature(run: Run, sets: list[LabelledSet], answers: Path, value: float) -> Scores:
    """The instance-wise ensemble with another temperature."""
    before, closeness.TEMPERATURE = closeness.TEMPERATURE, value
    kind, scores = KINDS["classification"], {}
    for one in sets:
        together = instance_wise(list(parents_answers(run, one, answers)))
        assert together is not None
        names = match_labels(kind.labels(one.examples), together.labels)
        counts = kind.counts(together, one.examples, names)
        scores[one.wish.name] = 100 * float(kind.figures(counts.sum(0))["accuracy"])
    closeness.TEMPERATURE = before
    return scores


def closest(run: Run, sets: list[LabelledSet], answers: Path) -> Scores:
    """How often a text's own parent is the closest one, in percent."""
    scores = {}
    for place, one in enumerate(sets):
        near = np.stack([own.closeness for own in parents_answers(run, one, answers)])
        scores[one.wish.name] = 100 * float((near.argmax(0) == place).mean())
    return scores


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--family", choices=list(FAMILIES), nargs="+", default=list(FAMILIES))
    wish = parser.parse_args()
    torch.set_num_threads(1)
    for name in wish.family:
        runs = []
        for seed in wish.seeds:
            run = Run(FAMILIES[name], seed)
            runs.append(run.remembered("evaluation", lambda run=run: evaluation(run)))
        print(f"\n{name}, {len(runs)} seeds\n\n{table(runs, FAMILIES[name].tasks)}", flush=True)


if __name__ == "__main__":
    main()
