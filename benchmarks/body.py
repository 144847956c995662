"""A family's models in memory, merged tensor by tensor with the product's methods and scored at once.

For studies of many variants; `benchmarks.comparison` merges by the engine, and both give the same scores.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.tasks import MAX_LENGTH, Run, Scores, percent_right
from merging.loading import batches, load
from merging.statistics import Statistics
from merging.tensors import Shared, TensorGroup

Weights = dict[str, Tensor]  # disk name -> tensor
Grams = dict[str, Tensor]  # Gram key -> (in, in)
Made = Callable[[TensorGroup], Tensor]


class Body:
    """The parents of one run: their tensors, and their tests as batches of token ids."""

    def __init__(self, run: Run, most: int | None = None) -> None:
        """`most` test texts a task; all by default."""
        self.run = run
        folders = run.models()
        self.loaded = [load(folder, max_length=MAX_LENGTH) for folder in folders]
        self.tensors: list[Weights] = [load_file(folder / "model.safetensors") for folder in folders]
        self.tests = [run.family.rows(task, "test")[:most] for task in run.family.tasks]
        self.batches = [
            list(batches(loaded, [text for text, _ in rows], 32))
            for loaded, rows in zip(self.loaded, self.tests, strict=True)
        ]

    @property
    def shared(self) -> list[str]:
        """Names of the tensors that are merged: all where the labels agree, else all but the heads."""
        heads = () if self.run.family.one_head else ("classifier.",)
        return [name for name in self.tensors[0] if not name.startswith(heads or ("\0",))]

    def groups(self) -> dict[str, TensorGroup]:
        """One group a merged tensor, without statistics."""
        return {name: TensorGroup(name, tuple(own[name] for own in self.tensors)) for name in self.shared}

    def average(self) -> Weights:
        """The plain mean of all that is merged."""
        return {name: torch.stack(group.tensors).mean(0) for name, group in self.groups().items()}

    def with_grams(self, grams: Sequence[Grams], aliases: Mapping[str, str], make: Made) -> Weights:
        """`make` for every layer that has a Gram, the average for the rest. `grams` is one set a model."""
        merged: Weights = self.average()
        memo = {key: Shared() for key in aliases.values()}
        for name, group in self.groups().items():
            if name in aliases:
                key = aliases[name]
                own = tuple(found[key] for found in grams)
                merged[name] = make(TensorGroup(name, group.tensors, grams=own, shared=memo[key]))
        return merged

    def score(self, weights: Weights) -> Scores:
        """Accuracy of each task's model with these weights, its own head where the heads are not merged."""
        scores = {}
        for index, task in enumerate(self.run.family.tasks):
            model = self.loaded[index].model
            before = {name: tensor for name, tensor in self.tensors[index].items() if name not in weights}
            model.load_state_dict(before | weights, strict=False)
            labels = [str(model.config.id2label[label]) for label in range(model.config.num_labels)]
            found = torch.empty(len(self.tests[index]), len(labels))
            with torch.inference_mode():
                for chosen, inputs in self.batches[index]:
                    found[chosen] = model(**inputs).logits
            order = sorted(range(len(labels)), key=labels.__getitem__)
            scores[task] = percent_right(found[:, order], self.tests[index])
        return scores


def read_grams(statistics: Statistics) -> tuple[Grams, dict[str, str], dict[str, int]]:
    """(G by key, covered weight -> key, key -> tokens) of a Gram file."""
    aliases = {name: str(statistics.gram_key(name)) for name in statistics.fact.keys}
    grams = {key: statistics.gram(key) for key in statistics.specs}
    return grams, aliases, {key: statistics.fact.tokens[key] for key in grams}
