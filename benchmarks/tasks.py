"""The models that the benchmarks merge: three skills with labels of their own, three domains with one label set.

Models, statistics and scores are kept under `.demo/` and made when they are not there. Everything runs on one thread.
"""

import csv
import json
import random
import statistics as numbers
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from demo.train import SKILLS, TrainSettings, fine_tune, model_folder, read_rows
from merging.calibrate import Kind, collect
from merging.loading import batches, load

CACHE = Path(".demo")
DOMAIN_DATA = Path("demo/data/sentiment")
MAX_LENGTH = 64
T = TypeVar("T")

Rows = list[tuple[str, str]]  # (text, label name)
Scores = dict[str, float]  # task -> accuracy in percent


@dataclass(frozen=True)
class Family:
    """Models that are merged with each other."""

    name: str
    tasks: tuple[str, ...]
    rows: Callable[[str, str], Rows]  # task, "train" or "test"
    one_head: bool  # the same labels: the heads are merged, too


def read_domain(domain: str, split: str) -> Rows:
    """600 sentences to train on or some 330 to test, as the data's README splits them."""
    with (DOMAIN_DATA / f"{domain}.tsv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    pairs = [(row["text"], "positive" if row["label"] == "1" else "negative") for row in found]
    pairs = list({text.lower(): (text, label) for text, label in reversed(pairs)}.values())[::-1]
    random.Random(20231).shuffle(pairs)
    tests = len(pairs) // 3
    return pairs[:tests] if split == "test" else pairs[tests : tests + 600]


SKILL_FAMILY = Family("skills", SKILLS, read_rows, one_head=False)
DOMAIN_FAMILY = Family("sentiment", ("amazon", "imdb", "yelp"), read_domain, one_head=True)
FAMILIES = {family.name: family for family in (SKILL_FAMILY, DOMAIN_FAMILY)}


@dataclass(frozen=True)
class Run:
    """The models of one family, learning rate (a factor on the usual one) and seed."""

    family: Family
    seed: int
    rate: float = 1.0

    def __str__(self) -> str:
        return f"{self.family.name}, seed {self.seed}, rate {self.rate:g}"

    @property
    def folder(self) -> Path:
        """Where all of it is kept."""
        return CACHE / self.family.name / (f"seed-{self.seed}" + (f"-rate-{self.rate:g}" if self.rate != 1 else ""))

    def model(self, task: str) -> Path:
        """The folder of a task's model, trained when it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        out = model_folder(self.folder, task)
        if not out.is_dir():
            began, settings = time.monotonic(), TrainSettings()
            settings = replace(settings, learning_rate=settings.learning_rate * self.rate)
            last(fine_tune(self.family.rows(task, "train"), out, seed=self.seed, settings=settings))
            print(f"{self}: {task} trained in {time.monotonic() - began:.0f} s", flush=True)
        return out

    def models(self) -> list[Path]:
        """The folder of each task's model."""
        return [self.model(task) for task in self.family.tasks]

    def texts(self, task: str) -> list[str]:
        """The unlabelled training texts of a task."""
        return [text for text, _ in self.family.rows(task, "train")]

    def statistics_path(self, kind: Kind, task: str, examples: int) -> Path:
        """Where the statistics of a task's model are kept."""
        return self.folder / "statistics" / f"{task}-{kind}-{examples}.safetensors"

    def statistic(self, kind: Kind, task: str, examples: int) -> Path:
        """The statistics file of a task's model, collected when it is not there."""
        out = self.statistics_path(kind, task, examples)
        model, texts = self.model(task), self.texts(task)
        if not out.is_file():
            began = time.monotonic()
            last(collect(kind, model, texts, out, examples=examples, max_length=MAX_LENGTH, dataset=f"{task}.tsv"))
            print(f"{self}: {kind} of {task} in {time.monotonic() - began:.1f} s", flush=True)
        return out

    def statistics(self, kind: Kind, examples: int) -> list[Path]:
        """The statistics file of each task's model."""
        return [self.statistic(kind, task, examples) for task in self.family.tasks]

    def remembered(self, key: str, make: Callable[[], Any]) -> Any:
        """`make()`, or what it gave in an earlier run with the same key (plain data; delete scores.json to redo)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "scores.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        if key not in known:
            value = make()
            known = json.loads(path.read_text()) if path.is_file() else {}
            known[key] = value
            path.write_text(json.dumps(known, indent=1))
            print(f"{self}: {key}: {json.dumps(value)[:150]}", flush=True)
        return known[key]


def last(generator: Generator[Any, None, T]) -> T:
    """What a generator returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def logits(model: Path, texts: Sequence[str]) -> Tensor:
    """(texts, labels), the columns in the order of the label names."""
    loaded = load(model, max_length=MAX_LENGTH)
    names = [str(loaded.model.config.id2label[index]) for index in range(loaded.model.config.num_labels)]
    found = torch.empty(len(texts), len(names))
    with torch.inference_mode():
        for chosen, inputs in batches(loaded, texts, 32):
            found[chosen] = loaded.model(**inputs).logits
    return found[:, sorted(range(len(names)), key=names.__getitem__)]


def percent_right(scores: Tensor, rows: Rows) -> float:
    """Accuracy in percent of `logits`, for rows that hold every label at least once."""
    labels = sorted({label for _, label in rows})
    gold = torch.tensor([labels.index(label) for _, label in rows])
    return 100 * float((scores.argmax(-1) == gold).double().mean())


def table(runs: Sequence[Mapping[str, Scores]], columns: Sequence[str], corner: str = "") -> str:
    """Mean ± sample standard deviation over the runs, as Markdown. A run is row -> column -> percent."""
    lines = [f"| {corner} | mean | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for name in runs[0]:
        found = [run[name] for run in runs if name in run]
        cells = [[numbers.mean(row[column] for column in columns) for row in found]]
        cells += [[row[column] for row in found] for column in columns]
        lines.append(f"| {name} | " + " | ".join(map(cell, cells)) + " |")
    return "\n".join(lines)


def cell(values: Iterable[float]) -> str:
    """`78.5 ± 0.6`, without a deviation for one seed."""
    values = list(values)
    spread = f" ± {numbers.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{numbers.mean(values):.1f}{spread}"
