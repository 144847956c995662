"""The answers of several models together, none of them merged."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from merging.evaluation.answers import Answers, Floats
from merging.evaluation.closeness import shares
from merging.evaluation.labels import fold, unique_folds

LEAST = 1e-300  # a probability of 0 has no logarithm


def of_logits(models: Sequence[Answers]) -> Answers | None:
    """The mean of all logits, up to what a softmax takes away: the mean of log-probabilities, normalised again.

    Of a language model only the log-probability of the token that stands there is kept, so that the mean is one of
    probabilities there. None where the models do not answer the same questions by the same labels.
    """
    keyed = [with_keys(own) for own in models]
    first = keyed[0]
    if len(keyed) < 2 or any(set(own.keys) != set(first.keys) for own in keyed) or not _alike(keyed):
        return None
    logs = np.stack([_in_order(own, first.keys) for own in keyed])
    if not first.labels:
        return replace(first, logs=np.logaddexp.reduce(logs) - np.log(len(logs)))
    mean = logs.mean(0)
    return replace(first, logs=mean - np.logaddexp.reduce(mean, axis=-1, keepdims=True))


def instance_wise(models: Sequence[Answers]) -> Answers | None:
    """The mean of probabilities, each model's weight anew for each example (`merging.evaluation.closeness`).

    The labels are those of all models together, and a model gives 0 to those that it lacks: so models of several tasks
    answer together without being told which task it is. None where that cannot be.
    """
    keyed = [with_keys(own) for own in models if own.closeness is not None]
    if len(keyed) < 2 or not _alike(keyed):
        return None
    weights = shares([own.closeness for own in keyed if own.closeness is not None])
    names: dict[str, str] = {}
    for own in keyed:
        names = dict(zip(own.keys, own.labels, strict=False)) | names
    keys = tuple(names)
    total = np.zeros((len(keyed[0].logs), len(keys) or 1))
    for own, weight in zip(keyed, weights, strict=True):
        places = [keys.index(key) for key in own.keys] or [0]
        total[:, places] += own.spread(weight)[:, None] * np.exp(own.logs)
    logs = np.log(np.maximum(total, LEAST))  # NaN stays NaN
    return Answers(logs, keyed[0].starts, tuple(names.values()), keys=keys)


def with_keys(answers: Answers) -> Answers:
    """The answers with a key for each class: its name without case and separators where that is its own."""
    folds = unique_folds(answers.labels)
    keys = tuple(fold(label) if folds.get(fold(label)) == label else label for label in answers.labels)
    return replace(answers, keys=keys)


def _alike(models: Sequence[Answers]) -> bool:
    """Whether all have the same decisions: the same words, or the same tokens."""
    return all(np.array_equal(own.starts, models[0].starts) for own in models)


def _in_order(answers: Answers, keys: Sequence[str]) -> Floats:
    """The logs with the classes in that order."""
    return answers.logs[:, [answers.keys.index(key) for key in keys]] if keys else answers.logs
