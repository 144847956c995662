"""Causal language modelling: perplexity of real text, each token given those before it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from merging.evaluation.answers import Answers
from merging.evaluation.facts import Example
from merging.evaluation.kind import Answering, Floats, Kind, Watch, forward
from merging.loading import Loaded

SCORES = 64_000_000  # values of one batch: scores of a whole vocabulary for every token


class LanguageModelling(Kind):
    """The next token, at every place of a text but the first."""

    name = "language-modelling"
    metric = "perplexity"
    better = "lower"
    labelled = False

    def answer(self, loaded: Loaded, examples: Sequence[Example], size: int, watch: Watch) -> Answering:
        """The log-probability of each token that stands in a text, one row a token."""
        texts = [str(example.text) for example in examples]
        size = max(1, min(size, SCORES // (loaded.max_length * int(loaded.model.config.vocab_size))))
        rows: list[Floats] = [np.empty(0)] * len(texts)
        done = 0
        for chosen, inputs, outputs in forward(loaded, texts, size, watch):
            ids, mask = inputs["input_ids"][:, 1:], inputs["attention_mask"][:, 1:].bool()
            scores = outputs.logits[:, :-1]
            for row, index in enumerate(chosen):
                real = mask[row]
                logs = scores[row][real].float()
                there = logs.gather(1, ids[row][real][:, None])[:, 0] - torch.logsumexp(logs, 1)
                rows[index] = there.double().cpu().numpy()
            done += len(chosen)
            yield done
        starts = np.cumsum([0, *map(len, rows)])
        return Answers(np.concatenate([*rows, np.empty(0)])[:, None], starts)

    def counts(self, answers: Answers, examples: Sequence[Example], names: Mapping[str, str]) -> Floats:
        """Sum of negative log-probabilities, and number of tokens."""
        tokens = np.diff(answers.starts).astype(float)
        return np.stack([-answers.per_example(answers.logs)[:, 0], tokens], 1)

    def figures(self, sums: Floats) -> dict[str, Floats]:
        """exp of the mean negative log-probability of a token."""
        return {"perplexity": np.exp(sums[..., 0] / np.maximum(sums[..., 1], 1))}
