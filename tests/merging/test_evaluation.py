"""Figures of models: against scikit-learn and seqeval on the same predictions, and against plain transformers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import accuracy_score, f1_score

from merging.calibrate import collect
from merging.errors import InputError
from merging.evaluation.answers import Answers, read_answers
from merging.evaluation.bootstrap import RESAMPLES, resample
from merging.evaluation.classification import Classification
from merging.evaluation.closeness import TEMPERATURE, Closeness, NoCloseness, shares
from merging.evaluation.ensembles import instance_wise, of_logits
from merging.evaluation.facts import Example, wanted_kind
from merging.evaluation.kind import Kind, unwatched
from merging.evaluation.kinds import KINDS
from merging.evaluation.labels import match_labels
from merging.evaluation.language_modelling import LanguageModelling
from merging.evaluation.token_classification import TokenClassification, entities
from merging.loading import load
from merging.recipe import EvaluationSet
from merging.statistics import Provenance, Statistics, write_gram
from tests.tiny_models import save_tiny, sentences

torch.set_num_threads(1)
LABELS = ("red", "green", "blue")


def answered(kind: Kind, folder: Path, examples: list[Example], size: int = 7, watch: Any = unwatched) -> Answers:
    """What the model in a folder says."""
    work = kind.answer(load(folder, max_length=32, device="cpu"), examples, size, watch)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def figures(kind: Kind, answers: Answers, examples: list[Example], names: dict[str, str]) -> dict[str, float]:
    """The figures of all examples."""
    counts = kind.counts(answers, examples, names)
    return {name: float(value) for name, value in kind.figures(counts.sum(0)).items()}


# Metrics


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(tmp_path: Path, kind: str) -> None:
    """On predictions that plain transformers makes one text at a time; labels are in another order than in the data."""
    folder = save_tiny(tmp_path / kind, kind, labels=LABELS)
    texts = sentences(40, seed=3)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        said = [LABELS[int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())] for text in texts]
    meant = [said[place] if place % 3 else LABELS[place % 2] for place in range(40)]
    examples = [Example(text, label.upper()) for text, label in zip(texts, meant, strict=True)]
    names = {label.upper(): label for label in LABELS}
    found = figures(Classification(), answered(Classification(), folder, examples), examples, names)
    assert found["accuracy"] == pytest.approx(accuracy_score(meant, said))
    assert found["macro_f1"] == pytest.approx(f1_score(meant, said, average="macro"))


def test_macro_f1_is_the_mean_over_the_labels_of_the_data() -> None:
    """One that is never given counts, one that is only given is a miss: scikit-learn's with these labels."""
    logs = np.log(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1]]))
    answers = Answers(logs, np.arange(4), LABELS)
    examples = [Example("a", "red"), Example("b", "red"), Example("c", "blue")]
    names = {"red": "red", "blue": "blue"}
    found = figures(Classification(), answers, examples, names)
    meant, said = ["red", "red", "blue"], ["red", "green", "red"]
    expected = f1_score(meant, said, labels=["blue", "red"], average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(expected)


TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-PER", "S-LOC"]


@pytest.mark.parametrize("scheme", ["IOB2", "IOB1", "all"])
def test_entities_are_those_of_seqeval(scheme: str) -> None:
    """Its default, on 300 random tag sequences: IOB2, IOB1 (I- begins an entity), and whatever models say."""
    chance = np.random.default_rng(0)
    for _ in range(300):
        known = TAGS if scheme == "all" else TAGS[:5]
        tags = [known[place] for place in chance.integers(0, len(known), chance.integers(1, 12))]
        if scheme == "IOB1":
            tags = [tag.replace("B-", "I-") if place % 3 else tag for place, tag in enumerate(tags)]
        assert list(entities(tags)) == [tuple(map(_plain, one)) for one in get_entities(tags)]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else int(value)


def save_tagger(folder: Path, kind: str = "bert", seed: int = 0) -> Path:
    """A tiny random tagger of words."""
    save_tiny(folder, kind, labels=TAGS[:5])
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(seed)
    model = transformers.AutoModelForTokenClassification.from_config(config)
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    model.save_pretrained(folder)
    return folder


def test_entity_f1_is_that_of_seqeval(tmp_path: Path) -> None:
    """On a model's tags of words, each from the word's first token; words beyond the model's length count as O."""
    folder = save_tagger(tmp_path / "tagger")
    chance = np.random.default_rng(1)
    texts = [tuple(text.split()) for text in sentences(30, seed=2)] + [("one", "two") * 20]
    tags = [tuple(TAGS[place] for place in chance.integers(0, 5, len(words))) for words in texts]
    examples = [Example(words, own) for words, own in zip(texts, tags, strict=True)]
    kind = TokenClassification()
    found = figures(kind, answered(kind, folder, examples), examples, {tag: tag for tag in TAGS[:5]})
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    said = []
    for words in texts:
        encoded = tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            best = model(**encoded).logits[0].argmax(-1).tolist()
        first = {word: token for token, word in reversed(list(enumerate(encoded.word_ids(0)))) if word is not None}
        said.append([TAGS[best[first[place]]] if place in first else "O" for place in range(len(words))])
    meant = [list(own) for own in tags]
    assert 0 < found["entity_f1"] < 1
    assert found["entity_f1"] == pytest.approx(entity_f1(meant, said))
    assert found["precision"] == pytest.approx(precision_score(meant, said))
    assert found["recall"] == pytest.approx(recall_score(meant, said))


def test_perplexity_is_that_of_plain_transformers(tmp_path: Path) -> None:
    """exp of the mean loss of a token, over all tokens of all texts, with padding and without."""
    folder = save_tiny(tmp_path / "gpt2", "gpt2", labels=None)
    texts = sentences(20, seed=4)
    examples = [Example(text) for text in texts]
    kind = LanguageModelling()
    found = figures(kind, answered(kind, folder, examples), examples, {})
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    total = tokens = 0.0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert found["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)


# Intervals


def test_intervals_are_of_resamples_and_paired() -> None:
    """Against draws made one by one; a model that is right on the same examples differs by exactly 0."""
    right = (np.arange(80) % 4 > 0).astype(float)[:, None]
    better = np.ones((80, 1))

    def mean(sums: Any) -> dict[str, Any]:
        return {"accuracy": sums[..., 0] / 80}

    one, same, two = resample([right, right, better], mean, seed=3)
    chance = np.random.default_rng(3)
    drawn = [right[chance.integers(0, 80, 80), 0].mean() for _ in range(RESAMPLES)]
    assert one.value == {"accuracy": 0.75}
    assert one.as_dict()["low"]["accuracy"] == pytest.approx(np.percentile(drawn, 2.5))
    assert one.as_dict()["high"]["accuracy"] == pytest.approx(np.percentile(drawn, 97.5))
    assert one.against(same) == {"accuracy": [0, 0, 0]}
    assert two.against(one)["accuracy"][0] == 0.25
    assert two.against(one)["accuracy"][1:] == pytest.approx(
        [1 - one.as_dict()["high"]["accuracy"], 1 - one.as_dict()["low"]["accuracy"]]
    )


def test_intervals_hold_what_they_say() -> None:
    """Of 200 samples from a known rate about 95 % of the intervals hold it."""
    chance, held = np.random.default_rng(0), 0
    for seed in range(200):
        counts = (chance.random((100, 1)) < 0.7).astype(float)
        (found,) = resample([counts], lambda sums: {"accuracy": sums[..., 0] / 100}, seed)
        ends = found.as_dict()
        held += ends["low"]["accuracy"] <= 0.7 <= ends["high"]["accuracy"]
    assert 180 <= held <= 200


# Label names


def test_labels_are_matched_by_name() -> None:
    """The same, the same but for case and separators, or as somebody says; never by their place."""
    assert match_labels(["no", "yes"], ["yes", "no"]) == {"no": "no", "yes": "yes"}
    assert match_labels(["Sci/Tech", "WORLD"], ["world", "sci_tech"]) == {"Sci/Tech": "sci_tech", "WORLD": "world"}
    assert match_labels(["0", "1"], ["LABEL_0", "LABEL_1"], {"0": "LABEL_1", "1": "LABEL_0"}) == {
        "0": "LABEL_1",
        "1": "LABEL_0",
    }
    assert match_labels(["a"], ["A", "a"]) == {"a": "a"}


@pytest.mark.parametrize(
    ("data", "model", "wish", "said"),
    [
        (
            ["0", "1"],
            ["no", "yes"],
            {},
            "the model has no label '0', which stands in the data: its labels are no, yes; those of the data are 0, 1: "
            "numbers say nothing about names. Say which label of the data is which of the model.",
        ),
        (["0"], ["LABEL_0"], {}, "the model has no label '0'"),
        (["a"], ["A", "Á", "-a"], {}, "the model has no label 'a'"),
        (["a-b", "A_B"], ["ab"], {}, "the model has no label 'A_B'"),
        (["no"], ["a", "b"], {"no": "c"}, "the model has no label 'c', which is to be 'no' of the data"),
    ],
)
def test_labels_that_do_not_match_are_refused(
    data: list[str], model: list[str], wish: dict[str, str], said: str
) -> None:
    """With the labels of both sides; two that differ by case alone are not taken for one."""
    with pytest.raises(InputError) as error:
        match_labels(data, model, wish)
    assert str(error.value).startswith(said)


# Ensembles


def two_answers() -> tuple[Answers, Answers]:
    """Two models of the same labels in another order and another case, on three examples."""
    chance = np.random.default_rng(0)
    logs = np.log(chance.dirichlet([1, 1, 1], (2, 3)))
    first = Answers(logs[0], np.arange(4), LABELS)
    return first, Answers(logs[1][:, [2, 0, 1]], np.arange(4), ("Blue", "Red", "Green"))


def test_an_ensemble_of_logits_is_their_mean() -> None:
    """By label name: the softmax of mean logits is that of mean log-probabilities."""
    first, second = two_answers()
    found = of_logits([first, second])
    assert found is not None
    shifted = torch.tensor(first.logs) + 3.0, torch.tensor(second.logs[:, [1, 2, 0]]) - 1.0  # logits, up to a constant
    expected = torch.stack(shifted).mean(0).log_softmax(-1)
    assert np.allclose(found.logs, expected.numpy())
    assert found.labels == LABELS
    assert of_logits([first, Answers(second.logs[:, :2], second.starts, ("a", "b"))]) is None


def test_an_instance_wise_ensemble_weighs_each_example() -> None:
    """By closeness; the labels of all models are there, and a model gives nothing to those that it lacks."""
    first, second = two_answers()
    near = Answers(first.logs, first.starts, LABELS, closeness=np.array([-1.0, -1.0, -9.0]))
    far = Answers(second.logs[:, :2], second.starts, ("Blue", "other"), closeness=np.array([-9.0, -1.0, -1.0]))
    found = instance_wise([near, far])
    assert found is not None
    assert set(found.labels) == {*LABELS, "other"}
    by_name = dict(zip(found.labels, np.exp(found.logs).T, strict=True))
    assert by_name["red"] == pytest.approx(np.exp(first.logs[:, 0]) * [1, 0.5, 0], abs=1e-9)
    assert by_name["other"] == pytest.approx(np.exp(second.logs[:, 1]) * [0, 0.5, 1], abs=1e-9)
    assert instance_wise([near]) is None


def test_the_weights_of_an_example_follow_the_formula() -> None:
    """softmax of closeness over temperature, one set of weights for each example."""
    closeness = [np.array([-1.0, -1.1]), np.array([-1.2, -1.0])]
    scaled = np.exp(np.stack(closeness) / TEMPERATURE)
    assert np.allclose(shares(closeness), scaled / scaled.sum(0))


def test_language_models_answer_together_by_probabilities() -> None:
    """The mean of the probabilities of each token; models of other tokens do not go together."""
    one = Answers(np.log([[0.5], [0.25]]), np.array([0, 2]))
    two = Answers(np.log([[0.1], [0.75]]), np.array([0, 2]))
    found = of_logits([one, two])
    assert found is not None
    assert np.exp(found.logs)[:, 0] == pytest.approx([0.3, 0.5])
    assert of_logits([one, Answers(np.log([[0.1]]), np.array([0, 1]))]) is None


def test_closeness_is_the_density_of_the_statistics(tmp_path: Path) -> None:
    """Against the formula on the inputs of one layer, one text at a time; a broken Gram is a sentence."""
    folder = save_tiny(tmp_path / "m", labels=LABELS)
    texts = sentences(60)
    grams = tmp_path / "gram.safetensors"
    for _ in collect("gram", folder, texts, grams, examples=60):
        pass
    loaded = load(folder, max_length=32, device="cpu")
    near = Closeness(loaded, folder, grams, 10)
    examples = [Example(text, "red") for text in texts[:10]]
    answered_ = Classification().answer(loaded, examples, 4, near.watch)
    for _ in answered_:
        pass
    name = "bert.encoder.layer.1.attention.self.query.weight"
    gram = Statistics(grams).gram(name).double()
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    seen: list[torch.Tensor] = []
    layer = loaded.model.bert.encoder.layer[1].attention.self.query
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].double()))
    for place, text in enumerate(texts[:10]):
        seen.clear()
        with torch.no_grad():
            loaded.model(**loaded.tokenizer(text, return_tensors="pt"))
        x, n = seen[0], len(gram)
        each = (x @ torch.linalg.inv(gram) * x).sum(-1)
        assert near.found[place] == pytest.approx(float(-(each.mean() + torch.logdet(gram)) / n), rel=1e-3)
    broken = {name: torch.zeros(32, 32)}
    write_gram(tmp_path / "broken.safetensors", broken, {name: 9}, {name: name}, Provenance({"a": "0" * 64}))
    with pytest.raises(NoCloseness, match="cannot be inverted"):
        Closeness(loaded, folder, tmp_path / "broken.safetensors", 1)


# The rest


def test_answers_are_kept_whole(tmp_path: Path) -> None:
    """What was written is read: labels, closeness, decisions of examples."""
    answers = Answers(np.log([[0.5, 0.5]]), np.array([0, 1]), ("a", "ü"), np.array([-1.5]))
    answers.save(tmp_path / "a.npz")
    again = read_answers(tmp_path / "a.npz")
    assert again.labels == ("a", "ü")
    assert again.closeness == pytest.approx([-1.5])
    assert np.allclose(again.logs, answers.logs)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_the_kind_of_a_set_is_that_of_its_models() -> None:
    """Of the head that is asked, where it names one; models of several kinds leave a question."""
    classifier = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    tagger = {"architectures": ["BertForTokenClassification"], "model_type": "bert"}
    masked = {"architectures": ["BertForMaskedLM"], "model_type": "bert"}
    models = [("a", classifier), ("b", tagger)]
    assert wanted_kind(EvaluationSet(data="x", in_domain=("b",)), 0, models) == "token-classification"
    assert wanted_kind(EvaluationSet(data="x", kind="language-modelling"), 0, models) == "language-modelling"
    for wrong, why in ((models, "The models are made for several"), ([("a", masked)], "There are figures for ")):
        with pytest.raises(InputError, match=f"What kind of task is x\\? {why}") as error:
            wanted_kind(EvaluationSet(data="x"), 2, wrong)
        assert error.value.problem.where == "evaluate.2.kind"
    assert list(KINDS) == ["classification", "token-classification", "language-modelling"]
