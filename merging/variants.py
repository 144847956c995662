"""Which Fisher a model has, from its config alone; the arithmetic is in `merging.objectives`.

* exact: the expectation over the model's own answers in closed form: one gradient for each class of each decision;
* sampled: one of its own answers, drawn for each example: the same expectation, with noise;
* empirical: the true answer. Another quantity, near 0 where the model is right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from merging.architecture import GENERIC, architecture_of
from merging.errors import InputError, Problem
from merging.parent import Parent
from merging.recipe import Calibration, Recipe

Variant = Literal["exact", "sampled", "empirical"]
Output = Literal["classes", "labels", "numbers", "token classes", "span", "next tokens", "tokens", "target tokens"]
EXACT_AT_MOST = 100  # gradients for each example where nothing else is asked for
_OUTPUTS: tuple[tuple[tuple[str, ...], Output], ...] = (
    (("ForSequenceClassification", "ForImageClassification", "ForImageClassificationWithTeacher"), "classes"),
    (("ForTokenClassification",), "token classes"),
    (("ForQuestionAnswering",), "span"),
    (("ForCausalLM", "LMHeadModel"), "next tokens"),
    (("ForMaskedLM",), "tokens"),
    (("ForConditionalGeneration",), "target tokens"),
)


def output_of(config: Mapping[str, Any], name: str = "") -> Output:
    """What a model of that config.json gives; `name` is its class, when the config does not say.

    Raises InputError, with the reason, where no Fisher of it is defined here.
    """
    name = str((config.get("architectures") or [name])[0])
    reads = (architecture_of(config) or GENERIC).reads(config)
    output = next((output for endings, output in _OUTPUTS if name.endswith(endings)), None)
    if output is None or (output == "target tokens") != (reads == "pairs") or reads == "images and text":
        why = _why_none(name, reads, bool(config.get("is_encoder_decoder")))
        raise InputError(f"No Fisher for {name or 'a model without a class'}", why, "Use a method without Fisher")
    if output == "classes":
        if config.get("problem_type") == "multi_label_classification":
            return "labels"
        if classes_of(config) == 1 or config.get("problem_type") == "regression":
            return "numbers"
    return output


def _why_none(name: str, reads: str, pairs: bool) -> str:
    if reads == "images and text":
        return "it scores an image and a text against all others of a batch: no example has a probability of its own"
    if name.endswith("EncoderModel") or (name.endswith("Model") and not pairs):
        return "it has no head: it gives vectors, and a Fisher is made of probabilities"
    return (
        "it is defined for classifiers of text, images and tokens, question answering, language models, and the "
        "encoder-decoders T5 and BART"
    )


def classes_of(config: Mapping[str, Any]) -> int:
    """Number of classes, labels or numbers that a config.json names; two, as in transformers, where it names none."""
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) and names else 2


def variant_of(output: Output, classes: int, wish: str = "auto") -> Variant:
    """The Fisher that is meant by a wish; "auto" is exact for a few classes, else sampled.

    Raises InputError for one that there is not, and for the exact one of a vocabulary.
    """
    if wish == "auto":
        return "exact" if output in ("classes", "labels", "numbers") and classes <= EXACT_AT_MOST else "sampled"
    if wish == "exact" and output.endswith("tokens"):
        raise InputError(
            "No exact Fisher for a language model",
            "it takes one gradient for each token of the vocabulary at every place",
            "Use the sampled one, whose expectation is the same",
            "variant",
        )
    if wish not in ("exact", "sampled", "empirical"):
        known = "there are exact, sampled and empirical"
        raise InputError(f"No variant {wish!r} of Fisher", known, "Name one of them", "variant")
    return wish  # type: ignore[return-value]


def wish_problem(config: Mapping[str, Any], text: Calibration, *, handed_over: bool = False) -> Problem | None:
    """Why a model of that config.json cannot have the Fisher that the wish for its text asks for, if so.

    `where` is `collect` or a field of `text`. `handed_over` text is plain text, without any label.
    """
    try:
        output = output_of(config)
    except InputError as error:
        return replace(error.problem, fix="Collect Gram matrices alone", where="collect")
    try:
        variant = variant_of(output, classes_of(config), text.variant)
    except InputError as error:
        return replace(error.problem, where="text.variant")
    if variant == "empirical" and output in ("classes", "labels", "numbers") and not text.label_column:
        what, why = "There are no labels", "an empirical Fisher is made of the true answers"
        if handed_over:
            return Problem(what, why, "Name a dataset of the Hub that has them, or choose another", "text.variant")
        return Problem(what, why, "Name their column", "text.label_column")
    return None


def variant_problems(recipe: Recipe, parents: Sequence[Parent]) -> list[Problem]:
    """Models that have no Fisher, and variants that do not belong together, before anything is downloaded."""
    problems: list[Problem] = []
    variants: dict[int, str] = {}
    for index, (entry, parent) in enumerate(zip(recipe.models, parents, strict=False)):
        fact = parent.statistics.get("fisher")
        if fact is not None:
            variants[index] = fact.variant
        elif entry.calibration is not None:
            try:
                output = output_of(parent.config)
                variants[index] = variant_of(output, classes_of(parent.config), entry.calibration.variant)
            except InputError as error:
                problems += [replace(problem, where=f"models.{index}.model") for problem in error.problems]
    return problems or _mixed(parents, variants)


def _mixed(parents: Sequence[Parent], variants: Mapping[int, str]) -> list[Problem]:
    """A Fisher of gold labels is another quantity; one of drawn answers is the exact one with noise."""
    gold = [index for index, variant in variants.items() if variant == "empirical"]
    others = [index for index in variants if index not in gold]
    if gold and others:
        index = others[0]
        return [
            Problem(
                f"The Fisher of {parents[gold[0]].model} is empirical and that of {parents[index].model} is "
                f"{variants[index]}",
                "gradients of gold labels and of the model's own answers are not on one scale",
                "Collect both by the same variant",
                f"models.{index}.model",
            )
        ]
    if len(set(variants.values())) > 1:
        return [
            Problem(
                "Some of the Fisher statistics are exact and some sampled",
                "their expectation is the same, but the sampled ones are noisier",
                "Collect all by one variant to be sure",
                "models",
                "warning",
            )
        ]
    return []
