"""One run over several models and sets: who answers what, what is left out and why, and what goes on after a cut."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import merging.evaluation.comparison as module
from merging.calibrate import collect
from merging.evaluation.answers import seconds_of
from merging.evaluation.comparison import Candidate, Comparison, LabelledSet
from merging.evaluation.facts import Example
from merging.loading import Loaded, load
from merging.recipe import EvaluationSet
from merging.statistics import Provenance, write_gram
from tests.tiny_models import save_tiny, sentences

torch.set_num_threads(1)
LABELS = ("red", "green", "blue")


def labelled(name: str, labels: Sequence[str] = LABELS, number: int = 0, **wish: Any) -> LabelledSet:
    """Thirty sentences with these labels in turn."""
    rows = tuple(Example(text, labels[place % len(labels)]) for place, text in enumerate(sentences(30, seed=number)))
    return LabelledSet(EvaluationSet(data=name, max_length=32, **wish), rows, number=number)


def run(comparison: Comparison) -> dict[str, Any]:
    """Its evaluation."""
    work = comparison.run()
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def who(one: dict[str, Any]) -> list[str]:
    """Whose figures a set has."""
    return [score["who"] for score in one["scores"]]


@pytest.fixture
def parents(tmp_path: Path) -> list[Candidate]:
    """Two models of one label set, with their Grams."""
    found = []
    for seed, task in enumerate(("a", "b")):
        folder = save_tiny(tmp_path / task, seed=seed, labels=LABELS)
        grams = tmp_path / f"{task}.safetensors"
        for _ in collect("gram", folder, sentences(60, seed=seed), grams, examples=60):
            pass
        found.append(Candidate("parent", f"ann/{task}", folder, task, grams))
    return found


def test_models_of_one_label_set(parents: list[Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parent on every set, both ensembles, average and merge; each model is loaded once, and never again."""
    loads: list[str] = []

    def counted(folder: Path, *, name: str, **rest: Any) -> Loaded:
        loads.append(name)
        return load(folder, **rest)

    monkeypatch.setattr(module, "load", counted)
    average = Candidate("average", "Average", save_tiny(tmp_path / "average", seed=5, labels=LABELS))
    merge = Candidate("merge", "Merge", save_tiny(tmp_path / "merge", seed=6, labels=LABELS))
    sets = [labelled("one", in_domain=("a",)), labelled("two", number=1)]
    candidates = [*parents, average, merge]
    found = run(Comparison(candidates, sets, tmp_path / "answers", "cpu"))
    assert [who(one) for one in found["sets"]] == [
        ["parent", "parent", "average", "ensemble", "instance-wise", "merge"]
    ] * 2
    assert loads == ["ann/a", "ann/b", "Average", "Merge"]
    assert found["notes"] == []
    next((tmp_path / "answers").glob("answers-3-1*")).unlink()
    again = run(Comparison(candidates, sets, tmp_path / "answers", "cpu"))
    assert (again["sets"], loads[4:]) == (found["sets"], ["Merge"])
    assert run(Comparison(candidates, sets, tmp_path / "answers", "cpu")) == again  # the seconds that it took, too
    assert all(seconds_of(path) > 0 for path in (tmp_path / "answers").glob("*.npz"))


def test_a_merge_that_is_the_average_stands_for_it(parents: list[Candidate], tmp_path: Path) -> None:
    """The others are compared with it, and it with nobody."""
    merge = Candidate("merge", "Merge", save_tiny(tmp_path / "merge", seed=6, labels=LABELS))
    found = run(Comparison([*parents, merge], [labelled("one")], tmp_path / "x", "cpu", average_is_merge=True))
    scores = found["sets"][0]["scores"]
    assert [bool(score["against_average"]) for score in scores] == [True, True, True, True, False]


def test_what_cannot_be_is_left_out_with_its_reason(parents: list[Candidate], tmp_path: Path) -> None:
    """Labels that are nobody's, a kind that nobody is made for; without Grams there is no instance-wise ensemble."""
    plain = [Candidate("parent", own.title, own.folder, own.task) for own in parents]
    sets = [
        labelled("one", ("yes", "no")),
        labelled("two", number=1, kind="language-modelling"),
        labelled("three", ("RED", "green"), number=2),
    ]
    found = run(Comparison(plain, sets, tmp_path / "answers", "cpu"))
    assert [one["name"] for one in found["sets"]] == ["three"]
    assert who(found["sets"][0]) == ["parent", "parent", "ensemble"]
    assert found["notes"] == [
        "one: there are no figures. ann/a has no label 'no', which stands in one: its labels are red, green, blue; "
        "those of one are no, yes. Say which label of the data is which of the model.",
        "two: there are no figures. No model is made for language-modelling: they are made for classification. "
        "Pick other data.",
        "There is no instance-wise ensemble: it needs the Gram statistics of two parents.",
    ]


def test_a_cut_off_run_says_why_no_less(parents: list[Candidate], tmp_path: Path) -> None:
    """Why a model is not in an ensemble is kept with its answers: those that stand are not asked again."""
    name = "bert.encoder.layer.1.attention.self.query.weight"
    for own in parents:
        assert own.grams
        write_gram(own.grams, {name: torch.zeros(32, 32)}, {name: 9}, {name: name}, Provenance({"a": "0" * 64}))
    found = run(Comparison(parents, [labelled("one")], tmp_path / "answers", "cpu"))
    (tmp_path / "answers" / "answers-1-0.npz").unlink()
    again = run(Comparison(parents, [labelled("one")], tmp_path / "answers", "cpu"))
    why = f"is not part of the instance-wise ensemble. The Gram matrix of {name} cannot be inverted."
    assert found["notes"][:2] == [f"ann/a {why}", f"ann/b {why}"]
    assert again["notes"] == found["notes"]


def test_heads_that_stay_apart(parents: list[Candidate], tmp_path: Path) -> None:
    """The head of the set's own domain answers; else the only one with its labels; two that could are a question."""
    heads = [Candidate("merge", "Merge", own.folder, own.task) for own in parents]
    other = save_tiny(tmp_path / "other", seed=3, labels=("x", "y"))
    parents = [*parents, Candidate("parent", "ann/c", other, "c")]
    heads.append(Candidate("merge", "Merge", other, "c"))
    sets = [
        labelled("own", in_domain=("b",)),
        labelled("only", ("x", "y"), number=1),
        labelled("two", number=2),
        labelled("wrong", number=3, head="c"),
    ]
    found = run(Comparison([*parents, *heads], sets, tmp_path / "answers", "cpu", ensembles=False))
    assert [(one["name"], one["head"]) for one in found["sets"]] == [("own", "b"), ("only", "c")]
    assert [score["task"] for score in found["sets"][0]["scores"]] == ["a", "b", "b"]
    assert found["notes"][0] == (
        "two: there are no figures. Whose head answers for two? a and b could by the names of the labels. "
        "Name the task as its head."
    )
    assert found["notes"][1].startswith("wrong: there are no figures. Merge has no label 'blue'")


def test_language_models_are_compared_by_perplexity(tmp_path: Path) -> None:
    """Lower is better; the ensemble averages probabilities."""
    parents = [
        Candidate("parent", f"ann/{seed}", save_tiny(tmp_path / str(seed), "llama", seed=seed, labels=None), str(seed))
        for seed in (0, 1)
    ]
    one = LabelledSet(EvaluationSet(data="text", max_length=32), tuple(map(Example, sentences(20))))
    (found,) = run(Comparison(parents, [one], tmp_path / "answers", "cpu"))["sets"]
    assert (found["kind"], found["metric"], found["better"]) == ("language-modelling", "perplexity", "lower")
    values = {score["who"]: score["metrics"]["perplexity"] for score in found["scores"]}
    assert who(found) == ["parent", "parent", "ensemble"]
    assert values["ensemble"] < max(score["metrics"]["perplexity"] for score in found["scores"])
