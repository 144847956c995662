"""A sweep's figures: the merge at each value of one parameter, on the same sets and the same draws of examples."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from merging.evaluation.answers import read_answers, seconds_of
from merging.evaluation.bootstrap import LEVELS, Resampled
from merging.evaluation.comparison import Candidate, Comparison, OneModel, Question, rounded
from merging.progress import Progress


class _Row(NamedTuple):
    """One set of a sweep: its kind of figures, and those of each value."""

    metric: str
    better: str
    found: Mapping[float, Resampled]


@dataclass(frozen=True)
class Swept:
    """Asks merges at other values what the merge of a comparison was asked, and says what follows.

    `own` is the value of that merge itself: its answers are there already. None where it has no single one.
    """

    comparison: Comparison
    parameter: str
    values: Sequence[float]  # without the merge's own
    own: float | None = None

    def name(self, value: float) -> str:
        """`alpha = 0.5`."""
        return f"{self.parameter} = {value:g}"

    def is_asked(self, value: float) -> bool:
        """Whether all answers of that merge are there, from an earlier start."""
        return all(self._path(value, question).is_file() for question in self.comparison.questions)

    def ask(self, value: float, out: Path) -> Generator[Progress, None, None]:
        """What the merge in the folder `out` says to every set. Each of its models is loaded once."""
        questions = self.comparison.questions
        each = sum(len(question.set.examples) for question in questions)
        done, total = self.values.index(value) * each, len(self.values) * each
        models: dict[str, OneModel] = {}
        for question in sorted(questions, key=lambda one: _merge(one).task):
            task = _merge(question).task
            if task not in models:
                model = replace(_merge(question), title=self.name(value), folder=out / task)
                models = {task: OneModel(model, self.comparison.device)}  # one at a time in memory
            message = f"{self.name(value)} on {question.set.wish.title}"
            work = self.comparison.answer(models[task], question)
            while True:
                try:
                    yield Progress("evaluate", done + next(work), total, "examples", message)
                except StopIteration as end:
                    end.value.save(self._path(value, question))
                    break
            done += len(question.set.examples)

    def into(self, evaluation: dict[str, Any], **about: Any) -> dict[str, Any]:
        """The evaluation of a report with `sweep` in it and in each set, see docs/evaluation.md."""
        rows = [self._row(question) for question in self.comparison.questions]
        sets = [
            one | {"sweep": [{"value": value} | rounded(found.as_dict()) for value, found in row.found.items()]}
            for one, row in zip(evaluation["sets"], rows, strict=True)
        ]
        told = {"parameter": self.parameter, **about, "own": self.own, "finding": self._finding(rows)}
        asked = [self._path(value, question) for value in self.values for question in self.comparison.questions]
        seconds = evaluation["seconds"] + sum(seconds_of(path) for path in asked if path.is_file())
        return evaluation | {"sets": sets, "sweep": told, "seconds": round(seconds, 1)}

    def _path(self, value: float, question: Question) -> Path:
        if value == self.own:
            return self.comparison.path(_merge(question), question)
        return self.comparison.scratch / f"sweep-{self.values.index(value)}-{question.set.number}.npz"

    def _row(self, question: Question) -> _Row:
        every = sorted({*self.values, *([] if self.own is None else [self.own])})
        known = [value for value in every if self._path(value, question).is_file()]
        found = question.figures([read_answers(self._path(value, question)) for value in known]) if known else []
        return _Row(question.kind.metric, question.kind.better, dict(zip(known, found, strict=True)))

    def _finding(self, rows: Sequence[_Row]) -> str:
        """Which value is the best, one sentence or two for each kind of figures."""
        kinds = dict.fromkeys((row.metric, row.better) for row in rows)
        return " ".join(
            self._best(metric, better, [row.found for row in rows if row.metric == metric]) for metric, better in kinds
        )

    def _best(self, metric: str, better: str, sets: Sequence[Mapping[float, Resampled]]) -> str:
        values = [value for value in sets[0] if all(value in one for one in sets)]
        if len(values) < 2:
            return f"There is nothing to compare over {self.parameter}."
        mean = {value: float(np.mean([one[value].value[metric] for one in sets])) for value in values}
        drawn = {value: np.mean([one[value].drawn[metric] for one in sets], axis=0) for value in values}
        sign = 1 if better == "higher" else -1
        best = max(values, key=lambda value: (sign * mean[value], value == self.own))
        words = f"{'Mean ' if len(sets) > 1 else ''}{metric.replace('_f1', ' F1')}"
        over = f" over {len(sets)} sets" if len(sets) > 1 else ""
        told = f"{words[0].upper()}{words[1:]}{over} is best at {self.name(best)}: {_figure(mean[best], metric)}"
        if self.own in mean and best != self.own:
            told += f"; the published merge, {self.name(self.own)}, has {_figure(mean[self.own], metric)}"
        elif best == self.own:
            told += ", the published merge"
        near = [value for value in values if value != best and _holds_zero(drawn[value] - drawn[best])]
        return f"{told}. {_near(near, len(values) - 1)}"


def _merge(question: Question) -> Candidate:
    """The merge's model that answers a set."""
    return next(own for own in question.merged if own.who == "merge")


def _holds_zero(differences: Any) -> bool:
    low, high = np.percentile(differences, LEVELS)
    return bool(low <= 0 <= high)


def _near(near: Iterable[float], others: int) -> str:
    """Which of the other values are no worse beyond doubt."""
    listed = [f"{value:g}" for value in near]
    if not listed:
        return "Every other value is clearly worse."
    if len(listed) == others:
        return "No other value is clearly worse: the differences are within their intervals."
    return f"Not clearly worse, for the difference is within its interval: {', '.join(listed)}."


def _figure(value: float, metric: str) -> str:
    return f"{value:.4g}" if metric == "perplexity" else f"{100 * value:.1f} %"
