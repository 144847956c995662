"""Checkpoints of one architecture, written differently: each merges to what it would have merged to, or says why.

Real models are saved, then rewritten as old or other programs wrote them; the merged model is compared with the merge
of the untouched ones and loaded by plain transformers.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging.calibrate import collect
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.plan import Plan, make_plan
from merging.recipe import recipe_from_dict
from merging.statistics import Statistics
from tests.tiny_models import save_tiny, sentences

torch.set_num_threads(1)
TEXTS = sentences(30)
Tensors = dict[str, Tensor]


def rewrite(folder: Path, change: Callable[[Tensors], Tensors], **config: Any) -> Path:
    """The weights of a saved model under other names; `config` overrides keys of its config.json (None drops one)."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    path = folder / "config.json"
    kept = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))
    return folder


def without_prefix(prefix: str) -> Callable[[Tensors], Tensors]:
    """As a program that saves the body alone names it."""
    return lambda tensors: {name.removeprefix(prefix): value for name, value in tensors.items()}


def legacy(tensors: Tensors) -> Tensors:
    """Norms as in the first checkpoints, and the buffer of positions that those held."""
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    return old | {"bert.embeddings.position_ids": torch.arange(64)[None]}


def collected(folder: Path) -> Statistics:
    """Gram statistics of a model as it lies there."""
    _exhaust(collect("gram", folder, TEXTS, folder / "gram.safetensors", examples=30, max_length=16))
    return Statistics(folder / "gram.safetensors")


def _exhaust(work: Iterator[Any]) -> None:
    for _ in work:
        pass


def merged(folders: list[Path], out: Path, method: str = "regmean") -> tuple[Plan, Tensors]:
    """Plan and merged weights of the root model."""
    files = [{"gram": collected(folder)} for folder in folders] if method == "regmean" else [{} for _ in folders]
    parents = [
        replace(open_parent(str(folder), folder), statistics={kind: file.fact for kind, file in own.items()})
        for folder, own in zip(folders, files, strict=True)
    ]
    models = [{"model": str(folder)} for folder in folders]
    plan = make_plan(recipe_from_dict({"merge_method": method, "models": models}), parents)
    assert not plan.errors, plan.errors
    run_to_end(merge(plan, parents, out, statistics=files, threads=1))
    tensors: Tensors = {}
    for file in sorted(out.glob("*.safetensors")):
        tensors |= load_file(file)
    return plan, tensors


def loads_whole(folder: Path) -> Any:
    """transformers finds every tensor and wants no other."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def equal(found: Tensors, wanted: Tensors) -> None:
    """The same names and, to rounding, the same values."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize("change", [without_prefix("bert."), legacy], ids=["no prefix", "gamma and beta"])
def test_other_names_merge_as_if_they_were_the_usual_ones(
    tmp_path: Path, change: Callable[[Tensors], Tensors], other: int
) -> None:
    """Whichever of the models has them; Gram matrices are found under each model's own names."""
    plain = [save_tiny(tmp_path / f"plain{seed}", seed=seed) for seed in range(2)]
    mixed = [save_tiny(tmp_path / f"mixed{seed}", seed=seed) for seed in range(2)]
    rewrite(mixed[other], change)
    plan, wanted = merged(plain, tmp_path / "wanted")
    rewritten, found = merged(mixed, tmp_path / "found")
    assert not {**plan.fallbacks, **rewritten.fallbacks}
    loads_whole(tmp_path / "found")
    equal({name if name in wanted else f"bert.{name}": value for name, value in found.items()}, wanted)


@pytest.mark.parametrize("shown", ["model.encoder.embed_tokens.weight", "lm_head.weight"])
def test_one_name_of_tied_embeddings_is_enough(tmp_path: Path, shown: str) -> None:
    """Old BART files hold the word embeddings under one of their other names."""
    plain = [save_tiny(tmp_path / f"plain{seed}", "bart", seed=seed, labels=None) for seed in range(2)]
    mixed = [save_tiny(tmp_path / f"mixed{seed}", "bart", seed=seed, labels=None) for seed in range(2)]

    def change(tensors: Tensors) -> Tensors:
        return {shown if name == "model.shared.weight" else name: value for name, value in tensors.items()}

    rewrite(mixed[1], change)
    equal(merged(mixed, tmp_path / "found", "average")[1], merged(plain, tmp_path / "wanted", "average")[1])
    loads_whole(tmp_path / "found")


def untie(folder: Path, seed: int, **config: Any) -> Path:
    """A T5 with an output layer of its own, as version 1.1 and Flan are stored."""
    head = torch.randn(34, 32, generator=torch.Generator().manual_seed(seed))
    return rewrite(folder, lambda tensors: tensors | {"lm_head.weight": head}, **config)


@pytest.mark.slow
def test_t5_with_an_output_layer_of_its_own_keeps_it(tmp_path: Path) -> None:
    """One saved by transformers 4 (tie_word_embeddings: false), one by 5 (scale_decoder_outputs: false)."""
    old = untie(
        save_tiny(tmp_path / "old", "t5 (gated)", labels=None), 1, tie_word_embeddings=False, scale_decoder_outputs=None
    )
    new = untie(save_tiny(tmp_path / "new", "t5 (gated)", seed=1, labels=None), 2)
    assert json.loads((new / "config.json").read_text())["scale_decoder_outputs"] is False
    plan, tensors = merged([old, new], tmp_path / "out")
    assert not plan.fallbacks
    parts = [load_file(folder / "model.safetensors")["lm_head.weight"] for folder in (old, new)]
    assert not torch.equal(tensors["lm_head.weight"], (parts[0] + parts[1]) / 2)
    model = loads_whole(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, tensors["lm_head.weight"])


def test_a_t5_that_scales_its_output_does_not_merge_with_one_that_does_not(tmp_path: Path) -> None:
    """They do not compute the same, and the sentence says in what they differ."""
    tied = save_tiny(tmp_path / "tied", "t5 (gated)", labels=None, tie_word_embeddings=True)
    untied = untie(save_tiny(tmp_path / "untied", "t5 (gated)", seed=1, labels=None), 2)
    recipe = recipe_from_dict({"merge_method": "average", "models": [{"model": str(f)} for f in (tied, untied)]})
    plan = make_plan(recipe, [open_parent(str(folder), folder) for folder in (tied, untied)])
    assert str(plan.errors[0]).startswith("tie_word_embeddings is False in ")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", pytest.param("bart", marks=pytest.mark.slow)])
def test_labels_in_another_order_are_matched_by_name(tmp_path: Path, kind: str) -> None:
    """The merged head answers as the merge of models with one order does; a Gram is not touched by it."""
    labels, turned = ["no", "yes", "so"], [2, 0, 1]
    plain = [save_tiny(tmp_path / f"plain{seed}", kind, seed=seed, labels=labels) for seed in range(2)]
    mixed = [save_tiny(tmp_path / f"mixed{seed}", kind, seed=seed, labels=labels) for seed in range(2)]

    def change(tensors: Tensors) -> Tensors:
        return {
            name: value[turned] if name.startswith("class") and len(value) == 3 else value
            for name, value in tensors.items()
        }

    order = {str(index): labels[old] for index, old in enumerate(turned)}
    rewrite(mixed[1], change, id2label=order, label2id={label: int(index) for index, label in order.items()})
    plan, found = merged(mixed, tmp_path / "found")
    assert (plan.head_rule, plan.fallbacks) == ("merged", {})
    assert "has its labels in another order" in str(plan.warnings)
    equal(found, merged(plain, tmp_path / "wanted")[1])
    assert loads_whole(tmp_path / "found").config.id2label == dict(enumerate(labels))


def test_classes_of_one_architecture_share_a_body_and_keep_their_heads(tmp_path: Path) -> None:
    """A text classifier (with a pooler), a token classifier (without) and a language model."""
    text = save_tiny(tmp_path / "topic", seed=1)
    tokens = save_tiny(tmp_path / "entities", seed=2, kind="bert")
    config = transformers.AutoConfig.from_pretrained(tokens)
    model = transformers.AutoModelForTokenClassification.from_pretrained(tokens, config=config)
    model.save_pretrained(tokens)
    words = save_tiny(tmp_path / "words", seed=3, labels=None)
    plan, _ = merged([text, tokens, words], tmp_path / "out", "average")
    assert plan.head_rule == "apart"
    names = {folder: type(loads_whole(tmp_path / "out" / folder)).__name__ for folder in ("topic", "entities", "words")}
    assert names == {
        "topic": "BertForSequenceClassification",
        "entities": "BertForTokenClassification",
        "words": "BertForMaskedLM",
    }
    bodies = {folder: load_file(next((tmp_path / "out" / folder).glob("model-00001*"))) for folder in names}
    assert all(body.keys() == bodies["topic"].keys() for body in bodies.values())


def test_one_number_and_two_classes_keep_their_own_heads(tmp_path: Path) -> None:
    """The same question answered in two ways cannot be one head; the plan says so."""
    pair = [save_tiny(tmp_path / "two"), save_tiny(tmp_path / "one", seed=1, labels=("score",))]
    plan, _ = merged(pair, tmp_path / "out", "average")
    assert plan.head_rule == "apart"
    assert "answers with one number" in str(plan.warnings[0])
    for folder, count in (("two", 2), ("one", 1)):
        assert loads_whole(tmp_path / "out" / folder).config.num_labels == count


@pytest.mark.parametrize("kind", ["QuestionAnswering", "TokenClassification"])
def test_heads_with_one_meaning_are_merged(tmp_path: Path, kind: str) -> None:
    """Start and end of an answer, and labels with the same names."""
    folders = []
    for seed in range(2):
        folder = save_tiny(tmp_path / str(seed), "distilbert", seed=seed, labels=("O", "B"))
        loader = getattr(transformers, f"AutoModelFor{kind}")
        torch.manual_seed(seed)
        loader.from_pretrained(folder).save_pretrained(folder)
        folders.append(folder)
    plan, tensors = merged(folders, tmp_path / "out")
    head = "qa_outputs.weight" if kind == "QuestionAnswering" else "classifier.weight"
    assert (plan.head_rule, plan.fallbacks) == ("merged", {})
    assert next(step for step in plan.steps if step.name == head).action == "merge"
    assert tensors[head].shape == (2, 32)
    loads_whole(tmp_path / "out")


def test_a_model_that_would_mostly_fall_back_is_a_problem(tmp_path: Path) -> None:
    """A type that is not listed, without statistics for most of its matrices."""
    folders = [
        rewrite(save_tiny(tmp_path / str(seed), seed=seed), lambda tensors: tensors, model_type="bert")
        for seed in range(2)
    ]
    files = [collected(folder) for folder in folders]
    few = {name: size for name, size in files[1].fact.keys.items() if "layer.0.attention" in name}
    parents = [
        replace(open_parent(str(folder), folder), statistics={"gram": replace(file.fact, keys=few)})
        for folder, file in zip(folders, files, strict=True)
    ]
    recipe = recipe_from_dict({"merge_method": "regmean", "models": [{"model": str(f)} for f in folders]})
    plan = make_plan(recipe, parents)
    assert "RegMean cannot merge" in str(plan.errors[0])
    assert "Collect the statistics anew" in str(plan.errors[0])
