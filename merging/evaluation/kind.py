"""What a kind of task is. Each kind is a file beside this one; `kinds` lists them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merging.evaluation.answers import Answers
from merging.evaluation.facts import Example
from merging.loading import Loaded, batches

Floats = NDArray[np.float64]
Watch = Callable[[Sequence[int], Mapping[str, Tensor]], AbstractContextManager[None]]
Answering = Generator[int, None, Answers]  # yields how many examples are answered


class Kind(ABC):
    """One kind of task. Its figures follow from sums over examples, so that all of them can be resampled at once."""

    name: ClassVar[str]
    metric: ClassVar[str]  # the one that is shown first
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    labelled: ClassVar[bool] = True
    by_word: ClassVar[bool] = False  # an example is a list of words with a label each

    @abstractmethod
    def answer(self, loaded: Loaded, examples: Sequence[Example], size: int, watch: Watch) -> Answering:
        """What the model says to each example, `size` of them at a time. `watch` wraps each forward pass."""

    @abstractmethod
    def counts(self, answers: Answers, examples: Sequence[Example], names: Mapping[str, str]) -> Floats:
        """(examples, k): what is summed over examples. `names` maps a label of the data to the model's."""

    @abstractmethod
    def figures(self, sums: Floats) -> dict[str, Floats]:
        """Name -> figure (...) from sums (..., k) of `counts`."""

    def labels(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """Every label of the data, sorted."""
        found: set[str] = set()
        for example in examples:
            found.update(example.label if isinstance(example.label, tuple) else [str(example.label)])
        return tuple(sorted(found)) if self.labelled else ()


def forward(
    loaded: Loaded, texts: Sequence[str], size: int, watch: Watch
) -> Generator[tuple[list[int], Mapping[str, Tensor], Any], None, None]:
    """(places of the texts, model inputs, model outputs) batch by batch, without gradients."""
    with torch.inference_mode():
        for chosen, inputs in batches(loaded, texts, size):
            with watch(chosen, inputs):
                outputs = loaded.model(**inputs)
            yield chosen, inputs, outputs


def unwatched(chosen: Sequence[int], inputs: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """The `watch` of a model of which nothing but its answers is asked."""
    return nullcontext()
