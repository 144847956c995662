"""Plans: what can be known from headers, and one clear sentence for each thing that cannot work."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from merging.checkpoint import open_parent
from merging.parent import Parent, StatisticsFact
from merging.plan import Plan, make_plan
from merging.progress import size
from merging.recipe import recipe_from_dict
from merging.supply import disk_problem
from merging.tensors import HeaderSource, TensorSpec
from tests.tiny_models import save_tiny


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Parent]:
    """Two tiny classifiers with the same labels, headers only."""
    folder = tmp_path_factory.mktemp("pair")
    parents = [
        open_parent(f"demo/tiny-{name}", save_tiny(folder / name, seed=i)) for i, name in enumerate(("one", "two"))
    ]
    return [
        replace(parent, source=HeaderSource(parent.source.specs), stamp=(), revision="0" * 40) for parent in parents
    ]


def planned(parents: list[Parent], method: str = "average", **more: Any) -> Plan:
    """The plan of these parents."""
    models = [{"model": parent.model} for parent in parents]
    return make_plan(recipe_from_dict({"merge_method": method, "models": models, **more}), parents)


def changed(parent: Parent, **config: Any) -> Parent:
    """The parent with another config."""
    return replace(parent, config={**parent.config, **config})


def with_specs(parent: Parent, specs: Mapping[str, TensorSpec | None]) -> Parent:
    """The parent with other headers; None removes a tensor."""
    merged = {**parent.source.specs, **specs}
    source = HeaderSource({name: spec for name, spec in merged.items() if spec is not None})
    return replace(parent, source=source, stamp=())


def gram_fact(parent: Parent, **changes: Any) -> StatisticsFact:
    """Facts of a Gram file that covers every linear layer."""
    linear = {
        name: spec.shape[1]
        for name, spec in parent.source.specs.items()
        if len(spec.shape) == 2 and "embeddings" not in name
    }
    tokens = dict.fromkeys(linear, 10_000)
    fact = StatisticsFact("gram", f"{parent.model}-statistics", "", dict(parent.weights), linear, tokens, 100)
    return replace(fact, **changes)


def with_gram(parent: Parent, **changes: Any) -> Parent:
    """The parent with Gram statistics."""
    return replace(parent, statistics={"gram": gram_fact(parent, **changes)})


def sentence(plan: Plan) -> str:
    """The first error."""
    assert plan.errors, plan.problems
    return str(plan.errors[0])


def test_a_plan_needs_no_weights(pair: list[Parent]) -> None:
    """Headers suffice: reading a value would raise."""
    plan = planned(pair)
    assert not plan.problems
    assert plan.head_rule == "merged"
    assert plan.parameters(plan.outputs[0]) == sum(spec.numel for spec in pair[0].source.specs.values())
    assert plan.download_bytes > sum(parent.weight_bytes for parent in pair)
    assert json.dumps(plan.as_dict())


def test_the_same_wish_gives_the_same_fingerprint_and_another_does_not(pair: list[Parent]) -> None:
    """Preview and worker compare their plans by it."""
    assert planned(pair).fingerprint == planned(pair).fingerprint
    assert planned(pair).fingerprint != planned(pair, dtype="bfloat16").fingerprint
    assert planned(pair).fingerprint == planned(pair, output={"repo_id": "me/x"}).fingerprint


def test_different_labels_keep_the_heads_apart(pair: list[Parent]) -> None:
    """One output for each task, and one at the root; the body is planned once."""
    other = changed(pair[1], id2label={"0": "bad", "1": "good"})
    plan = planned([pair[0], other])
    assert plan.head_rule == "apart"
    assert [output.folder for output in plan.outputs] == ["", "one", "two"]
    body = [step.name for step in plan.shards[0].steps]
    assert not any(name.startswith("classifier") for name in body)
    assert [shard.path for shard in plan.shards] == [
        "model-00001-of-00002.safetensors",
        "one/model-00002-of-00002.safetensors",
        "two/model-00002-of-00002.safetensors",
    ]
    assert planned([pair[0], other], output={"root": "two"}).outputs[0].parent == 1


def test_heads_without_label_names_stay_apart_and_the_plan_says_why(pair: list[Parent]) -> None:
    """Never by luck of the index."""
    plan = planned([changed(parent, id2label={"0": "LABEL_0", "1": "LABEL_1"}) for parent in pair])
    assert plan.head_rule == "apart"
    assert "their labels have no names" in str(plan.warnings[0])


def test_labels_in_another_order_are_put_into_the_first_ones(pair: list[Parent]) -> None:
    """One merged head, and the plan says what was done."""
    plan = planned([pair[0], changed(pair[1], id2label={"0": "yes", "1": "no"})])
    assert plan.head_rule == "merged"
    assert str(plan.warnings[0]).startswith("demo/tiny-two has its labels in another order: the rows of its head")


def test_one_model_twice(pair: list[Parent]) -> None:
    """The same id, or other ids with the same bytes."""
    assert sentence(planned([pair[0], pair[0]])) == (
        "Models 1 and 2 are the same (demo/tiny-one): a model merged with itself is itself. "
        "Remove one, or give the other more weight."
    )
    copy = replace(pair[0], model="demo/copy")
    assert "byte for byte" in sentence(planned([pair[0], copy]))


def test_different_architectures_are_named(pair: list[Parent]) -> None:
    """Both classes stand in the sentence."""
    other = changed(pair[1], model_type="roberta", architectures=["RobertaForSequenceClassification"])
    assert sentence(planned([pair[0], other])) == (
        "demo/tiny-two is a RobertaForSequenceClassification: demo/tiny-one is a BertForSequenceClassification. "
        "Merge models of one architecture."
    )


def test_a_type_that_is_not_listed_is_merged_with_a_warning(pair: list[Parent]) -> None:
    """Value by value, by names and shapes alone; a config without a type is refused."""
    plan = planned([changed(parent, model_type="fancy") for parent in pair])
    assert not plan.errors
    assert str(plan.warnings[0]).startswith("The type fancy is not one that we have tested")
    nameless = planned([changed(parent, model_type=None) for parent in pair])
    assert sentence(nameless).startswith("The config of demo/tiny-one names no model_type")
    assert nameless.errors[0].where == "models.0.model"


def test_the_first_tensor_with_another_shape_is_named_with_both_shapes(pair: list[Parent]) -> None:
    """Name and both shapes."""
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    spec = pair[1].source.specs[name]
    other = with_specs(pair[1], {name: replace(spec, shape=(96, 32))})
    assert sentence(planned([pair[0], other])) == (
        f"{name} has shape [96, 32] in demo/tiny-two: it has [48, 32] in demo/tiny-one. Merge models of one size."
    )


def test_a_missing_tensor_is_named(pair: list[Parent]) -> None:
    """A tensor that only one model has is a problem, never dropped silently."""
    name = "bert.encoder.layer.0.output.dense.bias"
    assert sentence(planned([pair[0], with_specs(pair[1], {name: None})])).startswith(
        f"demo/tiny-two has no tensor {name}"
    )


def test_a_pooler_that_only_the_first_model_has_is_averaged_over_those_that_have_it(pair: list[Parent]) -> None:
    """transformers would make it up otherwise; the plan says so."""
    name = "bert.pooler.dense.weight"
    plan = planned([pair[0], with_specs(pair[1], {name: None})])
    assert [step.inputs for step in plan.steps if step.name == name] == [(0,)]
    assert plan.fallbacks[name] == "only 1 of 2 models have it"


@pytest.mark.parametrize(
    ("change", "why"),
    [({"vocab_size": 99}, "99 and 34 entries"), ({}, "the same size, but not the same tokens at the same ids")],
)
def test_different_vocabularies(pair: list[Parent], change: dict[str, int], why: str) -> None:
    """By size, and by content when the size is the same."""
    other = replace(changed(pair[1], **change), vocabulary="ids:another")
    assert sentence(planned([pair[0], other])) == (
        f"demo/tiny-two and demo/tiny-one have different vocabularies: {why}. Merge models that share one tokenizer."
    )


def test_numbers_that_shapes_do_not_show(pair: list[Parent]) -> None:
    """Another number of attention heads computes something else with the same shapes."""
    other = changed(pair[1], num_attention_heads=8)
    assert sentence(planned([pair[0], other])).startswith("num_attention_heads is 8 in demo/tiny-two: it is 4")


def test_a_method_without_its_statistics(pair: list[Parent]) -> None:
    """Says whose are missing and the three ways out; calibration text is one of them."""
    plan = planned([with_gram(pair[0]), pair[1]], "regmean")
    assert sentence(plan).startswith("demo/tiny-two has no Gram statistics: RegMean needs them of every model.")
    assert plan.errors[0].where == "models.1.model"
    assert not planned([with_gram(pair[0]), replace(pair[1], calibration=True)], "regmean").errors


def test_statistics_of_other_weights(pair: list[Parent]) -> None:
    """The file names the SHA-256 of the weights it was collected from."""
    stale = with_gram(pair[1], weights={"model.safetensors": "0" * 64})
    plan = planned([with_gram(pair[0]), stale], "regmean")
    assert sentence(plan).startswith("The Gram statistics at demo/tiny-two-statistics belong to other weights")


def test_statistics_of_another_size(pair: list[Parent]) -> None:
    """A Gram matrix has as many rows as its layer has inputs."""
    name = "bert.encoder.layer.0.attention.self.query.weight"
    wrong = with_gram(pair[1], keys={name: 31}, tokens={name: 100})
    assert f"do not fit {name}: they have size 31, the layer needs 32" in sentence(
        planned([with_gram(pair[0]), wrong], "regmean")
    )


def test_few_tokens_are_a_warning(pair: list[Parent]) -> None:
    """Fewer tokens than inputs: the solve leans on the ridge and the file tells more than its owner may want."""
    fact = gram_fact(pair[1])
    few = with_gram(pair[1], tokens=dict.fromkeys(fact.keys, 20))
    plan = planned([with_gram(pair[0]), few], "regmean")
    assert not plan.errors
    assert "come from few tokens: 20 for the 48 inputs of" in str(plan.warnings[0])


def test_a_layer_without_a_gram_is_averaged_and_named(pair: list[Parent]) -> None:
    """A step falls back with its reason; when most do, it is not that method's merge."""
    name = "bert.pooler.dense.weight"
    fact = gram_fact(pair[1])
    partly = with_gram(pair[1], keys={key: size for key, size in fact.keys.items() if key != name})
    plan = planned([with_gram(pair[0]), partly], "regmean")
    assert plan.fallbacks == {name: "no Gram of it for demo/tiny-two"}
    assert not plan.errors
    mostly = with_gram(pair[1], keys={name: 32}, tokens={name: 99})
    assert sentence(planned([with_gram(pair[0]), mostly], "regmean")).startswith("RegMean cannot merge 13 of 14")


def test_a_licence_that_allows_no_derived_work(pair: list[Parent]) -> None:
    """No-derivatives licences stop the merge."""
    plan = planned([pair[0], replace(pair[1], license="cc-by-nc-nd-4.0")])
    assert sentence(plan).startswith("demo/tiny-two has the licence cc-by-nc-nd-4.0: it allows no derived works")


def test_a_root_that_is_no_task(pair: list[Parent]) -> None:
    """The tasks are listed."""
    assert sentence(planned(pair, output={"root": "three"})).startswith(
        "There is no task three: the tasks are one, two"
    )


def test_one_model_alone_for_a_method_of_two(pair: list[Parent]) -> None:
    """How many a method takes."""
    assert sentence(planned(pair[:1], "fisher")).startswith("The recipe has 1 model: fisher takes at least 2")


def test_not_enough_disk(pair: list[Parent]) -> None:
    """Need and free space in numbers."""
    plan = planned(pair)
    assert disk_problem(plan.disk_bytes, 10**12) is None
    needed = size(plan.disk_bytes)
    assert plan.disk_words == f"downloads {size(plan.download_bytes)}, needs at most {needed} of disk at a time"
    assert str(disk_problem(plan.disk_bytes, 1000)) == (
        f"Not enough disk: this merge needs up to {needed} at a time, 1.0 kB are free. "
        "Free some space, or take smaller models."
    )


def test_plans_from_headers_and_from_files_agree(tmp_path: Path) -> None:
    """The preview's plan is the worker's plan."""
    folders = [save_tiny(tmp_path / str(seed), "llama", seed=seed, labels=None) for seed in range(2)]
    parents = [open_parent(f"a/{folder.name}", folder) for folder in folders]
    remote = [replace(parent, source=HeaderSource(parent.source.specs), stamp=()) for parent in parents]
    assert planned(parents).fingerprint == planned(remote).fingerprint


def test_a_config_that_names_no_class_is_refused_when_there_is_a_head(pair: list[Parent]) -> None:
    """Without a class nothing says what a head is for."""
    plan = planned([changed(parent, architectures=None) for parent in pair])
    assert sentence(plan).startswith("The config of demo/tiny-one names no class (architectures)")


def test_quantised_weights_are_refused(pair: list[Parent]) -> None:
    """By the config, and by codes in place of weights."""
    assert sentence(planned([pair[0], changed(pair[1], quantization_config={"bits": 8})])).startswith(
        "demo/tiny-two is quantised: its config says so."
    )
    name = "bert.pooler.dense.weight"
    codes = with_specs(pair[1], {name: replace(pair[1].source.specs[name], dtype=torch.int8)})
    assert sentence(planned([pair[0], codes])).startswith(f"demo/tiny-two is quantised: {name} holds codes")


def test_mixed_dtypes_are_a_warning_that_names_the_winner(pair: list[Parent]) -> None:
    """The first model's format wins unless the recipe says."""
    half = with_specs(pair[1], {n: replace(s, dtype=torch.float16) for n, s in pair[1].source.specs.items()})
    plan = planned([pair[0], half])
    assert "stored as float16, float32: the result is float32" in str(plan.warnings[0])
    assert not planned([pair[0], half], dtype="float16").warnings


def test_a_task_is_not_named_like_a_file(pair: list[Parent]) -> None:
    """It becomes a folder beside the files of the root."""
    models = [{"model": parent.model, "task": task} for parent, task in zip(pair, ("config.json", "b"), strict=True)]
    plan = make_plan(recipe_from_dict({"merge_method": "average", "models": models}), pair)
    assert sentence(plan).startswith("The task config.json is named like a file")


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> list[Parent]:
    """Two tiny causal language models, untied."""
    folder = tmp_path_factory.mktemp("decoders")
    return [open_parent(f"demo/{i}", save_tiny(folder / str(i), "llama", seed=i, labels=None)) for i in range(2)]


def test_another_rotary_base_is_refused_however_it_is_written(decoders: list[Parent]) -> None:
    """transformers 4 and 5 write it in different places."""
    old = changed(decoders[1], rope_parameters=None, rope_theta=1e6)
    new = changed(decoders[1], rope_parameters={"rope_theta": 1e6}, rope_theta=None)
    for other in (old, new):
        assert sentence(planned([decoders[0], other])).startswith("rope_theta is 1000000.0 in demo/1: it is 10000.0")
    assert not planned([decoders[0], changed(decoders[1], rope_parameters=None, rope_theta=10000)]).errors


def test_copies_of_tied_embeddings_are_dropped_and_mixed_tying_is_refused(decoders: list[Parent]) -> None:
    """A tied model's stored copy says nothing; a tied and an untied model do not compute the same."""
    tied = [changed(parent, tie_word_embeddings=True) for parent in decoders]
    assert "lm_head.weight" not in [step.name for step in planned(tied).steps]
    assert "lm_head.weight" in [step.name for step in planned(decoders).steps]
    without = with_specs(tied[1], {"lm_head.weight": None})
    assert not planned([tied[0], without]).errors
    assert sentence(planned([tied[0], decoders[1]])).startswith("tie_word_embeddings is False in demo/1: it is True")


def test_a_head_of_another_shape_is_refused_where_heads_have_no_labels(decoders: list[Parent]) -> None:
    """Language heads are merged like any layer, so they must fit."""
    name = "lm_head.weight"
    other = with_specs(decoders[1], {name: replace(decoders[1].source.specs[name], shape=(35, 32))})
    assert sentence(planned([decoders[0], other])).startswith(f"{name} has shape [35, 32] in demo/1")
    assert sentence(planned([decoders[0], with_specs(decoders[1], {name: None})])).startswith("demo/1 has no tensor")


def test_a_recipe_without_models_is_one_sentence() -> None:
    """The form before anything is picked, and an empty list in a file."""
    plan = make_plan(recipe_from_dict({"merge_method": "average", "models": []}), [])
    assert sentence(plan) == "The recipe has 0 models: average takes at least 2. Add a model."
