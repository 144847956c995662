"""How much of three skills survives a merge: parents, average, Fisher and RegMean over several seeds.

    python -m benchmarks.skills --seeds 0 1 2 [--examples 600] [--fisher-examples 150] [--alpha 1.0]

For each seed: fine-tunes the three demo models (kept in `.demo/skills/seed-N`), collects their statistics from
unlabelled training texts, merges them by the product's engine from recipes, and evaluates every task's output on
its test split. Prints accuracy in percent, mean ± standard deviation over the seeds.
"""

import argparse
import shutil
import statistics as numbers
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from demo.train import SKILLS, model_folder, read_rows, train_skills
from merging.calibrate import Kind, collect
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.evaluate import accuracy
from merging.parent import Parent
from merging.plan import make_plan
from merging.recipe import Recipe, recipe_from_dict
from merging.statistics import Statistics

CACHE = Path(".demo/skills")
MAX_LENGTH = 64
T = TypeVar("T")

Row = dict[str, float]  # skill -> accuracy in percent


def last(generator: Generator[Any, None, T]) -> T:
    """What a generator returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def recipes(folder: Path, alphas: Iterable[float]) -> Iterator[tuple[str, Recipe]]:
    """Every merge of the table with its name."""
    models = [{"model": str(model_folder(folder, skill).absolute()), "task": skill} for skill in SKILLS]
    yield "Average", recipe_from_dict({"merge_method": "average", "models": models})
    for normalize in ("none", "model", "tensor"):
        wish = {"merge_method": "fisher", "models": models, "parameters": {"normalize": normalize}}
        yield f"Fisher, normalize {normalize}", recipe_from_dict(wish)
    for alpha in alphas:
        wish = {"merge_method": "regmean", "models": models, "parameters": {"alpha": alpha}}
        yield f"RegMean, alpha {alpha:g}", recipe_from_dict(wish)


def collected(folder: Path, kind: Kind, examples: int) -> list[Path]:
    """One statistics file a skill, collected when it is not there."""
    files = []
    for skill in SKILLS:
        out = folder / "statistics" / f"{skill}-{kind}-{examples}.safetensors"
        if not out.is_file():
            began = time.monotonic()
            texts = [text for text, _ in read_rows(skill, "train")]
            model = model_folder(folder, skill)
            last(collect(kind, model, texts, out, examples=examples, max_length=MAX_LENGTH, dataset=f"{skill}.tsv"))
            print(f"{folder.name}: {kind} of {skill} in {time.monotonic() - began:.1f} s", flush=True)
        files.append(out)
    return files


def merged(recipe: Recipe, files: dict[Kind, list[Path]], out: Path) -> Row:
    """Merge into `out` and evaluate every task's output."""
    parents: list[Parent] = []
    opened: list[dict[str, Statistics]] = []
    for index, entry in enumerate(recipe.models):
        found: dict[str, Statistics] = {
            kind: Statistics(paths[index]) for kind, paths in files.items() if kind in recipe.method.needs
        }
        facts = {kind: file.fact for kind, file in found.items()}
        parents.append(replace(open_parent(entry.model, Path(entry.model)), statistics=facts))
        opened.append(found)
    shutil.rmtree(out, ignore_errors=True)
    run_to_end(merge(make_plan(recipe, parents), parents, out, statistics=opened))
    scores = {skill: score(out / skill, skill) for skill in SKILLS}
    shutil.rmtree(out)
    return scores


def score(model: Path, skill: str) -> float:
    """Accuracy on the skill's test split, in percent."""
    return 100 * accuracy(model, read_rows(skill, "test"), max_length=MAX_LENGTH).accuracy


def one_seed(seed: int, arguments: argparse.Namespace) -> dict[str, Row]:
    """All rows of the table for one seed."""
    folder = CACHE / f"seed-{seed}"
    began = time.monotonic()
    last(train_skills(folder, seed=seed))
    print(f"{folder.name}: trained in {time.monotonic() - began:.0f} s (0 when kept from before)", flush=True)
    rows = {"Each model on its own task": {skill: score(model_folder(folder, skill), skill) for skill in SKILLS}}
    files: dict[Kind, list[Path]] = {
        "gram": collected(folder, "gram", arguments.examples),
        "fisher": collected(folder, "fisher", arguments.fisher_examples),
    }
    for name, recipe in recipes(folder, arguments.alpha):
        rows[name] = merged(recipe, files, folder / "merged")
        print(f"{folder.name}: {name}: {numbers.mean(rows[name].values()):.1f}", flush=True)
    return rows


def table(runs: list[dict[str, Row]]) -> str:
    """Mean ± sample standard deviation over the seeds, as Markdown."""
    lines = [f"| | mean | {' | '.join(SKILLS)} |", "| --- " * (len(SKILLS) + 2) + "|"]
    for name in runs[0]:
        columns = [[numbers.mean(run[name].values()) for run in runs]]
        columns += [[run[name][skill] for run in runs] for skill in SKILLS]
        lines.append(f"| {name} | " + " | ".join(map(cell, columns)) + " |")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    """`78.5 ± 0.6`, without a deviation for one seed."""
    spread = f" ± {numbers.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{numbers.mean(values):.1f}{spread}"


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=600, help="texts a model for Gram matrices")
    parser.add_argument("--fisher-examples", type=int, default=150, help="texts a model for Fisher")
    parser.add_argument("--alpha", type=float, nargs="+", default=[1.0], help="of RegMean; one row each")
    parser.add_argument("--threads", type=int, default=1, help="of statistics and evaluation")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = [one_seed(seed, arguments) for seed in arguments.seeds]
    print(f"\n{len(runs)} seeds, Gram from {arguments.examples} texts, Fisher from {arguments.fisher_examples}\n")
    print(table(runs))


if __name__ == "__main__":
    main()
