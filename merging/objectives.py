"""What a model decides about one example, as independent random variables: what its Fisher is made of.

| class of the model | decisions of one example | by default |
|---|---|---|
| ...ForSequenceClassification, ...ForImageClassification | one class | exact |
| the same, several labels (multi_label_classification) | yes or no for each label | exact |
| the same, regression or a single logit | numbers with a Gaussian error of variance 1 | exact |
| ...ForTokenClassification | a class for each token of the text, special tokens left out | sampled |
| ...ForQuestionAnswering | the token where the answer begins, the token where it ends | sampled |
| ...ForCausalLM, ...LMHeadModel | the next token behind each token, given the real text before it | sampled |
| ...ForMaskedLM | the token at each place of the text as it stands, special tokens left out | sampled |
| ...ForConditionalGeneration | each token of the target, given the text and the real target before it | sampled |

Log-probabilities are summed over the decisions of an example, never averaged: a mean over T tokens would make the
Fisher T² times smaller. Not defined: models without a head, which give vectors and no probabilities; CLIP, whose loss
compares all pairs of a batch, so that no example has a probability of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from merging.errors import InputError
from merging.loading import Example, Loaded
from merging.variants import Output, output_of

_NO_GOLD = {
    "token classes": "the labels of single tokens are not read",
    "span": "the places of answers are not read",
    "tokens": "the token that it predicts stands in the text",
}


@dataclass(frozen=True)
class Decisions:
    """Random variables that are independent given the example, float32 in the model's graph.

    `logits` is (decisions, classes) where each is one of several classes, else (decisions,).
    """

    family: Literal["one of several", "yes or no", "number"]
    logits: Tensor

    def exact(self) -> tuple[Tensor, Tensor]:
        """(values, scales), both (k,): E_y (∂ log p(y))² = Σ scale · (∂ value)², y all decisions at once.

        With y drawn from the model the gradient g_t of each decision's log-probability has mean 0, and the decisions
        are independent: in (Σ_t g_t)² the products of two of them vanish, so that the expectation of the square of
        the sum is the sum over decisions of each one's expectation, Σ_t Σ_c p_tc (∂ log p_tc)².
        """
        if self.family == "one of several":
            logs = self.logits.log_softmax(-1).reshape(-1)
            return logs, logs.detach().exp()
        if self.family == "yes or no":
            chance = self.logits.detach().sigmoid()
            return self.logits, chance * (1 - chance)  # p (1−p)² + (1−p) p² of the logit's gradient
        return self.logits, torch.ones_like(self.logits.detach())

    def draw(self, generator: torch.Generator) -> Tensor:
        """An answer to each decision from the model's own distribution, (decisions,). `generator` is of the CPU."""
        logits = self.logits.detach().cpu()
        if self.family == "one of several":
            if not len(logits):
                return torch.zeros(0, dtype=torch.long)
            return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        if self.family == "yes or no":
            return torch.bernoulli(logits.sigmoid(), generator=generator)
        return logits + torch.randn(logits.shape, generator=generator)

    def log_probability(self, answers: Tensor) -> Tensor:
        """Sum of the log-probabilities of `answers`, (decisions,) or fewer, a scalar but for a constant."""
        logits = self.logits[: len(answers)]
        answers = answers.to(logits.device)
        if self.family == "one of several":
            return logits.log_softmax(-1).gather(1, answers[:, None]).sum()
        if self.family == "yes or no":
            return -nn.functional.binary_cross_entropy_with_logits(logits, answers, reduction="sum")
        return -(logits - answers).square().sum() / 2


@dataclass(frozen=True)
class Head:
    """What a model's output means. `special` are ids that stand for no token of a text."""

    output: Output
    classes: int = 0
    special: tuple[int, ...] = ()

    def decisions(self, outputs: Any, inputs: Mapping[str, Tensor]) -> Decisions:
        """The decisions of one example: a batch of one without padding, and what the model gave for it."""
        if self.output == "span":
            return Decisions("one of several", torch.cat([outputs.start_logits, outputs.end_logits]).float())
        row = outputs.logits[0].float()
        if self.output in ("token classes", "tokens"):
            row = row[~torch.isin(inputs["input_ids"][0], torch.tensor(self.special, device=row.device))]
        elif self.output == "target tokens":
            row = row[inputs["decoder_attention_mask"][0].bool()]
        elif self.output == "classes":
            row = row[None]
        if self.output in ("labels", "numbers"):
            return Decisions("yes or no" if self.output == "labels" else "number", row)
        return Decisions("one of several", row)


def head_of(loaded: Loaded) -> Head:
    """What the model's output means. Raises InputError, with the reason, where no Fisher of it is defined here."""
    output = output_of(loaded.config, type(loaded.model).__name__)
    return Head(output, int(getattr(loaded.model.config, "num_labels", 0)), _special(loaded.tokenizer))


def _special(tokenizer: Any) -> tuple[int, ...]:
    """Ids of special tokens, but for those that stand in the place of a word: unknown and mask."""
    if tokenizer is None:
        return ()
    words = {tokenizer.unk_token_id, tokenizer.mask_token_id}
    return tuple(sorted(set(tokenizer.all_special_ids) - words))


def gold_of(loaded: Loaded, head: Head, example: Example, label: Any) -> Tensor:
    """The true answer to each decision about an example, as `Decisions.log_probability` takes it.

    `label` is a class's name or number, names or zeros and ones for several labels, or numbers; language models
    need none: theirs is the text, or the target. Raises InputError when there is none.
    """
    if head.output in _NO_GOLD:
        raise _no_gold(_NO_GOLD[head.output])
    if head.output == "next tokens":
        return torch.tensor(_ids(loaded, example)[1:], dtype=torch.long)
    if head.output == "target tokens":
        if isinstance(example, str):
            raise _no_gold("a text has no target")
        return torch.tensor(_ids(loaded, example[1]), dtype=torch.long)
    if label is None:
        raise _no_gold("an example has no label")
    if head.output == "classes":
        return torch.tensor([_index(loaded, label)])
    values = list(label) if isinstance(label, list | tuple) else [label]
    if head.output == "labels" and any(isinstance(value, str) for value in values):
        chosen = {_index(loaded, value) for value in values}
        return torch.tensor([float(index in chosen) for index in range(head.classes)])
    try:
        answers = torch.tensor([float(value) for value in values])
    except (TypeError, ValueError):
        what = f"The label {str(label)[:60]!r} is no number"
        raise InputError(what, "the model gives one", "Mend the data") from None
    if len(answers) != head.classes:
        raise InputError(f"A label has {len(answers)} values", f"the model gives {head.classes}", "Mend the data")
    return answers


def _ids(loaded: Loaded, text: str) -> list[int]:
    """Token ids of a text, cut as in `merging.loading`."""
    return list(loaded.tokenizer(text, truncation=True, max_length=loaded.max_length)["input_ids"])


def _index(loaded: Loaded, label: Any) -> int:
    """The place of a class by its name or number."""
    names = [str(loaded.model.config.id2label[index]) for index in range(loaded.model.config.num_labels)]
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    if label not in names:
        raise InputError(
            f"The model has no label {str(label)[:60]!r}",
            f"its labels are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}",
            "Use data with the model's own label names",
        )
    return names.index(label)


def _no_gold(why: str) -> InputError:
    return InputError("The empirical Fisher needs gold labels", why, "Use the exact or the sampled one", "variant")
