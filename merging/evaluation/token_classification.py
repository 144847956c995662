"""Classification of words: F1, precision and recall of entities.

An entity is a run of words of one type, as the CoNLL tasks count it, for tags in IOB1 and in IOB2 (and IOBES): it
begins at a tag B or S, at any other tag whose type is not that of the word before it, and behind an E or S. It is
right when its type, its first and its last word are. Tags without B-, I-, E-, S- are types themselves. A word that was
cut off, or has no token of its own, counts as O. The first token of a word answers for it.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from merging.evaluation.answers import Answers
from merging.evaluation.facts import Example, label_names
from merging.evaluation.kind import Answering, Floats, Kind, Watch, forward
from merging.loading import Loaded

OUTSIDE = "O"
Entity = tuple[str, int, int]  # type, first word, last word


class TokenClassification(Kind):
    """One label for each word."""

    name = "token-classification"
    metric = "entity_f1"
    by_word = True

    def answer(self, loaded: Loaded, examples: Sequence[Example], size: int, watch: Watch) -> Answering:
        """Log-probabilities of the model's labels, one row a word; NaN for a word that was cut off."""
        labels = label_names(loaded.model.config.to_dict())
        texts = [" ".join(example.text) for example in examples]
        starts = np.cumsum([0, *(len(example.text) for example in examples)])
        logs, done = np.full((starts[-1], len(labels)), np.nan), 0
        for chosen, _, outputs in forward(loaded, texts, size, watch):
            scores = outputs.logits.float().log_softmax(-1).cpu().numpy()
            for row, index in enumerate(chosen):
                for word, token in _first_tokens(loaded, texts[index], examples[index].text):
                    logs[starts[index] + word] = scores[row, token]
            done += len(chosen)
            yield done
        return Answers(logs, starts, labels)

    def counts(self, answers: Answers, examples: Sequence[Example], names: Mapping[str, str]) -> Floats:
        """Right entities, entities given, entities meant."""
        back = {model: data for data, model in names.items()}
        found = np.zeros((len(examples), 3))
        for index, example in enumerate(examples):
            rows = answers.logs[answers.starts[index] : answers.starts[index + 1]]
            best = np.where(np.isnan(rows).any(-1), -1, np.nan_to_num(rows, nan=-np.inf).argmax(-1))
            said = [OUTSIDE if label < 0 else answers.labels[label] for label in best]
            given, meant = set(entities([back.get(label, label) for label in said])), set(entities(example.label or ()))
            found[index] = len(given & meant), len(given), len(meant)
        return found

    def figures(self, sums: Floats) -> dict[str, Floats]:
        """F1 over all entities, precision, recall; 0 where there are none."""
        right, given, meant = sums[..., 0], sums[..., 1], sums[..., 2]
        return {
            "entity_f1": 2 * right / np.maximum(given + meant, 1),
            "precision": right / np.maximum(given, 1),
            "recall": right / np.maximum(meant, 1),
        }


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities of one text, in order."""
    start, before_prefix, before_type = 0, OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, type_ = _parts(tag)
        goes_on = prefix in "IE" and before_prefix in "BI" and type_ == before_type
        if not goes_on:
            if before_prefix != OUTSIDE:
                yield before_type, start, place - 1
            start = place
        before_prefix, before_type = prefix, type_


def _parts(tag: str) -> tuple[str, str]:
    """(B, I, E, S or O; the type)."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, rest = tag.partition("-")
    return (prefix, rest) if dash and prefix in ("B", "I", "E", "S") else ("I", tag)


def _first_tokens(loaded: Loaded, text: str, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(word, its first token) of every word that has one before the text is cut."""
    encoded = loaded.tokenizer(text, truncation=True, max_length=loaded.max_length, return_offsets_mapping=True)
    spans = [(token, begin, end) for token, (begin, end) in enumerate(encoded["offset_mapping"]) if end > begin]
    place = at = 0
    for word, letters in enumerate(words):
        end = at + len(letters)
        while place < len(spans) and spans[place][2] <= at:
            place += 1
        if place < len(spans) and letters and spans[place][1] < end:
            yield word, spans[place][0]
        at = end + 1
