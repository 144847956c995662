"""A parent: all that is known of one model of a recipe before its weights are read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from merging.modules import MODULES_FILE, Module, modules_of
from merging.sketch import Sketches
from merging.tensors import Header, HeaderSource, TensorSource


@dataclass(frozen=True)
class StatisticsFact:
    """What the header of a statistics file says: enough for a plan, without its values.

    `keys` maps every covered disk name to the number of rows of its Gram (inputs of the layer), or, for a
    Fisher file, to the number of values of the tensor.
    """

    kind: str  # "gram" or "fisher"
    source: str  # `owner/repo@sha:path`, or a path on this machine
    sha256: str  # of the file, in hex; "" while it is not known
    weights: Mapping[str, str]  # weight file -> SHA-256 (hex) of the weights that the statistics belong to
    keys: Mapping[str, int]
    tokens: Mapping[str, int]  # real tokens seen by each covered name (Gram), examples (Fisher)
    examples: int
    nbytes: int = 0
    variant: str = ""  # of a Fisher: "exact", "sampled" or "empirical"
    sketches: Sketches = field(default_factory=dict)  # of the model's matrices, see `merging.sketch`
    traces: Mapping[str, float] = field(default_factory=dict)  # tr(G) of each covered name


@dataclass(frozen=True)
class Parent:
    """One model of a recipe, pinned. Made from Hub headers (`hub.resolve`) or a folder (`merging.checkpoint`)."""

    model: str  # as the recipe names it, without the revision: `owner/name` or a folder
    revision: str  # commit sha; "" for a folder
    config: Mapping[str, Any]  # config.json
    source: TensorSource
    files: Mapping[str, int] = field(default_factory=dict)  # every file of the repo -> size in bytes
    weights: Mapping[str, str] = field(default_factory=dict)  # weight file -> SHA-256 in hex ("" if unknown)
    digests: Mapping[str, str] = field(default_factory=dict)  # other file of the Hub -> SHA-256, or git's id of it
    headers: Mapping[str, Header] = field(default_factory=dict)  # weight file -> its header
    stamp: tuple[tuple[str, int, int, int, int], ...] = ()  # of a folder: what changes with its weight files
    vocabulary: str = ""  # fingerprint of token -> id; "" when there is no tokenizer
    statistics: Mapping[str, StatisticsFact] = field(default_factory=dict)  # kind -> what is known of the file
    calibration: bool = False  # the recipe names text from which missing statistics will be collected
    license: str = ""
    fine_tuned_from: str = ""  # the one model that its card names as its base
    restricted: bool = False  # private or gated: the result is private too unless its owner says otherwise
    names: Mapping[str, str] = field(default_factory=dict)  # name in a plan -> on disk, where they differ
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # name in a plan -> order of its rows on disk
    side: Mapping[str, Any] = field(default_factory=dict)  # small file -> its data: see `modules.side_names`

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of their index, empty when the config names none."""
        names = self.config.get("id2label") or {}
        return tuple(str(names[key]) for key in sorted(names, key=int))

    @property
    def model_type(self) -> str:
        """`bert`, `llama`, ... or "" when the config does not say."""
        return str(self.config.get("model_type") or "")

    @property
    def architecture(self) -> str:
        """The class that the config names first, such as `BertForSequenceClassification`."""
        return str((self.config.get("architectures") or [""])[0])

    def disk(self, name: str) -> str:
        """What the tensor that a plan calls `name` is called on disk; see `merging.alignment`."""
        return self.names.get(name, name)

    @property
    def state(self) -> Sequence[Sequence[str | int]]:
        """What changes with its weights: sizes and dates of the files of a folder, else their hashes."""
        return self.stamp or sorted(self.weights.items())

    @property
    def modules(self) -> tuple[Module, ...]:
        """The modules of a sentence-transformers repo; none for a plain transformer."""
        return modules_of(self.side.get(MODULES_FILE), self.model)

    @property
    def outline(self) -> "Parent":
        """The same without what is said of each tensor: small enough to be kept for everybody who looks at a page."""
        none: dict[str, Any] = {"weights": {}, "keys": {}, "tokens": {}, "sketches": {}, "traces": {}}
        facts = {kind: replace(fact, **none) for kind, fact in self.statistics.items()}
        return replace(self, source=HeaderSource({}), headers={}, names={}, rows={}, side={}, statistics=facts)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(self.files.get(name, 0) for name in self.weights)


def with_base(parents: Iterable[Parent], base: Parent | None) -> tuple[Parent, ...]:
    """All models that a merge reads: the parents, and behind them the base of a method that needs one."""
    return (*parents, *((base,) if base else ()))
