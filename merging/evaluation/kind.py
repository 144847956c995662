"""What a kind of task is. Each kind is a file beside this one; `kinds` lists them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merging.errors import InputError
from merging.evaluation.answers import Answers
from merging.loading import Loaded, batches
from merging.variants import output_of

Floats = NDArray[np.float64]
Words = str | tuple[str, ...]
Watch = Callable[[Sequence[int], Mapping[str, Tensor]], AbstractContextManager[None]]
Answering = Generator[int, None, Answers]  # yields how many examples are answered


@dataclass(frozen=True)
class Example:
    """One row of a labelled set: a text with its label, words with one label each, or a text alone."""

    text: Words
    label: Words | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as JSON keeps it."""
        return {"text": self.text, "label": self.label}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Example":
        """The example that `as_dict` gave."""
        text, label = data["text"], data["label"]
        return cls(tuple(text) if isinstance(text, list) else text, tuple(label) if isinstance(label, list) else label)


class Kind(ABC):
    """One kind of task. Its figures follow from sums over examples, so that all of them can be resampled at once."""

    name: ClassVar[str]
    output: ClassVar[str]  # of the models that it fits, see `merging.variants`
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


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Label names of a config.json in the order of their index; empty where it names none."""
    names = config.get("id2label") or {}
    return tuple(str(names[key]) for key in sorted(names, key=int))


def output_or_none(config: Mapping[str, Any]) -> str | None:
    """What a model of that config.json gives, None where it gives no probabilities."""
    try:
        return output_of(config)
    except InputError:
        return None
