"""Classification of texts: accuracy and macro F1."""

from collections.abc import Mapping, Sequence

import numpy as np

from merging.evaluation.answers import Answers
from merging.evaluation.facts import Example, label_names
from merging.evaluation.kind import Answering, Floats, Kind, Watch, forward
from merging.loading import Loaded


class Classification(Kind):
    """One label for each text."""

    name = "classification"
    metric = "accuracy"

    def answer(self, loaded: Loaded, examples: Sequence[Example], size: int, watch: Watch) -> Answering:
        """Log-probabilities of the model's labels, one row a text."""
        labels = label_names(loaded.model.config.to_dict())
        logs, done = np.empty((len(examples), len(labels))), 0
        for chosen, _, outputs in forward(loaded, [str(example.text) for example in examples], size, watch):
            logs[chosen] = outputs.logits.float().log_softmax(-1).cpu().numpy()
            done += len(chosen)
            yield done
        return Answers(logs, np.arange(len(examples) + 1), labels)

    def counts(self, answers: Answers, examples: Sequence[Example], names: Mapping[str, str]) -> Floats:
        """Right answers, then for each label that is given or meant: right ones, times given, times meant."""
        meant = [names[str(example.label)] for example in examples]
        given = [answers.labels[index] for index in answers.logs.argmax(-1)]
        places = {label: place for place, label in enumerate(sorted({*meant, *given}))}
        rows, count = np.arange(len(examples)), len(places)
        gold = np.array([places[label] for label in meant], int)
        said = np.array([places[label] for label in given], int)
        found = np.zeros((len(examples), 1 + 3 * count))
        right = gold == said
        found[:, 0] = right
        found[rows, 1 + gold] = right
        found[rows, 1 + count + said] = 1
        found[rows, 1 + 2 * count + gold] = 1
        return found

    def figures(self, sums: Floats) -> dict[str, Floats]:
        """Accuracy; macro F1, the mean over all labels that are given or meant of F1 = 2 right / (given + meant)."""
        right, given, meant = np.split(sums[..., 1:], 3, axis=-1)
        present = given + meant > 0
        each = 2 * right / np.where(present, given + meant, 1)
        return {
            "accuracy": sums[..., 0] / meant.sum(-1),
            "macro_f1": each.sum(-1) / present.sum(-1),
        }
