"""What a model said to every example of a set, and how it is kept on disk."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Log-probabilities, one row for each decision, the decisions of an example one behind the other.

    `logs` is (decisions, classes); a row of NaN is a decision that the model did not come to (a word that was cut
    off). A language model's only class is the token that stands there.
    """

    logs: Floats
    starts: NDArray[np.int64]  # (examples + 1,): where the decisions of each example begin, and the last one's end
    labels: tuple[str, ...] = ()  # of the classes, by the model's own names
    closeness: Floats | None = None  # (examples,), see `merging.evaluation.closeness`
    apart: str = ""  # why there is no closeness though the model has Gram statistics
    seconds: float = 0.0  # that the model took to say all this, loading it included
    keys: tuple[str, ...] = field(default=())  # of the classes, the same in every model that means the same

    def __len__(self) -> int:
        return len(self.starts) - 1

    def per_example(self, values: Floats) -> Floats:
        """(examples, ...) sums of a value for each decision, (decisions, ...)."""
        ends = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
        sums: Floats = ends[self.starts[1:]] - ends[self.starts[:-1]]
        return sums

    def spread(self, values: Floats) -> Floats:
        """(decisions,): each example's value for each of its decisions."""
        repeated: Floats = np.repeat(values, np.diff(self.starts))
        return repeated

    def save(self, path: Path) -> None:
        """Write them; the file has its name only when it is whole."""
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        arrays: dict[str, Any] = {
            "logs": self.logs.astype(np.float32),
            "starts": self.starts,
            "labels": np.array(self.labels, str),
            "apart": np.array(self.apart, str),
            "seconds": np.array(self.seconds),
        }
        if self.closeness is not None:
            arrays["closeness"] = self.closeness
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


def read_answers(path: Path) -> Answers:
    """The answers that `save` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return Answers(
            logs=found["logs"].astype(np.float64),
            starts=found["starts"],
            labels=tuple(map(str, found["labels"])),
            closeness=found.get("closeness"),
            apart=str(found["apart"]),
            seconds=float(found["seconds"]),
        )


def seconds_of(path: Path) -> float:
    """How long the answers that `save` wrote have taken."""
    with np.load(path, allow_pickle=False) as found:
        return float(found["seconds"])
