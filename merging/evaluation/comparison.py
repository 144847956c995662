"""One run: every model is loaded once and reads every set; then all are compared on the same examples.

What a model said is kept on disk, so that a run that was cut off goes on from there. Memory: one model, and the
log-probabilities of one set.
"""

import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from merging.errors import InputError, MergeError
from merging.evaluation.answers import Answers, read_answers, seconds_of
from merging.evaluation.bootstrap import Resampled, resample
from merging.evaluation.closeness import Closeness
from merging.evaluation.ensembles import instance_wise, of_logits
from merging.evaluation.facts import Example, label_names, wanted_kind
from merging.evaluation.kind import Answering, Kind, unwatched
from merging.evaluation.kinds import KINDS, kind_of
from merging.evaluation.labels import fits, fold, match_labels
from merging.loading import Loaded, load
from merging.progress import Progress
from merging.recipe import EvaluationSet

Who = Literal["parent", "average", "ensemble", "instance-wise", "merge"]
DIGITS = 6  # of the figures in a report


@dataclass(frozen=True)
class LabelledSet:
    """The examples of one evaluation set, and what it is called."""

    wish: EvaluationSet
    examples: tuple[Example, ...]
    revision: str = ""  # commit of a dataset of the Hub
    public: str = ""  # the dataset as others may read of it; "" for a file, and for what was handed over
    number: int = 0  # in the recipe


@dataclass(frozen=True)
class Candidate:
    """A model that is compared: a folder that loads by itself."""

    who: Who
    title: str
    folder: Path
    task: str = ""  # of a parent, or of the head of a merge whose heads are apart
    grams: Path | None = None  # the parent's Gram statistics

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config.json. Raises InputError."""
        try:
            return dict(json.loads((self.folder / "config.json").read_text()))
        except (OSError, ValueError):
            raise InputError(f"{self.title} has no readable config.json", "nothing says what it is", "Add it") from None


@dataclass
class Comparison:
    """The figures of all candidates on all sets, and in `notes` why one is missing. `scratch` keeps what was said."""

    candidates: Sequence[Candidate]
    sets: Sequence[LabelledSet]
    scratch: Path
    device: str = "auto"
    average_is_merge: bool = False  # the merge is the plain average: there is no other one beside it
    ensembles: bool = True
    notes: list[str] = field(default_factory=list)
    questions: list["Question"] = field(default_factory=list, init=False)  # those that could be asked, after a run

    def run(self) -> Generator[Progress, None, dict[str, Any]]:
        """The `evaluation` of a report, see docs/evaluation.md."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        asked = [self._asked(one) for one in self.sets]
        self.questions = [question for question in asked if question]
        yield from self._ask(self.questions)
        found = [self._score(question) for question in self.questions]
        seconds = sum(seconds_of(self.path(own, one)) for one in self.questions for own in one.everybody)
        return {"sets": found, "seconds": round(seconds, 1), "notes": list(dict.fromkeys(self.notes))}

    # Who answers what

    def _asked(self, one: LabelledSet) -> "Question | None":
        """A set with its kind, its head and those who answer it; None, with a note, where nobody can."""
        try:
            return self._question(one)
        except InputError as error:
            self.notes.append(f"{one.wish.title}: there are no figures. {error}")
            return None

    def _question(self, one: LabelledSet) -> "Question":
        configs = [(own.task, own.config) for own in self.candidates if own.who == "parent"]
        kind = KINDS[wanted_kind(one.wish, one.number, configs)]
        parents = [own for own in self.candidates if own.who == "parent" and kind_of(own.config) is kind]
        if not parents:
            made = ", ".join(dict.fromkeys(self._made_for(own) for own in self.candidates if own.who == "parent"))
            raise InputError(f"No model is made for {kind.name}", f"they are made for {made}", "Pick other data")
        labels, where = kind.labels(one.examples), f"evaluate.{one.number}.labels"
        fitting = [own for own in parents if fits(labels, label_names(own.config), one.wish.labels)]
        if kind.labelled and not fitting:
            first = next((own for own in parents if own.task == self._wished_head(one)), parents[0])
            names = {"data_name": one.wish.title, "model_name": first.title, "where": where}
            match_labels(labels, label_names(first.config), one.wish.labels, **names)
        head = self._head(one, fitting)
        merged = [own for own in self.candidates if own.who in ("average", "merge") and own.task in ("", head)]
        for own in merged:
            names = {"data_name": one.wish.title, "model_name": own.title, "where": where}
            match_labels(labels, label_names(own.config), one.wish.labels, **names)
        wide = [own for own in parents if own in fitting or (self.ensembles and own.grams is not None)]
        return Question(one, kind, head, fitting, wide, merged)

    def _made_for(self, own: Candidate) -> str:
        kind = kind_of(own.config)
        return kind.name if kind else str((own.config.get("architectures") or ["nothing that has figures here"])[0])

    def _wished_head(self, one: LabelledSet) -> str:
        return one.wish.head or (one.wish.in_domain[0] if one.wish.in_domain else "")

    def _head(self, one: LabelledSet, fitting: Sequence[Candidate]) -> str:
        """Which task's head answers where heads are apart, "" where there is one for all."""
        tasks = {own.task for own in self.candidates if own.who == "merge"} - {""}
        head = self._wished_head(one)
        if not tasks or head in tasks:
            return head if tasks else ""
        able = [own.task for own in fitting if own.task in tasks]
        if len(able) != 1:
            what = f"Whose head answers for {one.wish.title}?"
            why = f"{' and '.join(able) or 'none'} could by the names of the labels"
            raise InputError(what, why, "Name the task as its head", f"evaluate.{one.number}.head")
        return able[0]

    # What they say

    def _ask(self, questions: Sequence["Question"]) -> Generator[Progress, None, None]:
        work = [
            (own, [question for question in questions if own in question.everybody])
            for own in self.candidates
            if any(own in question.everybody for question in questions)
        ]
        total = sum(len(question.set.examples) for _, mine in work for question in mine)
        done = kept = 0
        for own, mine in work:
            model = OneModel(own, self.device)
            for question in mine:
                count, path = len(question.set.examples), self.path(own, question)
                if path.is_file():
                    kept += count
                else:
                    message = f"{own.title} on {question.set.wish.title}"
                    yield Progress("evaluate", done, total, "examples", message, kept)
                    work_ = self.answer(model, question)
                    while True:
                        try:
                            yield Progress("evaluate", done + next(work_), total, "examples", message, kept)
                        except StopIteration as end:
                            end.value.save(path)
                            break
                done += count
        yield Progress("evaluate", total, total, "examples", "intervals", kept)

    def answer(self, model: "OneModel", question: "Question") -> Answering:
        """What a model says to a set, and how close its texts are to the model's statistics."""
        one, began = question.set, time.monotonic()
        loaded = model.loaded(one.wish.max_length)
        near, apart = self._closeness(model.own, loaded, len(one.examples))
        watch = near.watch if near else unwatched
        answers = yield from question.kind.answer(loaded, one.examples, one.wish.batch_size, watch)
        seconds = time.monotonic() - began
        return replace(answers, closeness=near.found if near else None, apart=apart, seconds=seconds)

    def _closeness(self, own: Candidate, loaded: Loaded, count: int) -> tuple[Closeness | None, str]:
        """How close texts are to the model's statistics, or why that cannot be told."""
        if own.grams is None or not self.ensembles:
            return None, ""
        try:
            return Closeness(loaded, own.folder, own.grams, count), ""
        except MergeError as error:
            return None, str(error)

    def path(self, own: Candidate, question: "Question") -> Path:
        """Where a candidate's answers to a set are kept."""
        place = self.candidates.index(own)
        return self.scratch / f"answers-{place}-{question.set.number}.npz"

    # What follows

    def _score(self, question: "Question") -> dict[str, Any]:
        one, kind = question.set, question.kind
        said = self._said(question)
        drawn = question.figures([answers for _, answers in said])
        average = next((found for found, (own, _) in zip(drawn, said, strict=True) if self._is_average(own)), None)
        scores = []
        for found, (own, _) in zip(drawn, said, strict=True):
            against = found.against(average) if average and not self._is_average(own) else {}
            task = own.task if own.who == "parent" else question.head
            about = {"who": own.who, "title": own.title, "task": task}
            scores.append(rounded(about | found.as_dict() | {"against_average": against}))
        return {
            "name": one.wish.title,
            "data": one.public,
            "revision": one.revision,
            "kind": kind.name,
            "metric": kind.metric,
            "better": kind.better,
            "examples": len(one.examples),
            "in_domain": list(one.wish.in_domain),
            "head": question.head,
            "scores": scores,
        }

    def _is_average(self, own: Candidate) -> bool:
        return own.who == "average" or (own.who == "merge" and self.average_is_merge)

    def _said(self, question: "Question") -> list[tuple[Candidate, Answers]]:
        """Everybody's answers that are scored, in the order of a table."""
        read = {own: read_answers(self.path(own, question)) for own in question.everybody}
        for own, answers in read.items():  # kept with the answers, for those of an earlier start are not asked again
            if answers.apart:
                self.notes.append(f"{own.title} is not part of the instance-wise ensemble. {answers.apart}")
        parents = [(own, read[own]) for own in question.fitting]
        merged = {own.who: (own, read[own]) for own in question.merged}
        together = self._together(question, read) if self.ensembles else []
        order = [*parents, *([merged["average"]] if "average" in merged else []), *together]
        return [*order, *([merged["merge"]] if "merge" in merged else [])]

    def _together(self, question: "Question", read: Mapping[Candidate, Answers]) -> list[tuple[Candidate, Answers]]:
        title, found = question.set.wish.title, []
        nobody = Path()
        members = self._members(question)
        logits = of_logits([read[own] for own in members]) if len(members) > 1 else None
        if logits:
            found.append((Candidate("ensemble", "Ensemble of logits", nobody), logits))
        else:
            why = "the parents' tokenizers differ" if len(members) > 1 else f"only {members[0].title} has these labels"
            self.notes.append(f"{title}: no ensemble of logits, for {why}.")
        near = [read[own] for own in question.wide if read[own].closeness is not None]
        wise = instance_wise(near)
        if wise:
            found.append((Candidate("instance-wise", "Instance-wise ensemble", nobody), wise))
        elif len(near) > 1:
            self.notes.append(f"{title}: no instance-wise ensemble, for the parents' tokenizers differ.")
        else:
            self.notes.append("There is no instance-wise ensemble: it needs the Gram statistics of two parents.")
        return found

    def _members(self, question: "Question") -> list[Candidate]:
        """The parents with the labels of the head that answers."""
        first = next((own for own in question.fitting if own.task == question.head), question.fitting[0])
        if not question.kind.labelled:
            return list(question.fitting)
        wanted = set(map(fold, label_names(first.config)))
        return [own for own in question.fitting if set(map(fold, label_names(own.config))) == wanted]


class OneModel:
    """A candidate in memory, loaded when it is first asked: never twice at a time."""

    def __init__(self, own: Candidate, device: str) -> None:
        self.own, self._device = own, device
        self._loaded: Loaded | None = None
        self._length = 0

    def loaded(self, length: int) -> Loaded:
        """The model, which cuts texts to that length in tokens."""
        if self._loaded is None or self._length != length:
            self._loaded, self._length = None, length
            self._loaded = load(self.own.folder, max_length=length, device=self._device, name=self.own.title)
        return self._loaded


@dataclass(frozen=True)
class Question:
    """A set, and who answers it."""

    set: LabelledSet
    kind: Kind
    head: str
    fitting: Sequence[Candidate]  # parents that have its labels
    wide: Sequence[Candidate]  # parents that answer by labels of their own, for the instance-wise ensemble
    merged: Sequence[Candidate]  # the average and the merge

    @property
    def everybody(self) -> list[Candidate]:
        """All who answer."""
        return list(dict.fromkeys([*self.fitting, *self.wide, *self.merged]))

    def figures(self, said: Sequence[Answers]) -> list[Resampled]:
        """The figures that follow from these answers, all on the same draws of examples."""
        one, labels, counts = self.set, self.kind.labels(self.set.examples), []
        for answers in said:
            names = match_labels(labels, answers.labels, one.wish.labels) if labels else {}
            counts.append(self.kind.counts(answers, one.examples, names))
        return resample(counts, self.kind.figures, one.wish.seed)


def rounded(value: Any) -> Any:
    """Plain data with no more digits than mean something."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, DIGITS) if isinstance(value, float) else value
