"""What a statistics file holds, in words and figures that a person can judge it by; its header is enough."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from merging.parent import StatisticsFact

NAMES = {"gram": "Gram matrices (RegMean)", "fisher": "Fisher information"}
VARIANTS = {
    "exact": "exact, over all of the model's answers",
    "sampled": "sampled, over answers drawn from the model",
    "empirical": "empirical, of the true answers",
}


@dataclass(frozen=True)
class Summary:
    """One statistics file. Texts are from its header, so from strangers: escape them."""

    kind: str  # "gram" or "fisher"
    source: str  # `owner/repo@sha:path`, or a path on this machine
    nbytes: int
    layers: int  # weights covered
    widest: int  # inputs of the widest of them (Gram), 0 for Fisher
    examples: int
    tokens: int  # real tokens seen by the layer that saw most; 0 for Fisher, which counts examples
    fullness: float  # tokens for each input, of the layer that has fewest; below 1 its Gram lacks rank (as `lacking`)
    lacking: int  # layers with fewer tokens than inputs, those that see one row an example left aside
    belongs: bool | None  # to the weights it was compared with; None when there was nothing to compare
    model: str = ""
    revision: str = ""
    dataset: str = ""  # "" is a text that is not published
    dataset_revision: str = ""
    max_length: str = ""
    seed: str = ""
    sha256: str = ""
    variant: str = ""  # of a Fisher

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the facts as people read them."""
        return asdict(self) | {"facts": self.facts(), "warnings": list(self.warnings())}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Summary":
        """The summary that was stored by `as_dict`."""
        return cls(**{name: value for name, value in data.items() if name in cls.__dataclass_fields__})

    @property
    def title(self) -> str:
        """What kind of statistics these are."""
        return NAMES.get(self.kind, self.kind)

    def facts(self) -> dict[str, str]:
        """Every fact with its name, in the order in which people ask."""
        facts = {"Model": f"{self.model or 'not named'}{f' at {self.revision[:8]}' if self.revision else ''}"}
        facts["Weights"] = {True: "the same", False: "others than the model has now", None: "not compared"}[
            self.belongs
        ]
        facts["Collected from"] = self.dataset or "a text that is not published"
        facts["Examples"] = f"{self.examples:,}" + (
            f", each of at most {self.max_length} tokens" * bool(self.max_length)
        )
        if self.kind == "gram":
            facts["Tokens"] = f"{self.tokens:,}"
            facts["Layers"] = f"{self.layers}, the widest with {self.widest:,} inputs"
            facts["Fullness"] = f"{_few(self.fullness)} tokens for each input of the layer with the fewest"
        else:
            facts["Tensors"] = f"{self.layers}"
            if self.variant in VARIANTS:
                facts["Kind"] = VARIANTS[self.variant]
        facts["Size"] = f"{self.nbytes / 1e6:,.1f} MB" if self.nbytes >= 1e5 else f"{self.nbytes / 1e3:.1f} kB"
        return facts

    def warnings(self) -> tuple[str, ...]:
        """What should give somebody pause who is about to use or to publish the file."""
        said = []
        if self.belongs is False:
            said.append("These statistics were collected from other weights: a merge refuses them.")
        if self.lacking:
            which = "One layer has" if self.lacking == 1 else f"{self.lacking} layers have"
            said.append(
                f"{which} fewer tokens than inputs: the solve leans on the ridge there, and the file says more about "
                "single examples than you may want. More examples mend both."
            )
        return tuple(said)

    def lines(self) -> list[str]:
        """The summary as plain text."""
        return [
            f"{self.title}: {self.source}",
            *(f"  {name.lower()}: {value}" for name, value in self.facts().items()),
            *(f"  warning: {sentence}" for sentence in self.warnings()),
        ]


def summarise(fact: StatisticsFact, metadata: Mapping[str, str], weights: Mapping[str, str] | None = None) -> Summary:
    """The summary of a file by its header. `weights` are the model's own (file -> SHA-256, "" where not known)."""
    gram = fact.kind == "gram"
    ratios = [fact.tokens[name] / fact.keys[name] for name in _seeing_all(fact)] if gram else []
    known = {digest for digest in (weights or {}).values() if digest}
    texts = {name: metadata.get(name, "")[:300] for name in ("model", "revision", "dataset", "dataset_revision")}
    return Summary(
        kind=fact.kind,
        source=fact.source,
        nbytes=fact.nbytes,
        layers=len(fact.keys),
        widest=max(fact.keys.values()) if gram else 0,
        examples=fact.examples,
        tokens=max(fact.tokens.values()) if gram else 0,
        fullness=round(min(ratios), 3) if gram else 0.0,
        lacking=sum(ratio < 1 for ratio in ratios),
        belongs=known == set(fact.weights.values()) if known else None,
        max_length=metadata.get("max_length", "")[:20],
        seed=metadata.get("seed", "")[:20],
        sha256=fact.sha256,
        variant=fact.variant,
        **texts,
    )


def _seeing_all(fact: StatisticsFact) -> list[str]:
    """The layers that see every token; few rows are normal for the others, such as a pooler or a head."""
    once = {name for name in fact.keys if fact.tokens[name] == fact.examples < max(fact.tokens.values())}
    return [name for name in fact.keys if name not in once]


def _few(value: float) -> str:
    """Two digits that mean something: `0.42`, `3.1`, `26`."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"
