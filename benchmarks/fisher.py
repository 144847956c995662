"""Is Fisher better than the average? Numbers of texts, normalisations and what y is drawn from.

    python -m benchmarks.fisher skills --seeds 0 1
    python -m benchmarks.fisher sentiment --seeds 0 1 2

exact: the expectation over all classes; sampled: one class drawn from the prediction; empirical: the gold label.
Prints mean accuracy over the tasks in percent ± standard deviation over the seeds.
"""

import argparse
import statistics as numbers
from functools import partial
from typing import Literal

import torch

from benchmarks.body import Body, Weights
from benchmarks.tasks import FAMILIES, MAX_LENGTH, Run, cell
from merging.calibrate import choose_texts
from merging.fishers import FisherCollector, output_of
from merging.loading import encode, load
from merging.methods.fisher import fisher
from merging.statistics import moments_of
from merging.tensors import FisherMoments, TensorGroup

COUNTS = (50, 150, 500, 1200)  # all there are: 1200 of a skill, 600 of a domain
Variant = Literal["exact", "sampled", "empirical"]


class Gatherer:
    """The Fisher of one model, of more and more of its texts."""

    def __init__(self, run: Run, index: int, variant: Variant) -> None:
        task = run.family.tasks[index]
        self.loaded = load(run.models()[index], max_length=MAX_LENGTH, attention="eager")
        self.labels = dict(run.family.rows(task, "train"))
        self.texts = choose_texts(run.texts(task), len(run.texts(task)), 0)
        self.variant, self.generator = variant, torch.Generator().manual_seed(0)
        names = [name for name, _ in self.loaded.model.named_parameters()]
        self.collector = FisherCollector(self.loaded.model, names, output_of(self.loaded.model))

    def up_to(self, count: int) -> Weights:
        """The mean over the first `count` texts, by parameter name."""
        for text in self.texts[self.collector.examples : count]:
            inputs = encode(self.loaded, [text], return_tensors="pt")
            if self.variant == "exact":
                self.collector.add(inputs, self.generator)
            else:
                self._add_one(inputs, text)
        return {name: total / self.collector.examples for name, total in self.collector.sums.items()}

    def _add_one(self, inputs: dict[str, torch.Tensor], text: str) -> None:
        """Add (∂ log p(y|x) / ∂θ)² for one y."""
        with torch.enable_grad(), self.collector._record() as calls:
            logs = self.loaded.model(**inputs).logits[0].log_softmax(-1)
        names = self.loaded.model.config.id2label
        label = next(index for index, name in names.items() if name == self.labels[text])
        if self.variant == "sampled":
            label = int(torch.multinomial(logs.detach().exp(), 1, generator=self.generator))
        self.collector._add_gradients(calls, logs, torch.ones(len(logs)), range(label, label + 1), False)
        self.collector.examples += 1


def merged(body: Body, fishers: list[Weights], normalize: str) -> Weights:
    """Every shared tensor by the product's method, with the moments that its engine would give it."""
    moments = [{name: moments_of(own[name]) for name in body.shared} for own in fishers]
    whole = [tuple(sum(m[part] for m in own.values()) for part in range(3)) for own in moments]
    weights = {}
    for name, group in body.groups().items():
        both = tuple(FisherMoments(*total, *own[name]) for total, own in zip(whole, moments, strict=True))
        full = TensorGroup(name, group.tensors, fishers=tuple(own[name] for own in fishers), moments=both)
        weights[name] = fisher(full, normalize=normalize)
    return weights


def of_run(run: Run, variant: Variant, counts: list[int]) -> dict[str, float]:
    """Row -> mean accuracy in percent for one seed."""
    body = Body(run)
    gatherers: list[Gatherer] = []

    def make(count: int, normalize: str) -> dict[str, float]:
        if not gatherers:
            gatherers.extend(Gatherer(run, index, variant) for index in range(len(run.family.tasks)))
        return body.score(merged(body, [gatherer.up_to(count) for gatherer in gatherers], normalize))

    rows = {"average": run.remembered("file: average", lambda: body.score(body.average()))}
    most = min(len(run.texts(task)) for task in run.family.tasks)
    for count in sorted({min(count, most) for count in counts}):
        for normalize in ("none", "model", "tensor"):
            name = f"{variant}, {count} texts, normalize {normalize}"
            rows[name] = run.remembered(f"fisher: {name}", partial(make, count, normalize))
    return {name: numbers.mean(scores.values()) for name, scores in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variant", nargs="+", choices=["exact", "sampled", "empirical"], default=["exact", "sampled"])
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="texts a model")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    for variant in wish.variant:
        runs = [of_run(Run(FAMILIES[wish.family], seed), variant, wish.counts) for seed in wish.seeds]
        print(f"\n{wish.family}, {len(runs)} seeds\n\n| | mean accuracy |\n| --- | --- |")
        for name in runs[0]:
            print(f"| {name} | {cell(run[name] for run in runs)} |")


if __name__ == "__main__":
    main()
