"""A recipe: the whole wish as strict data, YAML in and out.

A superset of the YAML that people already write for merges (`merge_method`, `models`, `base_model`,
`parameters`, `dtype`); added are `statistics`, `calibration` and `task` per model, `evaluate`, `sweep`, `output` and
`seed`.
A recipe never holds a token.
"""

import base64
import os
import re
import zlib
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import merging.methods  # noqa: F401  (registers every method)
from merging.errors import PROBLEMS_LIMIT, InputError, Problem
from merging.method import MergeMethod, did_you_mean, find_method
from merging.yaml_text import YAML_LIMIT, read_yaml

LINK_LIMIT = 20_000  # characters of a packed recipe in a link
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
MODELS_LIMIT = 100  # of one recipe: each is looked up
TASK_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
StatisticsKind = Literal["gram", "fisher"]
EvaluationKind = Literal["auto", "classification", "token-classification", "language-modelling"]
HANDED_OVER = "handed-over.jsonl"  # as the name of data: what came with the wish, and is no part of it
SETS_LIMIT = 12  # of one recipe


class Strict(BaseModel):
    """Frozen data in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class StatisticsRef(Strict):
    """Where published statistics are: `owner/repo[@revision][:path]`, or a file on this machine."""

    source: str
    sha256: str = ""


class Calibration(Strict):
    """Text from which a job collects a model's statistics, also where some are published; `statistics` goes first."""

    data: str  # `id[:config][:split]` of a Hub dataset, or a local .jsonl, .csv, .tsv, .txt (command line only)
    text_column: str | None = None
    target_column: str | None = None  # of an encoder-decoder: the answer; without one it writes its own
    image_column: str | None = None
    label_column: str | None = None  # gold labels, for the empirical Fisher
    numbers: Literal["bfloat16", "float32"] = "bfloat16"  # of a Gram file: half the space, the same accuracy
    variant: Literal["auto", "exact", "sampled", "empirical"] = "auto"  # of a Fisher; see `merging.variants`
    examples: int = Field(default=600, ge=1, le=100_000)
    max_length: int = Field(default=128, ge=2, le=8192)
    batch_size: int = Field(default=16, ge=1, le=1024)
    seed: int = 0


class ModelEntry(Strict):
    """One parent of the merge."""

    model: str = Field(min_length=1, max_length=300)
    parameters: dict[str, Any] = {}
    task: str | None = None  # subfolder of its head when heads stay apart; by default made from its name
    statistics: dict[StatisticsKind, StatisticsRef] = {}
    calibration: Calibration | None = None

    @model_validator(mode="before")
    @classmethod
    def _just_a_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @field_validator("statistics", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {kind: {"source": ref} if isinstance(ref, str) else ref for kind, ref in value.items()}
        return value

    @field_validator("task")
    @classmethod
    def _task_is_a_folder_name(cls, value: str | None) -> str | None:
        if value is not None and (not TASK_NAME.fullmatch(value) or ".." in value):
            raise ValueError("a task is a folder name: letters, digits, '-', '_' and '.'")
        return value

    @property
    def is_folder(self) -> bool:
        """True for a folder on this machine (command line only)."""
        return self.model.startswith(("/", "./", "../", "~"))

    def names(self, other: "ModelEntry") -> bool:
        """True when both are the same folder, or the same revision of the same repo."""
        if self.is_folder or other.is_folder:
            folders = [os.path.normpath(os.path.expanduser(entry.model)) for entry in (self, other)]
            return self.is_folder == other.is_folder and folders[0] == folders[1]
        return (self.repo_id.lower(), self.revision or "main") == (other.repo_id.lower(), other.revision or "main")

    @property
    def repo_id(self) -> str:
        """The model without its revision."""
        return self.model if self.is_folder else self.model.partition("@")[0]

    @property
    def revision(self) -> str | None:
        """What stands behind the @, if anything."""
        return None if self.is_folder else (self.model.partition("@")[2] or None)

    @property
    def short_name(self) -> str:
        """The last part of the repo id or folder."""
        return self.repo_id.rstrip("/").rpartition("/")[2]


class EvaluationSet(Strict):
    """Labelled text on which the merge is compared with its parents (`merging.evaluation`)."""

    data: str = Field(min_length=1, max_length=300)  # `id[:config][:split]`, a local file, or what was handed over
    name: str = Field(default="", max_length=60)  # of the domain, for people; by default the last part of `data`
    kind: EvaluationKind = "auto"  # auto: what the parents are made for
    in_domain: tuple[str, ...] = ()  # tasks of the recipe whose own text this is; empty: out of every parent's domain
    head: str | None = None  # the task whose head answers where heads stay apart; by default the first of in_domain
    text_column: str | None = None
    label_column: str | None = None
    labels: dict[str, str] = Field(default={}, max_length=2000)  # label in the data -> label of the model
    examples: int = Field(default=500, ge=1, le=20_000)
    max_length: int = Field(default=128, ge=2, le=8192)
    batch_size: int = Field(default=16, ge=1, le=1024)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @property
    def is_handed_over(self) -> bool:
        """True when the rows are no dataset but came with the recipe."""
        return self.data == HANDED_OVER

    @property
    def title(self) -> str:
        """The name, or what the data are called; what was uploaded, by the tasks whose domain it is."""
        if self.name or self.is_handed_over:
            return self.name or " and ".join(self.in_domain) or "uploaded text"
        return self.data.rstrip("/").rpartition("/")[2]


class Sweep(Strict):
    """Other values of one numeric parameter, at which the merge is evaluated too (`merging.sweep`)."""

    parameter: str = Field(min_length=1, max_length=60)
    values: tuple[int | float | str, ...]  # 2 to 12, in the parameter's own range
    model: str | None = None  # the task whose value it is, where each model has its own; by default all of them


class Output(Strict):
    """What becomes of the result."""

    repo_id: str | None = None  # `owner/name`: the new repo
    private: bool | None = None  # None: private when a parent is
    root: str | None = None  # the task whose head stands at the root of the repo; the first by default

    @field_validator("repo_id")
    @classmethod
    def _repo_id_is_valid(cls, value: str | None) -> str | None:
        if value is not None and not valid_repo_id(value):
            raise ValueError("a repo id is owner/name, each of letters, digits, '-', '_' and '.', at most 96 long")
        return value


class Recipe(Strict):
    """What to merge, how, and where to."""

    merge_method: str
    models: tuple[ModelEntry, ...]
    base_model: str | None = Field(default=None, max_length=300)  # `owner/name[@revision]`, or a folder: see `base`
    parameters: dict[str, Any] = {}
    dtype: Literal["float32", "float16", "bfloat16"] | None = None  # None: that of the first model
    seed: int = Field(default=0, ge=0, lt=2**31)
    evaluate: tuple[EvaluationSet, ...] = Field(default=(), max_length=SETS_LIMIT)
    sweep: Sweep | None = None
    output: Output = Output()

    @field_validator("models", mode="before")
    @classmethod
    def _not_too_many(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) > MODELS_LIMIT:
            raise ValueError(f"a recipe has at most {MODELS_LIMIT} models")
        return value

    @field_validator("base_model")
    @classmethod
    def _no_name_is_none(cls, value: str | None) -> str | None:
        return value or None

    @model_validator(mode="after")
    def _method_and_parameters_fit(self) -> "Recipe":
        kept = self._without_base()
        self.method.bind(self.parameters, [self.models[place].parameters for place in kept], kept)
        object.__setattr__(self, "models", tuple(self.models[place] for place in kept))
        return self

    def _without_base(self) -> list[int]:
        """Places of the models that are merged: the base is left out, with all that stands there."""
        return [place for place, entry in enumerate(self.models) if not (self.base and entry.names(self.base))]

    @property
    def method(self) -> MergeMethod:
        """The registered method."""
        return find_method(self.merge_method)

    @property
    def base(self) -> ModelEntry | None:
        """The model that the others were fine-tuned from; None when the method needs none or none is named."""
        return ModelEntry(model=self.base_model) if self.base_model and "base" in self.method.needs else None

    def bound(self) -> dict[str, Any]:
        """Keyword arguments of the method's function, checked."""
        return self.method.bind(self.parameters, [entry.parameters for entry in self.models])

    @property
    def effective_weights(self) -> tuple[float, ...]:
        """Each model's share after normalisation."""
        return self.method.effective_weights(self.bound(), len(self.models))

    @property
    def tasks(self) -> tuple[str, ...]:
        """One folder name a model: its `task`, or what sets its name apart from the others'."""
        names = distinctive([entry.short_name for entry in self.models])
        return tuple(entry.task or name for entry, name in zip(self.models, names, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain data without what was left at its default."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def to_yaml(self) -> str:
        """The recipe as a file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def to_link(self) -> str:
        """The recipe packed for a link, without its output: a link never says where somebody's result goes."""
        plain = self.model_copy(update={"output": Output(root=self.output.root)})
        return base64.urlsafe_b64encode(zlib.compress(plain.to_yaml().encode(), 9)).decode().rstrip("=")

    def without_base_among_models(self) -> "Recipe":
        """The recipe after its paths were changed: a model may name the base only now."""
        return self.model_copy(update={"models": tuple(self.models[place] for place in self._without_base())})

    def without_output(self) -> "Recipe":
        """The same wish with no repo id and no visibility."""
        return self.model_copy(update={"output": Output(root=self.output.root)})


class RecipeError(InputError):
    """Data that are no recipe, every field at fault named.

    `rest` is what can be looked up all the same: the models, their base and the place of the result, as a recipe;
    None where not even the models can be read.
    """

    rest: Recipe | None = None


def recipe_from_yaml(text: str) -> Recipe:
    """The recipe in a YAML text. Raises InputError for no YAML, and RecipeError."""
    return recipe_from_dict(read_yaml(text))


def recipe_from_dict(data: Any) -> Recipe:
    """The recipe in plain data. Raises InputError for data of another kind, and RecipeError."""
    if data is None:
        raise InputError("The recipe is empty", "", "Begin with `merge_method:` and `models:`")
    if not isinstance(data, dict):
        raise InputError(
            "The recipe is not a mapping",
            f"it is {type(data).__name__}",
            "Begin with `merge_method:` and `models:`",
        )
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        found = [*refusal(error).problems, *_method_problems(data)]
    except InputError as error:
        found = list(error.problems)
    refused = RecipeError.of(found)
    refused.rest = _rest(data, [problem.where for problem in found])
    raise refused


def _method_problems(data: dict[str, Any]) -> list[Problem]:
    """What is wrong with the method and its parameters in data that are no recipe for other reasons."""
    name, models = data.get("merge_method"), data.get("models")
    entries = models[:MODELS_LIMIT] if isinstance(models, list) else []
    own = {
        place: _named(entry.get("parameters")) if isinstance(entry, dict) else {}
        for place, entry in enumerate(entries)
        if data.get("base_model") != (entry.get("model", "") if isinstance(entry, dict) else entry)
    }
    try:
        if isinstance(name, str):
            find_method(name).bind(_named(data.get("parameters")), [*own.values()], [*own])
    except InputError as error:
        return list(error.problems)
    return []


def _named(values: Any) -> dict[str, Any]:
    """The parameters among some data."""
    return {key: value for key, value in values.items() if isinstance(key, str)} if isinstance(values, dict) else {}


def _rest(data: dict[str, Any], faults: list[str]) -> Recipe | None:
    """See `RecipeError`: the fields that are looked up, without those at fault."""

    def sound(where: str) -> bool:
        return not any(f"{fault}.".startswith(f"{where}.") for fault in faults)

    try:
        entries = [{"model": entry} if isinstance(entry, str) else entry for entry in data["models"]]
        fields = ("model", "task", "statistics", "calibration")
        rest: dict[str, Any] = {key: data[key] for key in ("merge_method", "base_model") if key in data and sound(key)}
        rest["models"] = [
            {key: entry[key] for key in fields if key in entry and sound(f"models.{index}.{key}")}
            for index, entry in enumerate(entries)
        ]
        if sound("output") and "output" in data:
            rest["output"] = data["output"]
        return Recipe.model_validate({"merge_method": "average"} | rest)
    except (ValidationError, InputError, TypeError, KeyError):
        return None


def refusal(error: ValidationError, root: type[BaseModel] = Recipe) -> InputError:
    """What is wrong with data that was to be a `root`, each field at fault named."""
    return InputError.of(_problem(detail, root) for detail in error.errors(include_url=False)[:PROBLEMS_LIMIT])


def recipe_from_link(packed: str) -> Recipe:
    """The recipe in a link. Bounded when unpacked; output names in it are dropped."""
    broken = InputError("The recipe link cannot be read", "it is cut off or damaged", "Copy the whole link again")
    if len(packed) > LINK_LIMIT:
        raise InputError("The recipe link is too long", f"{len(packed):,} characters", "Send the recipe as a file")
    try:
        raw = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(raw, YAML_LIMIT)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise broken
        return recipe_from_yaml(text.decode()).without_output()
    except (ValueError, zlib.error):
        raise broken from None


def valid_repo_id(repo_id: str) -> bool:
    """True for an `owner/name` that the Hub accepts."""
    _, _, name = repo_id.partition("/")
    return bool(REPO_ID.fullmatch(repo_id)) and not re.search(r"--|\.\.|\.git$|[.-]$", name)


def distinctive(names: list[str]) -> list[str]:
    """What sets each name apart: `minilm-banking`, `minilm-sentiment` -> `banking`, `sentiment`."""
    if not names:
        return []
    parts = [re.split(r"[-_]", name) for name in names]
    while min(map(len, parts)) > 1 and len({part[0] for part in parts}) == 1 and len(parts) > 1:
        parts = [part[1:] for part in parts]
    while min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1 and len(parts) > 1:
        parts = [part[:-1] for part in parts]
    short = ["-".join(part) for part in parts]
    short = [name if TASK_NAME.fullmatch(name) else f"task-{index + 1}" for index, name in enumerate(short)]
    return [name if short.count(name) == 1 else f"{name}-{index + 1}" for index, name in enumerate(short)]


def _problem(detail: Any, root: type[BaseModel]) -> Problem:
    """One pydantic complaint in our words."""
    where = ".".join(str(part) for part in detail["loc"])
    field = where or "The recipe"
    cause = (detail.get("ctx") or {}).get("error")
    if detail["type"] == "extra_forbidden":
        known = _known_keys(detail["loc"], root)
        fix = did_you_mean(str(detail["loc"][-1]), known) or f"Known are {', '.join(known)}"
        return Problem(f"Unknown key {field}", "a recipe has no such field", fix, where)
    if detail["type"] == "missing":
        return Problem(f"{field} is missing", "a recipe needs it", f"Add `{detail['loc'][-1]}:`", where)
    if cause is not None:
        return Problem(f"{field} = {str(detail['input'])[:80]!r}", str(cause), "Mend it", where)
    value = detail.get("input")
    shown = f" = {str(value)[:80]!r}" if not isinstance(value, dict | list) else ""
    return Problem(f"{field}{shown}", detail["msg"][0].lower() + detail["msg"][1:], "Mend it", where)


def _known_keys(loc: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    nested: dict[str, type[BaseModel]] = {
        "models": ModelEntry,
        "output": Output,
        "calibration": Calibration,
        "evaluate": EvaluationSet,
        "sweep": Sweep,
        "text": Calibration,
        "statistics": StatisticsRef,
    }
    model = root
    for part in loc[:-1]:
        model = nested.get(str(part), model)
    return list(model.model_fields)
