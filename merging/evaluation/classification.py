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
        """Right answers, then for each label of the data: right ones, times given, times meant."""
        meant = [names[str(example.label)] for example in examples]
        places = {label: place for place, label in enumerate(sorted(set(meant)))}
        rows, count = np.arange(len(examples)), len(places)
        gold = np.array([places[label] for label in meant], int)
        said = np.array([places.get(answers.labels[index], -1) for index in answers.logs.argmax(-1)], int)
        found = np.zeros((len(examples), 1 + 3 * count))
        right, known = gold == said, said >= 0
        found[:, 0] = right
        found[rows, 1 + gold] = right
        found[rows[known], 1 + count + said[known]] = 1
        found[rows, 1 + 2 * count + gold] = 1
        return found

    def figures(self, sums: Floats) -> dict[str, Floats]:
        """Accuracy; macro F1, the mean over all labels that the data have of F1 = 2 right / (given + meant).

        An answer that is no label of the data is a miss like any other, not one more label with an F1 of 0.
        """
        right, given, meant = np.split(sums[..., 1:], 3, axis=-1)
        present = meant > 0
        each = np.where(present, 2 * right / np.where(present, given + meant, 1), 0)
        return {
            "accuracy": sums[..., 0] / meant.sum(-1),
            "macro_f1": each.sum(-1) / present.sum(-1),
        }
