"""The base of a merge beside its parents: what fits, what falls back, and one sentence for each thing that does not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.parent import Parent
from merging.plan import Plan, make_plan
from merging.recipe import recipe_from_dict
from merging.steps import Step
from merging.supply import disk_problem
from merging.tensors import HeaderSource, TensorSpec
from tests.tiny_models import save_tiny

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
HEAD = ("classifier.weight", "classifier.bias")
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parent]:
    """Two classifiers with the same labels, and the masked language model that they came from, which has no pooler."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny(folder / "one", seed=1)
    save_tiny(folder / "two", seed=2)
    save_tiny(folder / "base", seed=0, labels=None)
    return {name: open_parent(f"demo/{name}", folder / name) for name in ("one", "two", "base")}


def planned(parents: Sequence[Parent], base: Parent | None, method: str = "task_arithmetic", **more: Any) -> Plan:
    """The plan of these parents on that base."""
    wish = {"merge_method": method, "models": [parent.model for parent in parents], **more}
    return make_plan(recipe_from_dict(wish | {"base_model": base and base.model}), parents, base)


def pair(models: Mapping[str, Parent]) -> list[Parent]:
    """The two parents."""
    return [models["one"], models["two"]]


def with_specs(parent: Parent, specs: Mapping[str, TensorSpec | None]) -> Parent:
    """The parent with other headers; None removes a tensor."""
    merged = {**parent.source.specs, **specs}
    source = HeaderSource({name: spec for name, spec in merged.items() if spec is not None})
    return replace(parent, source=source, stamp=())


def changed(parent: Parent, **config: Any) -> Parent:
    """The parent with another config."""
    return replace(parent, config={**parent.config, **config})


def steps(plan: Plan) -> dict[str, Step]:
    """Every step by its name."""
    return {step.name: step for step in plan.raise_if_impossible().steps}


def sentence(plan: Plan, where: str = "base_model") -> str:
    """The only error, which stands beside its field."""
    (problem,) = plan.errors
    assert problem.where == where
    return str(problem)


def test_what_the_base_has_is_merged_and_what_it_lacks_is_averaged_with_the_reason(models: dict[str, Parent]) -> None:
    """The body is the method's; a head, and a pooler, that the base has not are averaged."""
    plan = planned(pair(models), models["base"])
    merged = {name for name, step in steps(plan).items() if step.action == "merge"}
    assert merged == set(models["one"].source.specs) - {*HEAD, *POOLER}
    assert plan.fallbacks == dict.fromkeys((*HEAD, *POOLER), "the base has no such tensor")
    assert all(step.inputs == (0, 1) for step in plan.steps)


def test_a_head_that_the_base_lacks_is_not_held_against_the_method(models: dict[str, Parent]) -> None:
    """A pooler that it lacks is told; a whole body would be no merge of this kind."""
    (warning,) = planned(pair(models), models["base"]).warnings
    assert str(warning).startswith("Task arithmetic cannot merge 2 of")
    assert "first bert.pooler" in str(warning)
    complete = [with_specs(parent, dict.fromkeys(POOLER)) for parent in pair(models)]
    assert not planned(complete, models["base"]).problems
    body = [name for name in models["base"].source.specs if ".encoder." in name]
    plan = planned(complete, with_specs(models["base"], dict.fromkeys(body)))
    assert sentence(plan, "models").startswith("Task arithmetic cannot merge 32 of")


def test_a_head_of_another_shape_in_the_base_is_averaged(models: dict[str, Parent]) -> None:
    """A base may be a classifier of something else; its body counts."""
    base = changed(replace(models["one"], model="demo/other", weights={}), id2label={"0": "no", "1": "yes"})
    spec = base.source.specs["classifier.weight"]
    base = with_specs(base, {"classifier.weight": replace(spec, shape=(3, 32))})
    plan = planned(pair(models), base)
    assert plan.fallbacks == {"classifier.weight": "it has another shape in the base"}


@pytest.mark.parametrize("labels", [("maybe", "never"), ("LABEL_0", "LABEL_1")])
def test_a_head_of_the_same_shape_and_other_labels_is_averaged(models: dict[str, Parent], labels: Any) -> None:
    """Rows of another meaning are no starting point of these."""
    base = changed(replace(models["two"], model="demo/other", weights={}), id2label=dict(enumerate(labels)))
    plan = planned([models["one"]], base)
    assert plan.fallbacks == dict.fromkeys(HEAD, "its labels are others in the base")


def test_one_model_beside_a_base_keeps_its_head_whatever_its_labels_are_called(models: dict[str, Parent]) -> None:
    """There is nobody to be told apart from."""
    alone = changed(models["one"], id2label={"0": "LABEL_0", "1": "LABEL_1"})
    plan = planned([alone], models["base"], "slerp")
    assert plan.head_rule == "merged"
    assert [output.folder for output in plan.outputs] == [""]


def test_a_method_without_its_base(models: dict[str, Parent]) -> None:
    """What is missing, at its field."""
    assert sentence(planned(pair(models), None)) == (
        "Task arithmetic needs the model that the others were fine-tuned from: the recipe names none. "
        "Name it as base_model, or use average."
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("one", "two"), "The recipe has 2 models beside the base: slerp takes exactly 1. Remove one."),
        (("base",), "The recipe has 0 models beside the base: slerp takes exactly 1. Add a model."),
    ],
)
def test_the_base_is_none_of_the_models_that_are_counted(
    models: dict[str, Parent], names: Sequence[str], said: str
) -> None:
    """A method's least and most count what is merged into the base."""
    wish = {"merge_method": "slerp", "models": [f"demo/{name}" for name in names], "base_model": "demo/base"}
    recipe = recipe_from_dict(wish)
    parents = [models[name] for name in names if name != "base"]
    assert sentence(make_plan(recipe, parents, models["base"]), "models") == said
    assert not planned([models["one"]], models["base"], "slerp").errors


def test_a_model_that_is_the_base_itself(models: dict[str, Parent]) -> None:
    """By its name at a commit, or byte for byte under another one."""
    one, two = pair(models)
    copy = replace(one, model="demo/copy")
    assert sentence(planned([two, one], copy), "models.1.model") == (
        "demo/one is the base model: its weights are those of demo/copy, byte for byte. Leave it out of the models."
    )
    pinned = replace(one, revision="0" * 40, weights={"model.safetensors": ""})
    recipe = recipe_from_dict(
        {"merge_method": "slerp", "models": [f"demo/one@{'0' * 40}"], "base_model": "demo/one@first"}
    )
    assert "demo/one is the base model" in sentence(make_plan(recipe, [pinned], pinned), "models.0.model")


def test_a_base_of_another_architecture(models: dict[str, Parent]) -> None:
    """Both classes stand in the sentence."""
    base = changed(models["base"], model_type="roberta", architectures=["RobertaForMaskedLM"])
    assert sentence(planned(pair(models), base)) == (
        "The base demo/base is a RobertaForMaskedLM: demo/one is a BertForSequenceClassification. "
        "Name the model that the others were fine-tuned from."
    )


def test_a_base_of_another_size(models: dict[str, Parent]) -> None:
    """The first tensor and both shapes."""
    spec = models["base"].source.specs[QUERY]
    base = with_specs(models["base"], {QUERY: replace(spec, shape=(64, 32))})
    assert sentence(planned(pair(models), base)) == (
        f"{QUERY} has shape [64, 32] in the base demo/base: it has [32, 32] in demo/one. "
        "Name the model that the others were fine-tuned from."
    )


def test_a_base_with_another_vocabulary(models: dict[str, Parent]) -> None:
    """By size, and by content when the size is the same."""
    other = replace(models["base"], vocabulary="ids:another")
    assert sentence(planned(pair(models), other)) == (
        "demo/base and demo/one have different vocabularies: the same size, but not the same tokens at the same ids. "
        "Name the model that the others were fine-tuned from."
    )
    assert "99 and 34 entries" in sentence(planned(pair(models), changed(models["base"], vocab_size=99)))


def test_a_base_that_computes_otherwise(models: dict[str, Parent]) -> None:
    """Numbers that shapes do not show."""
    found = sentence(planned(pair(models), changed(models["base"], num_attention_heads=8)))
    assert found.startswith("num_attention_heads is 8 in demo/base: it is 4 in demo/one")


def test_a_base_that_is_quantised_or_may_not_be_changed(models: dict[str, Parent]) -> None:
    """As for a model."""
    found = sentence(planned(pair(models), changed(models["base"], quantization_config={"bits": 4})))
    assert found.startswith("demo/base is quantised: its config says so")
    found = sentence(planned(pair(models), replace(models["base"], license="cc-by-nc-nd-4.0")))
    assert found.startswith("demo/base has the licence cc-by-nc-nd-4.0: it allows no derived works")


def test_a_base_that_no_method_needs_is_a_warning_and_nothing_else(models: dict[str, Parent]) -> None:
    """It is neither compared nor fetched."""
    plan = planned(pair(models), changed(models["base"], model_type="roberta"), "average")
    assert [str(problem) for problem in plan.problems] == [
        "base_model is not used: average needs no base. Leave it out."
    ]
    assert plan.fetch_base == ()


def test_the_base_is_counted_in_what_is_fetched_and_on_disk(models: dict[str, Parent]) -> None:
    """Weights, config and what says how they are laid out; nothing that is carried into the result."""
    remote = {name: replace(parent, revision="0" * 40) for name, parent in models.items()}
    without, plan = planned(pair(models), models["base"]), planned(pair(remote), remote["base"])
    assert without.download_bytes == 0
    assert plan.fetch_base == ("config.json", "model.safetensors")
    own = sum(remote["base"].files[name] for name in plan.fetch_base)
    parents = sum(remote[name].files[file] for index, name in enumerate(("one", "two")) for file in plan.fetch[index])
    assert plan.download_bytes == parents + own
    assert plan.disk_bytes > plan.download_bytes + plan.output_bytes  # there is one shard, which needs all of them
    assert disk_problem(plan.disk_bytes, plan.disk_bytes - 1) is not None


def test_another_base_is_another_plan(models: dict[str, Parent]) -> None:
    """Preview and worker compare their plans by the fingerprint, which knows the base and its revision."""
    plan = planned(pair(models), models["base"])
    assert plan.fingerprint == planned(pair(models), models["base"]).fingerprint
    assert plan.fingerprint != planned(pair(models), replace(models["base"], model="demo/base@abc")).fingerprint
    assert plan.as_dict()["base"] == "demo/base"


def test_weights_that_sum_to_zero_are_refused_where_a_tensor_has_to_be_averaged(models: dict[str, Parent]) -> None:
    """A difference of two models is a wish for the body; their heads have no average of such weights."""
    entries = [
        {"model": parent.model, "parameters": {"weight": weight}}
        for parent, weight in zip(pair(models), (1, -1), strict=True)
    ]
    plan = planned(pair(models), models["base"], models=entries)
    assert sentence(plan, "parameters.weight") == (
        "bert.pooler.dense.bias is averaged, and its weights sum to zero: the base has no such tensor. "
        "Change one of the weights."
    )


def saved(folder: Path, *, base: dict[str, Any], **more: Any) -> tuple[list[Parent], Parent]:
    """Two classifiers and their base, a classifier too, each written in its own way."""
    parents = [open_parent(f"demo/{seed}", save_tiny(folder / str(seed), seed=seed, **more)) for seed in (1, 2)]
    return parents, open_parent("demo/base", save_tiny(folder / "base", seed=0, **{**more, **base}))


def values(parent: Parent, name: str) -> torch.Tensor:
    """A whole tensor."""
    return parent.source.read(name).reshape(parent.source.specs[name].shape)


def test_a_base_with_its_labels_in_another_order_is_put_into_that_of_the_models(tmp_path: Path) -> None:
    """Merged head = base + (one - base) + (two - base), row by row of the same label."""
    parents, base = saved(tmp_path, base={"labels": ("yes", "no")})
    plan = planned(parents, base)
    run_to_end(merge(plan, parents, tmp_path / "out", base=base, threads=1))
    merged = open_parent("out", tmp_path / "out")
    for name in HEAD:
        rows = values(base, name)[[1, 0]]
        expected = values(parents[0], name) + values(parents[1], name) - rows
        torch.testing.assert_close(values(merged, name), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("written", ["no prefix", "gamma and beta"])
def test_a_base_written_in_another_way_is_the_same_base(tmp_path: Path, written: str) -> None:
    """A body without its prefix, norms by their old names."""
    parents, base = saved(tmp_path, base={})
    fingerprint = planned(parents, base).fingerprint
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    ways = {"no prefix": ("bert.", ""), "gamma and beta": ("LayerNorm.weight", "LayerNorm.gamma")}
    other = {name.replace(*ways[written]): value for name, value in tensors.items()}
    save_file(other, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    base = open_parent("demo/base", tmp_path / "base")
    plan = planned(parents, base)
    assert not plan.problems
    assert plan.fingerprint == fingerprint
    run_to_end(merge(plan, parents, tmp_path / "out", base=base, threads=1))
    merged = open_parent("out", tmp_path / "out")
    for name in ("bert.encoder.layer.1.output.LayerNorm.weight", QUERY):
        expected = values(parents[0], name) + values(parents[1], name) - tensors[name]
        torch.testing.assert_close(values(merged, name), expected, atol=1e-6, rtol=1e-5)
