"""What a plan expects of RegMean, from the headers of statistics that real models gave."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from merging.calibrate import collect
from merging.checkpoint import open_parent
from merging.parent import Parent
from merging.plan import Plan, make_plan
from merging.recipe import recipe_from_dict
from merging.statistics import Statistics
from tests.tiny_models import save_tiny, sentences

torch.set_num_threads(1)
LAYER = "bert.encoder.layer.1.output.dense.weight"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Parent]:
    """Two tiny classifiers with statistics."""
    folder, parents = tmp_path_factory.mktemp("pair"), []
    for seed in range(2):
        model = save_tiny(folder / str(seed), seed=seed)
        for _ in collect("gram", model, sentences(20, seed), model / "gram.safetensors", examples=20, max_length=16):
            pass
        fact = Statistics(model / "gram.safetensors").fact
        parents.append(replace(open_parent(f"demo/{seed}", model), statistics={"gram": fact}))
    return parents


def planned(parents: list[Parent]) -> Plan:
    """A RegMean of them."""
    models = [{"model": parent.model} for parent in parents]
    return make_plan(recipe_from_dict({"merge_method": "regmean", "models": models}), parents)


def hotter(parent: Parent, factor: float) -> Parent:
    """The parent with one layer whose inputs are larger."""
    fact = parent.statistics["gram"]
    traces = {name: trace * (factor if name == LAYER else 1) for name, trace in fact.traces.items()}
    return replace(parent, statistics={"gram": replace(fact, traces=traces)})


def test_models_that_are_apart_are_worth_the_method(pair: list[Parent]) -> None:
    """The distance is that of the weights, to what a sketch can tell."""
    plan = planned(pair)
    assert plan.expectation.startswith("RegMean should be better than the average: the models are ")
    layers = [name for name in pair[0].statistics["gram"].sketches if "classifier" not in name]
    weights = [[parent.source.read(name).double() for name in layers] for parent in pair]
    apart = sum(float((a - b).square().sum()) for a, b in zip(*weights, strict=True))
    true = (apart / (sum(float(w.square().sum()) for own in weights for w in own) / 2)) ** 0.5
    told = float(plan.expectation.split("models are ")[1].partition("%")[0]) / 100
    assert told == pytest.approx(true, rel=0.2)
    assert plan.as_dict()["expectation"] == plan.expectation


def test_an_average_of_several_tasks_is_told_of_regmean(tmp_path: Path) -> None:
    """Whoever does not know the methods hears of the better one; with one label set there is nothing to say."""
    folders = [save_tiny(tmp_path / "a", labels=("x", "y")), save_tiny(tmp_path / "b", seed=2, labels=("z", "w"))]
    folders.append(save_tiny(tmp_path / "c", seed=1, labels=("x", "y")))
    one, other, same = (open_parent(str(folder), folder) for folder in folders)

    def told(*parents: Parent) -> str:
        models = [parent.model for parent in parents]
        return make_plan(recipe_from_dict({"merge_method": "average", "models": models}), parents).expectation

    assert told(one, other).startswith("These models have tasks of their own, of which RegMean usually keeps more")
    assert told(one, same) == ""


def test_models_that_are_close_need_no_method(pair: list[Parent]) -> None:
    """The average is as good."""
    fact = pair[0].statistics["gram"]
    near = {name: tuple(value * 1.01 for value in values) for name, values in fact.sketches.items()}
    second = replace(
        pair[1], statistics={"gram": replace(pair[1].statistics["gram"], sketches=near, traces=fact.traces)}
    )
    assert planned([pair[0], second]).expectation.startswith("RegMean and the average will be about as good")


@pytest.mark.parametrize(("factor", "words"), [(30, "will hardly be better than the average"), (7, "may not help")])
def test_inputs_of_another_size_are_a_warning(pair: list[Parent], factor: float, words: str) -> None:
    """With the layer and both models, as after training at a high learning rate."""
    same = replace(
        pair[1], statistics={"gram": replace(pair[1].statistics["gram"], traces=pair[0].statistics["gram"].traces)}
    )
    plan = planned([pair[0], hotter(same, factor)])
    assert plan.expectation == ""
    (warning,) = [str(problem) for problem in plan.warnings if "than in" in problem.why]
    assert warning.startswith(f"RegMean {words}")
    assert f"the inputs of {LAYER} are {factor} times larger in demo/1 than in demo/0" in warning


def test_older_files_tell_nothing(pair: list[Parent], tmp_path: Path) -> None:
    """No traces, no sketches: nothing is said."""
    old = [
        replace(parent, statistics={"gram": replace(parent.statistics["gram"], traces={}, sketches={})})
        for parent in pair
    ]
    plan = planned(old)
    assert (plan.expectation, plan.errors) == ("", ())
