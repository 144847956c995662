"""The diagonal Fisher of every head against plain autograd: one backward pass for each example and each outcome."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from merging.calibrate import collect
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.errors import InputError
from merging.fishers import CLASSES, FisherCollector
from merging.objectives import Decisions, Head
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from merging.statistics import Statistics, check_values
from merging.variants import EXACT_AT_MOST, Output, Variant, variant_of
from tests.tiny_models import pictures, save_tiny, sentences, tiny_config

torch.set_num_threads(1)
TEXTS = sentences(11, seed=5)
PAIRS = list(zip(sentences(3, seed=5), sentences(3, seed=6), strict=True))
THREE = ("no", "yes", "so")


def fisher_of(folder: Path, examples: list[Any], **options: Any) -> Statistics:
    """Collect from all examples."""
    out = folder.parent / f"{folder.name}-fisher.safetensors"
    options = {"examples": len(examples), "max_length": 32, **options}
    list(collect("fisher", folder, examples, out, **options))
    check_values(out)
    return Statistics(out)


def save_head(folder: Path, kind: str, auto: Any, **changes: Any) -> Path:
    """A tiny model with a head that `save_tiny` does not make."""
    save_tiny(folder, kind)
    torch.manual_seed(1)
    model = auto.from_config(tiny_config(kind, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)  # no two tensors alike
    model.save_pretrained(folder)
    return folder


def loaded(folder: Path) -> tuple[Any, Any]:
    """Model in eval mode and tokenizer, by plain transformers."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder, attn_implementation="eager")
    return model.eval(), None if config.model_type == "vit" else transformers.AutoTokenizer.from_pretrained(folder)


def reference(model: Any, inputs: list[Any], objective: Any) -> dict[str, Tensor]:
    """E of the squared gradient by parameter name: a backward pass for each (value, weight) of `objective`."""
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in model.named_parameters()}
    for index, example in enumerate(inputs):
        values, weights = objective(model(**example), index)
        for value, weight in zip(values, weights, strict=True):
            model.zero_grad()
            value.backward(retain_graph=True)
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    total[name] += float(weight) * parameter.grad.double().square()
    return {name: value / len(inputs) for name, value in total.items()}


def on_disk(folder: Path, model: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same by disk name, found by comparing values; packed experts are compared one by one."""
    pieces: list[tuple[Tensor, Tensor]] = []
    for name, parameter in model.named_parameters():
        pieces.append((parameter, found[name]))
        if parameter.dim() == 3:
            for weight, value in zip(parameter, found[name], strict=True):
                pieces += [(weight, value), *zip(weight.chunk(2), value.chunk(2), strict=True)]
    named = {}
    for name, stored in load_file(folder / "model.safetensors").items():
        for weight, value in pieces:
            if weight.shape == stored.shape and torch.equal(weight, stored):
                named[name] = value
                break
    return named


def compare(statistics: Statistics, folder: Path, model: Any, found: dict[str, Tensor]) -> None:
    """Every tensor on disk has the expected Fisher, or is skipped by name."""
    expected = on_disk(folder, model, found)
    assert set(statistics.fact.keys) == set(expected)
    skipped = json.loads(statistics.metadata["skipped"])
    assert set(statistics.fact.keys) | set(skipped) >= set(load_file(folder / "model.safetensors"))
    assert not set(statistics.fact.keys) & set(skipped)
    largest = max(float(value.max()) for value in expected.values())
    assert largest > 0
    for name, value in expected.items():
        got = statistics.read(name).reshape(value.shape).double()
        # to 1e-4 of the tensor, but for what is 0 and rounding (a key's bias moves no softmax)
        assert float((got - value).norm()) <= 1e-4 * float(value.norm()) + 1e-10 * largest, name


def classes(outputs: Any, index: int = 0) -> tuple[Any, Any]:
    """log p and p of one example."""
    return outputs.logits[0].log_softmax(-1), outputs.logits[0].softmax(-1).detach()


KINDS = [
    ("bert", 3),
    ("bert", CLASSES + 3),
    ("gpt2", 2),
    ("llama", 3),
    ("deberta-v2", 3),  # one key_proj for tokens and for relative positions
    ("distilbert", 3),
    ("modernbert", 3),
    ("mixtral", 3),
    ("qwen3_moe", 2),
    ("t5", 2),
    ("bart", 2),
]


@pytest.mark.parametrize(("kind", "many"), KINDS)
def test_a_text_classifier_has_the_exact_expectation_per_example(tmp_path: Path, kind: str, many: int) -> None:
    """Every tensor on disk has Σ_y p(y|x)(∂log p(y|x)/∂θ)², averaged over examples: embeddings, norms, experts."""
    folder = save_tiny(tmp_path / "model", kind, labels=[f"l{i}" for i in range(many)])
    texts = [*TEXTS[:2], "[PAD] one one two"]  # a token twice, and one that padding_idx keeps from learning
    texts = TEXTS[:3] if kind in ("t5", "bart", "llama", "mixtral", "qwen3_moe") else texts  # these look for the end
    statistics = fisher_of(folder, texts)
    model, tokenizer = loaded(folder)
    inputs = [tokenizer(text, return_tensors="pt") for text in texts]
    inputs = [{key: value for key, value in one.items() if key != "token_type_ids" or kind == "bert"} for one in inputs]
    compare(statistics, folder, model, reference(model, inputs, classes))
    assert (statistics.metadata["variant"], statistics.metadata["output"]) == ("exact", "classes")
    assert set(statistics.fact.tokens.values()) == {3}


def test_experts_on_disk_each_have_their_own_part_of_the_packed_gradient(tmp_path: Path) -> None:
    """Gate, up and down of every expert, by the names in the file, and nothing of the packed parameter is skipped."""
    folder = save_tiny(tmp_path / "model", "mixtral", labels=THREE)
    statistics = fisher_of(folder, TEXTS[:2])
    experts = [name for name in statistics.fact.keys if ".experts." in name]
    assert len(experts) == 2 * 4 * 3
    assert json.loads(statistics.metadata["skipped"]) == {}


def test_an_image_classifier_has_the_exact_expectation(tmp_path: Path) -> None:
    """ViT: the patch convolution, class token and positions too."""
    folder = save_tiny(tmp_path / "model", "vit", labels=THREE)
    images = pictures(3)
    statistics = fisher_of(folder, images)
    model, _ = loaded(folder)
    processor = transformers.ViTImageProcessorPil.from_pretrained(folder)
    inputs = [processor(image, return_tensors="pt") for image in images]
    compare(statistics, folder, model, reference(model, inputs, classes))
    assert "vit.embeddings.patch_embeddings.projection.weight" in statistics.fact.keys


def test_it_is_not_the_square_of_the_batch_gradient(tmp_path: Path) -> None:
    """Squaring after the mean over examples loses most of it."""
    folder = save_tiny(tmp_path / "bert", labels=("a", "b", "c"))
    statistics = fisher_of(folder, TEXTS)
    model, tokenizer = loaded(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    logs = model(**batch).logits.log_softmax(-1)
    name = "bert.encoder.layer.0.output.dense.weight"
    weight = model.get_parameter(name)
    squared = torch.zeros_like(weight)
    for label in range(3):
        gradient = torch.autograd.grad((logs[:, label]).mean(), weight, retain_graph=True)[0]
        squared += logs[:, label].exp().mean().detach() * gradient.square()
    assert float(squared.sum()) < 0.9 * statistics.moments(name)[1]


def test_gradients_that_do_not_fit_at_once_come_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One class at a time gives the same as all at once."""
    folder = save_tiny(tmp_path / "gpt2", "gpt2", labels=THREE)
    whole = fisher_of(folder, TEXTS[:2])
    before = {name: whole.read(name) for name in whole.fact.keys}
    monkeypatch.setattr("merging.fishers.PLAIN_BYTES", 1)
    single = fisher_of(folder, TEXTS[:2])
    for name, values in before.items():
        torch.testing.assert_close(single.read(name), values, rtol=1e-4, atol=1e-9)


class OneLayer(nn.Module):
    """Logits Wx: the golden case's model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3, bias=False)
        self.layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])

    def forward(self, x: Tensor) -> Any:
        """The logits as transformers gives them."""
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=self.layer(x))


def test_golden_fisher_of_a_softmax_head() -> None:
    """p_c(1−p_c) x_j²."""
    collector = FisherCollector(OneLayer(), ["layer.weight"], Head("classes"), "exact")
    collector.add({"x": torch.tensor([[1.0, 2.0]])}, torch.Generator())
    golden = torch.tensor([[0.184836, 0.739346], [0.222695, 0.890782], [0.081925, 0.327700]])
    torch.testing.assert_close(collector.means()["layer.weight"], golden, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("problem", "many"),
    [("regression", 1), ("regression", 2), ("multi_label_classification", 3), ("multi_label_classification", 1)],
)
def test_numbers_and_independent_labels(tmp_path: Path, problem: str, many: int) -> None:
    """A number, or several: (∂z)². Independent labels, a single one included: Σ p(1−p)(∂z)²."""
    folder = save_tiny(tmp_path / "bert", labels=[f"l{i}" for i in range(many)], problem_type=problem)
    statistics = fisher_of(folder, TEXTS[:3])
    model, tokenizer = loaded(folder)

    def objective(outputs: Any, index: int) -> tuple[Any, Any]:
        p = outputs.logits[0].detach().sigmoid()
        return outputs.logits[0], torch.ones(many) if problem == "regression" else p * (1 - p)

    found = reference(model, [tokenizer(text, return_tensors="pt") for text in TEXTS[:3]], objective)
    compare(statistics, folder, model, found)
    assert statistics.metadata["output"] == ("numbers" if problem == "regression" else "labels")


def test_independent_decisions_have_no_cross_terms() -> None:
    """The expectation over all 27 sequences of labels, of the squared gradient of the sum, is the closed form."""
    torch.manual_seed(0)
    weight, x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    decisions = Decisions("one of several", x @ weight.T)
    expected = torch.zeros_like(weight)
    for labels in product(range(3), repeat=3):
        value = decisions.log_probability(torch.tensor(labels))
        gradient = torch.autograd.grad(value, weight, retain_graph=True)[0]
        expected += value.exp().detach() * gradient.square()
    values, scales = decisions.exact()
    got = torch.zeros_like(weight)
    for value, scale in zip(values, scales, strict=True):
        got += scale * torch.autograd.grad(value, weight, retain_graph=True)[0].square()
    torch.testing.assert_close(got, expected.detach())


@pytest.mark.parametrize("family", ["one of several", "yes or no", "number"])
def test_drawn_answers_give_the_closed_form_on_average(family: Any) -> None:
    """The mean over 4,000 draws of the squared gradient of log p is the exact Fisher, for every kind of decision."""
    torch.manual_seed(0)
    logits = torch.randn((2, 3) if family == "one of several" else (4,), requires_grad=True)
    decisions, generator = Decisions(family, logits), torch.Generator().manual_seed(0)
    drawn = torch.zeros_like(logits)
    for _ in range(4000):
        value = decisions.log_probability(decisions.draw(generator))
        drawn += torch.autograd.grad(value, logits, retain_graph=True)[0].square() / 4000
    exact = torch.zeros_like(logits)
    for value, scale in zip(*decisions.exact(), strict=True):
        exact += scale * torch.autograd.grad(value, logits, retain_graph=True)[0].square()
    torch.testing.assert_close(drawn.detach(), exact.detach(), rtol=0.12, atol=0.01)


def token_classes(outputs: Any, index: int = 0) -> tuple[Any, Any]:
    """log p and p of every class of every token between [CLS] and [SEP]."""
    rows = outputs.logits[0, 1:-1]
    return rows.log_softmax(-1).reshape(-1), rows.softmax(-1).detach().reshape(-1)


def test_token_classes_exactly_and_special_tokens_left_out(tmp_path: Path) -> None:
    """Σ over the tokens of the text, not over [CLS] and [SEP]; an unknown word is a token."""
    folder = save_head(tmp_path / "model", "bert", transformers.AutoModelForTokenClassification, num_labels=3)
    texts = ["[CLS] one two [SEP]", "[CLS] three zebra a [SEP]"]
    statistics = fisher_of(folder, texts, variant="exact")
    model, tokenizer = loaded(folder)
    found = reference(model, [tokenizer(text, return_tensors="pt") for text in texts], token_classes)
    compare(statistics, folder, model, found)
    assert statistics.metadata["variant"] == "exact"


def spans(outputs: Any, index: int = 0) -> tuple[Any, Any]:
    """log p and p of every place of the answer's begin, then of its end."""
    rows = torch.cat([outputs.start_logits, outputs.end_logits])
    return rows.log_softmax(-1).reshape(-1), rows.softmax(-1).detach().reshape(-1)


def test_question_answering_exactly(tmp_path: Path) -> None:
    """Begin and end are two independent decisions; an example is a question and its context."""
    folder = save_head(tmp_path / "model", "distilbert", transformers.AutoModelForQuestionAnswering)
    examples = [("one two", "a b c two"), ("three", "one three")]
    statistics = fisher_of(folder, examples, variant="exact")
    model, tokenizer = loaded(folder)
    inputs = [tokenizer(*example, return_tensors="pt") for example in examples]
    inputs = [{key: one[key] for key in ("input_ids", "attention_mask")} for one in inputs]
    compare(statistics, folder, model, reference(model, inputs, spans))


def every_token(outputs: Any, index: int = 0) -> tuple[Any, Any]:
    """log p and p of every token of the vocabulary at every place."""
    return outputs.logits[0].log_softmax(-1).reshape(-1), outputs.logits[0].softmax(-1).detach().reshape(-1)


def inner_tokens(outputs: Any, index: int = 0) -> tuple[Any, Any]:
    """The same without the first and the last place."""
    return every_token(type(outputs)(logits=outputs.logits[:, 1:-1]))


def target_inputs(model: Any, tokenizer: Any, pair: tuple[str, str]) -> tuple[Any, Tensor]:
    """Inputs of an encoder-decoder with the target shifted by one place, and the target's ids."""
    labels = tokenizer(pair[1], return_tensors="pt")["input_ids"]
    start = torch.tensor([[model.config.decoder_start_token_id]])
    text = tokenizer(pair[0], return_tensors="pt")
    inputs = {key: text[key] for key in ("input_ids", "attention_mask")}
    return inputs | {"decoder_input_ids": torch.cat([start, labels[:, :-1]], dim=1)}, labels[0]


SAMPLED = {
    "llama": (None, every_token),
    "gpt2": (None, every_token),
    "t5": (None, every_token),
    "bart": (None, every_token),
    "bert (masked)": (None, inner_tokens),
    "bert (tokens)": ("AutoModelForTokenClassification", token_classes),
    "bert (span)": ("AutoModelForQuestionAnswering", spans),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SAMPLED)
def test_sampled_answers_come_from_the_model(tmp_path: Path, case: str) -> None:
    """The mean of many samples is the expectation Σ_t Σ_y p(y|x)(∂log p)², tied embeddings included."""
    (auto, objective), kind = SAMPLED[case], case.partition(" ")[0]
    tied = {} if kind == "bert" else {"tie_word_embeddings": kind != "llama"}
    folder = tmp_path / "model"
    if auto:
        save_head(folder, kind, getattr(transformers, auto), num_labels=3 if objective is token_classes else 2)
    else:
        save_tiny(folder, kind, labels=None, **tied)
    text = "[CLS] one two a [SEP]" if kind == "bert" else "one two a"
    example: Any = (text, "two b") if kind in ("t5", "bart") else text
    statistics = fisher_of(folder, [example] * 400)
    assert statistics.metadata["variant"] == "sampled"
    model, tokenizer = loaded(folder)
    inputs = tokenizer(text, return_tensors="pt")
    if kind in ("t5", "bart"):
        inputs, _ = target_inputs(model, tokenizer, example)
    expected = on_disk(folder, model, reference(model, [inputs], objective))
    assert set(statistics.fact.keys) == set(expected)
    for name, value in expected.items():
        if float(value.sum()) > 1e-9:
            ratio = statistics.moments(name)[1] / float(value.sum())
            assert 0.75 < ratio < 1.3, (name, ratio)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "t5 (gated)", "bart"])
def test_the_empirical_fisher_of_language_models_is_that_of_their_text(tmp_path: Path, kind: str) -> None:
    """(∂ Σ_t log p(y_t))²: the next real token, or the target; a sum over tokens, not their mean."""
    folder = save_tiny(tmp_path / "model", kind, labels=None)
    statistics = fisher_of(folder, TEXTS[:3] if kind == "gpt2" else PAIRS, variant="empirical")
    model, tokenizer = loaded(folder)
    if kind == "gpt2":
        inputs: list[Any] = [tokenizer(text, return_tensors="pt") for text in TEXTS[:3]]
        answers = [one["input_ids"][0, 1:] for one in inputs]
    else:
        inputs, answers = zip(*(target_inputs(model, tokenizer, pair) for pair in PAIRS), strict=True)

    def gold(outputs: Any, index: int) -> tuple[Any, Any]:
        logs = outputs.logits[0].log_softmax(-1)
        return [sum(logs[place, token] for place, token in enumerate(answers[index].tolist()))], [1.0]

    compare(statistics, folder, model, reference(model, list(inputs), gold))
    assert statistics.metadata["variant"] == "empirical"


@pytest.mark.parametrize("problem", ["", "multi_label_classification", "regression"])
def test_the_empirical_fisher_of_a_classifier_is_that_of_its_labels(tmp_path: Path, problem: str) -> None:
    """(∂ log p(gold))²; labels by name or number, several of them, or numbers."""
    folder = save_tiny(tmp_path / "bert", labels=THREE, **({"problem_type": problem} if problem else {}))
    labels: list[Any] = ["yes", 2, "no"]
    vectors = torch.tensor([[0.5, -1, 2], [0, 0, 1], [1, 1, 1]])
    if problem == "multi_label_classification":
        labels, vectors = [["yes", "so"], [1, 0, 0], "no"], torch.tensor([[0, 1, 1], [1, 0, 0], [1, 0, 0]])
    elif problem:
        labels = vectors.tolist()
    statistics = fisher_of(folder, TEXTS[:3], variant="empirical", labels=labels)
    model, tokenizer = loaded(folder)

    def gold(outputs: Any, index: int) -> tuple[Any, Any]:
        row, wanted = outputs.logits[0], vectors[index].float()
        if not problem:
            return [row.log_softmax(-1)[[1, 2, 0][index]]], [1.0]
        if problem == "regression":
            return [-((row - wanted) ** 2).sum() / 2], [1.0]
        return [(wanted * row.sigmoid().log() + (1 - wanted) * (1 - row.sigmoid()).log()).sum()], [1.0]

    found = reference(model, [tokenizer(text, return_tensors="pt") for text in TEXTS[:3]], gold)
    compare(statistics, folder, model, found)


def test_the_labels_stay_with_their_texts(tmp_path: Path) -> None:
    """Texts are drawn in another order; each keeps its label, and a blank text takes none of the others'."""
    folder = save_tiny(tmp_path / "bert", labels=THREE)
    texts, labels = [" ", *TEXTS[:4]], ["so", "no", "yes", "so", "no"]
    one = fisher_of(folder, texts, variant="empirical", labels=labels, seed=3)
    values = {name: one.read(name) for name in one.fact.keys}
    other = fisher_of(folder, texts[::-1], variant="empirical", labels=labels[::-1], seed=4)
    for name, value in values.items():
        torch.testing.assert_close(other.read(name), value, rtol=1e-3, atol=1e-7)


def test_the_default_is_by_the_kind_of_model_alone() -> None:
    """A few classes: exact; many, or a decision for each token: sampled. So one recipe seldom mixes them."""
    wishes: dict[tuple[Output, int], Variant] = {
        ("classes", 3): "exact",
        ("classes", EXACT_AT_MOST + 1): "sampled",
        ("labels", 3): "exact",
        ("numbers", 1): "exact",
        ("token classes", 3): "sampled",
        ("span", 2): "sampled",
        ("next tokens", 2): "sampled",
        ("tokens", 2): "sampled",
        ("target tokens", 2): "sampled",
    }
    assert {wish: variant_of(*wish) for wish in wishes} == wishes


@pytest.mark.parametrize(
    ("kind", "labels", "options", "sentence"),
    [
        (
            "llama", None, {"variant": "exact"},
            "No exact Fisher for a language model: it takes one gradient for each token of the vocabulary at every "
            "place. Use the sampled one, whose expectation is the same.",
        ),
        (
            "bert", THREE, {"variant": "soft"},
            "No variant 'soft' of Fisher: there are exact, sampled and empirical. Name one of them.",
        ),
        (
            "bert", THREE, {"variant": "empirical"},
            "The empirical Fisher needs gold labels: an example has no label. Use the exact or the sampled one.",
        ),
        (
            "bert", THREE, {"variant": "empirical", "labels": ["maybe"] * 11},
            "The model has no label 'maybe': its labels are no, yes, so. Use data with the model's own label names.",
        ),
        (
            "bert", ("size",), {"variant": "empirical", "labels": ["big"] * 11},
            "The label 'big' is no number: the model gives one. Mend the data.",
        ),
        (
            "bert", ("size",), {"variant": "empirical", "labels": [[1.0, 2.0]] * 11},
            "A label has 2 values: the model gives 1. Mend the data.",
        ),
        (
            "t5", None, {"variant": "empirical"},
            "The empirical Fisher needs gold labels: a text has no target. Use the exact or the sampled one.",
        ),
        (
            "bert", None, {"variant": "empirical"},
            "The empirical Fisher needs gold labels: the token that it predicts stands in the text. "
            "Use the exact or the sampled one.",
        ),
        (
            "clip", None, {},
            "No Fisher for CLIPModel: it scores an image and a text against all others of a batch: no example has a "
            "probability of its own. Use a method without Fisher.",
        ),
    ],
)  # fmt: skip
def test_what_is_not_defined_has_a_sentence(
    tmp_path: Path, kind: str, labels: Any, options: dict[str, Any], sentence: str
) -> None:
    """A wish that this model cannot have is refused before any gradient."""
    folder = save_tiny(tmp_path / "model", kind, labels=labels)
    with pytest.raises(InputError) as error:
        fisher_of(folder, TEXTS, **options)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("BertModel", "it has no head: it gives vectors, and a Fisher is made of probabilities"),
        ("BertForNextSentencePrediction", "it is defined for classifiers of text, images and tokens, question"),
    ],
)
def test_a_model_without_probabilities_is_refused(tmp_path: Path, name: str, why: str) -> None:
    """An embedding model, and a head that is not known."""
    folder = save_tiny(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(InputError, match=f"No Fisher for {name}: {why}"):
        fisher_of(folder, TEXTS)


def test_old_names_tied_copies_and_buffers(tmp_path: Path) -> None:
    """Keys are the file's own names; a second copy and a buffer are named as skipped."""
    folder = save_tiny(tmp_path / "bert", labels=None)
    path = folder / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {
        next((name.replace(new, was) for new, was in old.items() if new in name), name): value
        for name, value in load_file(path).items()
    }
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(tensors, path, metadata={"format": "pt"})
    statistics = fisher_of(folder, TEXTS[:2])
    skipped = {"cls.predictions.decoder.weight", "bert.embeddings.position_ids"}
    assert set(statistics.fact.keys) == set(tensors) - skipped
    assert "bert.embeddings.LayerNorm.gamma" in statistics.fact.keys
    why = "no parameter of its own: a buffer, or a copy of another tensor"
    assert json.loads(statistics.metadata["skipped"]) == dict.fromkeys(sorted(skipped), why)


def test_the_header_names_variant_output_and_scale(tmp_path: Path) -> None:
    """What a merge has to know to put two files side by side."""
    statistics = fisher_of(save_tiny(tmp_path / "bert"), TEXTS[:2], variant="sampled")
    expected = {
        "variant": "sampled",
        "output": "classes",
        "scale": "squared gradient of log p summed over an example, mean over examples",
        "examples": "2",
    }
    assert expected.items() <= dict(statistics.metadata).items()
    assert statistics.fact.variant == "sampled"


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    """Which texts are drawn, what is sampled, and the bytes, depend on the seed alone."""
    folder = save_tiny(tmp_path / "llama", "llama", labels=None)
    files = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{number}.safetensors"
        list(collect("fisher", folder, TEXTS, out, examples=3, seed=seed))
        files.append(out.read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(
    ("variants", "sentence"),
    [
        (("exact", "exact"), ""),
        (("empirical", "empirical"), ""),
        (
            ("exact", "empirical"),
            "The Fisher of {1} is empirical and that of {0} is exact: gradients of gold labels and of the model's own "
            "answers are not on one scale. Collect both by the same variant.",
        ),
        (
            ("sampled", "exact"),
            "Some of the Fisher statistics are exact and some sampled: their expectation is the same, but the sampled "
            "ones are noisier. Collect all by one variant to be sure.",
        ),
        (
            ("empirical", None),
            "The Fisher of {0} is empirical and that of {1} is exact: gradients of gold labels and of the model's own "
            "answers are not on one scale. Collect both by the same variant.",
        ),
    ],
)
def test_variants_are_not_mixed(tmp_path: Path, variants: Any, sentence: str) -> None:
    """Gold labels beside the model's own answers: an error, also when text is still to be read. Noise: a warning."""
    folders = [str(save_tiny(tmp_path / f"m{seed}", seed=seed)) for seed in range(2)]
    entries, parents = [], []
    for folder, variant in zip(folders, variants, strict=True):
        parent = open_parent(folder, Path(folder))
        if variant is None:
            entries.append({"model": folder, "calibration": {"data": "texts.txt"}})
            parents.append(replace(parent, calibration=True))
            continue
        statistics = fisher_of(Path(folder), TEXTS[:2], variant=variant, labels=["yes"] * 2)
        entries.append({"model": folder})
        parents.append(replace(parent, statistics={"fisher": statistics.fact}))
    plan = make_plan(recipe_from_dict({"merge_method": "fisher", "models": entries}), parents)
    assert [str(problem) for problem in plan.problems] == ([sentence.format(*folders)] if sentence else [])
    assert bool(plan.errors) == ("empirical and" in sentence)


@pytest.mark.parametrize(
    ("architecture", "variant", "sentence"),
    [
        ("BertModel", "auto", "No Fisher for BertModel: it has no head: it gives vectors, and a Fisher is made of"),
        ("BertForMaskedLM", "exact", "No exact Fisher for a language model: it takes one gradient for each token"),
    ],
)
def test_the_plan_says_that_there_is_no_fisher(tmp_path: Path, architecture: str, variant: str, sentence: str) -> None:
    """Before anything is downloaded or collected, at the model that lacks it."""
    parents, entries = [], []
    for seed in range(2):
        folder = save_tiny(tmp_path / f"m{seed}", seed=seed, labels=None)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
        entries.append({"model": str(folder), "calibration": {"data": "texts.txt", "variant": variant}})
        parents.append(open_parent(str(folder), folder, calibration=True))
    plan = make_plan(recipe_from_dict({"merge_method": "fisher", "models": entries}), parents)
    assert [str(problem)[: len(sentence)] for problem in plan.errors] == [sentence] * 2
    assert [problem.where for problem in plan.errors] == ["models.0.model", "models.1.model"]


@pytest.mark.parametrize(
    ("kind", "root"), [("mixtral", True), ("t5", False), ("bart", True), ("vit", False), ("deberta-v2", True)]
)
def test_a_merge_by_fisher_covers_every_tensor(tmp_path: Path, kind: str, root: bool) -> None:
    """From model to merged file nothing falls back, and every value is Σ F̂W / Σ F̂, F̂ = F / its norm in the tensor.

    With `root` F stands for its square root, whose mean is taken to be the root of the mean.
    """
    labels = None if kind in ("t5", "bart", "mixtral") else THREE
    folders = [save_tiny(tmp_path / f"m{seed}", kind, seed=seed, labels=labels) for seed in range(2)]
    examples = {"t5": PAIRS, "bart": PAIRS, "vit": pictures(3)}.get(kind, TEXTS[:3])
    files = [{"fisher": fisher_of(folder, examples)} for folder in folders]
    parents = [
        replace(open_parent(str(folder), folder), statistics={"fisher": opened["fisher"].fact})
        for folder, opened in zip(folders, files, strict=True)
    ]
    wish = {
        "merge_method": "fisher",
        "models": [str(folder) for folder in folders],
        "parameters": {"normalize": "tensor", "floor": 1e-6, "root": root},
    }
    plan = make_plan(recipe_from_dict(wish), parents)
    assert (plan.errors, plan.fallbacks) == ((), {})
    run_to_end(merge(plan, parents, tmp_path / "out", statistics=files, threads=1))
    merged = load_file(tmp_path / "out" / "model.safetensors")
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert merged.keys() == weights[0].keys()
    for name in merged.keys() & files[0]["fisher"].specs.keys():
        shares = [opened["fisher"].read(name).reshape(merged[name].shape).double() for opened in files]
        used = [share.sqrt() if root else share for share in shares]
        norms = [float(one.norm()) or 1.0 for one in used]
        means = [
            float(share.mean()) ** (0.5 if root else 1.0) / norm for share, norm in zip(shares, norms, strict=True)
        ]
        least = max(1e-6 * sum(means) / 2, 1e-38)
        shares = [(one / norm).clamp(min=least) for one, norm in zip(used, norms, strict=True)]
        wanted = sum(share * part[name] for share, part in zip(shares, weights, strict=True)) / sum(shares)
        torch.testing.assert_close(merged[name].double(), wanted, rtol=1e-4, atol=1e-5)


def test_a_file_that_does_not_say_its_variant_is_refused(tmp_path: Path) -> None:
    """Nobody can tell whether it may stand beside another one."""
    folder = save_tiny(tmp_path / "bert")
    path = Path(fisher_of(folder, TEXTS[:2]).fact.source)
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), "variant": "soft"}
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(InputError, match="has a broken header: it does not say which Fisher it is"):
        Statistics(path)
