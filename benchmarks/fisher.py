"""Is Fisher better than the average? Numbers of texts, normalisations and what y is drawn from.

    python -m benchmarks.fisher skills --seeds 0 1
    python -m benchmarks.fisher sentiment --seeds 0 1 2

exact: the expectation over all classes; sampled: one class drawn from the prediction; empirical: the gold label.
Prints mean accuracy over the tasks in percent ± standard deviation over the seeds.
"""

import argparse
import statistics as numbers
from dataclasses import dataclass
from functools import partial

import torch
from safetensors.torch import load_file

from benchmarks.body import Body, Weights
from benchmarks.tasks import FAMILIES, MAX_LENGTH, Run, cell
from merging.calibrate import choose_texts
from merging.fishers import FisherCollector
from merging.loading import encode, load
from merging.methods.fisher import fisher
from merging.objectives import gold_of, head_of
from merging.statistics import moments_of
from merging.tensors import FisherMoments, TensorGroup
from merging.variants import Variant

COUNTS = (50, 150, 500, 1200)  # all there are: 1200 of a skill, 600 of a domain
TESTS = 300  # texts a task that every setting is scored on: differences here are of several points


class Gatherer:
    """The Fisher of one model, of more and more of its texts."""

    def __init__(self, run: Run, index: int, variant: Variant) -> None:
        task = run.family.tasks[index]
        self.saved = partial(run.statistics_path, "fisher", task)
        self.loaded = load(run.models()[index], max_length=MAX_LENGTH, attention="eager")
        self.labels = dict(run.family.rows(task, "train"))
        self.texts = choose_texts(run.texts(task), len(run.texts(task)), 0)
        self.head, self.generator = head_of(self.loaded), torch.Generator().manual_seed(0)
        names = [name for name, _ in self.loaded.model.named_parameters()]
        self.variant = variant
        self.collector = FisherCollector(self.loaded.model, names, self.head, variant)

    def up_to(self, count: int) -> Weights:
        """The mean over the first `count` texts, by parameter name; an exact one that `benchmarks.skills` keeps."""
        if self.variant == "exact" and self.saved(count).is_file():
            return load_file(self.saved(count))
        for text in self.texts[self.collector.examples : count]:
            gold = gold_of(self.loaded, self.head, text, self.labels[text])
            self.collector.add(encode(self.loaded, [text]), self.generator, gold)
        return {name: total / self.collector.examples for name, total in self.collector.sums.items()}


@dataclass(frozen=True)
class Setting:
    """How the Fisher is used, as `merging.methods.fisher` has it."""

    normalize: str
    floor: float = 1e-6
    root: bool = False

    def __str__(self) -> str:
        floor = f", floor {self.floor:g}" if self.floor != 1e-6 else ""
        return f"normalize {self.normalize}{floor}{', root' if self.root else ''}"


PLAIN = tuple(Setting(normalize) for normalize in ("none", "model", "tensor"))
TAMED = (
    *(Setting(normalize, root=True) for normalize in ("none", "model", "tensor")),
    Setting("tensor", floor=1),
)  # nearer to the average


def merged(body: Body, fishers: list[Weights], setting: Setting) -> Weights:
    """Every shared tensor by the product's method, with the moments that its engine would give it."""
    moments = [{name: moments_of(own[name]) for name in body.shared} for own in fishers]
    whole = [tuple(sum(m[part] for m in own.values()) for part in range(3)) for own in moments]
    weights = {}
    for name, group in body.groups().items():
        both = tuple(FisherMoments(*total, *own[name]) for total, own in zip(whole, moments, strict=True))
        full = TensorGroup(name, group.tensors, fishers=tuple(own[name] for own in fishers), moments=both)
        weights[name] = fisher(full, normalize=setting.normalize, floor=setting.floor, root=setting.root)
    return weights


def of_run(run: Run, variant: Variant, counts: list[int], tamed: bool) -> dict[str, float]:
    """Row -> mean accuracy in percent for one seed."""
    body = Body(run, TESTS)
    gatherers: list[Gatherer] = []

    def make(count: int, setting: Setting) -> dict[str, float]:
        if not gatherers:
            gatherers.extend(Gatherer(run, index, variant) for index in range(len(run.family.tasks)))
        return body.score(merged(body, [gatherer.up_to(count) for gatherer in gatherers], setting))

    rows = {"average": run.remembered("fisher: average", lambda: body.score(body.average()))}
    most = min(len(run.texts(task)) for task in run.family.tasks)
    counts = sorted({min(count, most) for count in counts})
    for count in counts:
        for setting in PLAIN + (TAMED if tamed else ()):
            name = f"{variant}, {count} texts, {setting}"
            rows[name] = run.remembered(f"fisher: {name}", partial(make, count, setting))
    return {name: numbers.mean(scores.values()) for name, scores in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variant", nargs="+", choices=["exact", "sampled", "empirical"], default=["exact", "sampled"])
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="texts a model")
    parser.add_argument("--tamed", action="store_true", help="also settings nearer to the average")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    for variant in wish.variant:
        runs = [of_run(Run(FAMILIES[wish.family], seed), variant, wish.counts, wish.tamed) for seed in wish.seeds]
        print(f"\n{wish.family}, {len(runs)} seeds\n\n| | mean accuracy |\n| --- | --- |")
        for name in runs[0]:
            print(f"| {name} | {cell(run[name] for run in runs)} |")


if __name__ == "__main__":
    main()
