"""What is known of examples and models before any model is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merging.errors import InputError
from merging.recipe import EvaluationSet
from merging.variants import output_of

Words = str | tuple[str, ...]
# kind of task -> what models made for it give, see `merging.variants`
OUTPUTS: Mapping[str, str] = {
    "classification": "classes",
    "token-classification": "token classes",
    "language-modelling": "next tokens",
}


@dataclass(frozen=True)
class Example:
    """One row of a labelled set: a text with its label, words with one label each, or a text alone."""

    text: Words
    label: Words | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as JSON keeps it."""
        return {"text": self.text, "label": self.label}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Example":
        """The example that `as_dict` gave."""
        text, label = data["text"], data["label"]
        return cls(tuple(text) if isinstance(text, list) else text, tuple(label) if isinstance(label, list) else label)


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Label names of a config.json in the order of their index; empty where it names none."""
    names = config.get("id2label") or {}
    return tuple(str(names[key]) for key in sorted(names, key=int))


def kind_name(config: Mapping[str, Any]) -> str:
    """The kind of task that a model of that config.json is made for; "" where there are no figures for it here."""
    try:
        output = output_of(config)
    except InputError:
        return ""
    return next((name for name, made in OUTPUTS.items() if made == output), "")


def wanted_kind(wish: EvaluationSet, number: int, models: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The kind of an evaluation set of that number: as it says, or what the models are made for.

    `models` are (task, config.json) of the parents; where the set names a head, that parent's kind counts. Raises
    InputError where they are made for several kinds, or for none that there are figures for.
    """
    if wish.kind != "auto":
        return wish.kind
    head = wish.head or next(iter(wish.in_domain), "")
    asked = [config for task, config in models if task == head] or [config for _, config in models]
    kinds = list(dict.fromkeys(filter(None, map(kind_name, asked))))
    if len(kinds) == 1:
        return kinds[0]
    why = "The models are made for several" if kinds else f"There are figures for {', '.join(OUTPUTS)}"
    raise InputError(f"What kind of task is {wish.title}?", why, "Say its kind", f"evaluate.{number}.kind")
