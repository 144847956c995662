"""Merge methods: pure functions on a `TensorGroup`, declared once.

The decorator reads the keyword-only arguments of the function: their types, ranges, defaults and help texts
become the form, the recipe's validation, the command line, the method table and the contract tests.

    @merge_method(title="Average", paper="...", splits="elements")
    def average(group: TensorGroup, *, weight: Weights = None, normalize: Normalize = True) -> Tensor: ...
"""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from torch import Tensor

from merging.errors import InputError, Problem, gathered
from merging.layers import ByLayer
from merging.tensors import TensorGroup

Need = Literal["base", "gram", "fisher"]
Splits = Literal["elements", "rows", "whole"]


@dataclass(frozen=True)
class Option:
    """The annotation of a method's argument: `Annotated[float, Option("help", minimum=0, maximum=1)]`."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    per_model: bool = False
    default: Any = None  # of a per-model option: the value of a model that names none
    by_layer: bool = False  # a recipe may name other values for some layers, see `ByLayer`


@dataclass(frozen=True)
class Parameter:
    """One argument of a method, as forms, validation and docs see it."""

    name: str
    kind: Literal["float", "int", "bool", "choice"]
    default: Any
    option: Option
    argument: str = ""  # of the function, where it has another name: `lambda_`, for `lambda` is a word of Python

    @property
    def per_model(self) -> bool:
        """True when each model has its own value."""
        return self.option.per_model

    def check(self, value: Any, where: str) -> Any:
        """The value in its own type, or an InputError that names the range."""
        option = self.option
        if isinstance(value, list) and option.by_layer:
            return self._by_layer(value, where)
        if value is None:
            why = "it needs a value"
            if self.kind in ("float", "int"):  # a page sends nothing for 1e999
                why += ", and one that is too large to be a finite number counts as none"
            raise InputError(f"{self.name} is empty", why, f"Leave it at {self.default}", where)
        if self.kind == "bool":
            if not isinstance(value, bool):
                raise InputError(f"{self.name} = {value!r}", "it is true or false", f"Write {self.name}: true", where)
            return value
        if self.kind == "choice":
            if value not in option.choices:
                raise InputError(
                    f"{self.name} = {value!r}", f"it is one of {', '.join(option.choices)}", "Pick one of them", where
                )
            return value
        if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value):
            value = float(value)  # YAML reads 1e-6 as a text
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
            why = "it is not a finite number" if number else "it is not a number"
            raise InputError(f"{self.name} = {value!r}", why, f"Give a number, {self.range}", where)
        if self.kind == "int" and value != int(value):
            raise InputError(f"{self.name} = {value!r}", "it is not a whole number", "Give a whole number", where)
        low, high = option.minimum, option.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            raise InputError(f"{self.name} = {value}", "it is out of range", f"Give a number {self.range}", where)
        return int(value) if self.kind == "int" else float(value)

    def _by_layer(self, cases: list[Any], where: str) -> ByLayer:
        """`[0, 0.5, 1]` from the first layer to the last, or `[{filter: attention, value: 0.9}, {value: 1.0}]`.

        A case's value may be such a list of numbers. The parameter's default stands behind the last case.
        """
        if not any(isinstance(case, dict) for case in cases):
            return ByLayer((("", self._gradient(cases, where)),))
        found = []
        for index, case in enumerate(cases):
            place = f"{where}.{index}"
            if not isinstance(case, dict) or "value" not in case or not set(case) <= {"filter", "value"}:
                raise InputError(
                    f"{place} = {str(case)[:80]!r}",
                    "a value for some layers is written {filter: text, value: number}",
                    "Write it so",
                    place,
                )
            text = str(case.get("filter") or "*")
            found.append(("" if text == "*" else text, self._gradient(case["value"], place)))
            if not found[-1][0]:
                return ByLayer(tuple(found))
        return ByLayer((*found, ("", (self.default,))))

    def _gradient(self, value: Any, where: str) -> tuple[float, ...]:
        """The numbers from the first layer to the last: one, or several in a list."""
        if not isinstance(value, list):
            return (self.check(value, where),)
        if not value:
            raise InputError(f"{where} is an empty list", "it needs a value", f"Give numbers, {self.range}", where)
        if any(isinstance(one, list | dict) for one in value):
            why = "a list of values over the layers holds numbers"
            raise InputError(f"{where} = {str(value)[:80]!r}", why, "Write them so: [0, 0.5, 1]", where)
        return tuple(self.check(one, f"{where}.{index}") for index, one in enumerate(value))

    @property
    def range(self) -> str:
        """The allowed values in words."""
        low, high = self.option.minimum, self.option.maximum
        if self.option.choices:
            return " or ".join(self.option.choices)
        if self.kind == "bool":
            return "true or false"
        if low is not None and high is not None:
            return f"between {low:g} and {high:g}"
        if low is not None:
            return f"of at least {low:g}"
        return f"of at most {high:g}" if high is not None else "of any size"


@dataclass(frozen=True)
class MergeMethod:
    """A registered merge method and all that it declares."""

    name: str
    function: Callable[..., Tensor]
    title: str
    summary: str  # first line of the docstring
    doc: str
    paper: str
    splits: Splits
    parameters: tuple[Parameter, ...]
    needs: frozenset[Need] = frozenset()
    minimum_models: int = 2
    maximum_models: int | None = None
    linear_only: bool = False  # works on linear weights; every other tensor is averaged with the same weights
    aliases: tuple[str, ...] = ()
    breaks: Mapping[str, str] = field(default_factory=dict)  # contract law -> why this method breaks it
    ignores: Mapping[str, str] = field(default_factory=dict)  # a recipe may name it -> why it has no effect here

    def as_dict(self) -> dict[str, Any]:
        """The declaration in plain data."""
        return {
            "title": self.title,
            "summary": self.summary,
            "paper": self.paper,
            "aliases": list(self.aliases),
            "needs": sorted(self.needs),
            "models": [self.minimum_models, self.maximum_models],
            "breaks": dict(self.breaks),
            "ignores": dict(self.ignores),
            "parameters": {
                parameter.name: {
                    "type": parameter.kind,
                    "default": parameter.default,
                    "range": parameter.range,
                    "per_model": parameter.per_model,
                    "help": parameter.option.help,
                }
                for parameter in self.parameters
            },
        }

    def parameter(self, name: str, where: str) -> Parameter:
        """The declared parameter, or an InputError with the nearest name."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        names = [parameter.name for parameter in self.parameters]
        raise InputError(
            f"{name} is not a parameter of {self.name}",
            f"it has {', '.join(names) or 'none'}",
            did_you_mean(name, names) or "Remove it",
            where,
        )

    def bind(
        self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], places: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """The value of every parameter, from the recipe's `parameters` and each model's own; see `values_for`.

        A per-model parameter may stand in the shared block, as the value of every model that names none. `places`
        are the indexes of the models in the recipe, where some of them are left out here. Raises InputError with
        every value at fault.
        """
        own = tuple(zip(places or range(len(per_model)), per_model, strict=True))
        found: list[Problem] = []
        for name in shared:
            with gathered(found):
                self._raise_unless_known(name, f"parameters.{name}")
        for index, values in own:
            for name in values:
                with gathered(found):
                    self._raise_unless_known(name, f"models.{index}.parameters.{name}", index)
        bound: dict[str, Any] = {}
        for parameter in self.parameters:
            name = parameter.name
            where = f"parameters.{name}"
            if not parameter.per_model:
                with gathered(found):
                    bound[name] = parameter.check(shared.get(name, parameter.default), where)
                continue
            each = []
            for index, values in own:
                with gathered(found):
                    each.append(
                        parameter.check(values[name], f"models.{index}.{where}")
                        if name in values
                        else parameter.check(shared.get(name, parameter.default), where)
                    )
            bound[name] = tuple(each)
        if found:
            raise InputError.of(dict.fromkeys(found))  # a shared value is checked for each model
        self._check_weights(bound)
        return bound

    def _raise_unless_known(self, name: str, where: str, model: int | None = None) -> None:
        """InputError for a name that is no parameter, or stands with a model although it is one value for all."""
        if name in self.ignores or self.parameter(name, where).per_model or model is None:
            return
        what, why = f"{name} stands with model {model + 1}", "it is one value for all models"
        raise InputError(what, why, "Move it to the recipe's own parameters", where)

    def effective_weights(self, bound: Mapping[str, Any], models: int) -> tuple[float, ...]:
        """The share of each model after normalisation: what the form shows beside the weights.

        A weight that differs from layer to layer counts as its mean.
        """
        named = bound.get("weight") or (1.0,) * models
        weights = tuple(weight.mean if isinstance(weight, ByLayer) else weight for weight in named)
        return normalised(weights, may_cancel=self._may_cancel) if bound.get("normalize", True) else weights

    @property
    def _may_cancel(self) -> bool:
        """True where weights may sum to zero: they are factors on changes, and a change may be taken away."""
        return "base" in self.needs

    def values_for(self, bound: Mapping[str, Any], name: str, depth: float) -> dict[str, Any]:
        """The keyword arguments of `function` for the tensor of that name at its depth, see `layers.depths`."""

        def of(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(of(one) for one in value)
            return value.of(name, depth) if isinstance(value, ByLayer) else value

        arguments = {parameter.name: parameter.argument or parameter.name for parameter in self.parameters}
        return {arguments[key]: of(value) for key, value in bound.items()}

    def _check_weights(self, bound: Mapping[str, Any]) -> None:
        weights = bound.get("weight")
        if weights and bound.get("normalize", True) and not any(isinstance(weight, ByLayer) for weight in weights):
            normalised(weights, may_cancel=self._may_cancel)


METHODS: dict[str, MergeMethod] = {}


def find_method(name: object) -> MergeMethod:
    """The method of that name or alias; an InputError names the nearest one."""
    for method in METHODS.values():
        if name == method.name or name in method.aliases:
            return method
    names = [known for method in METHODS.values() for known in (method.name, *method.aliases)]
    raise InputError(
        f"There is no merge method {name!r}",
        f"the methods are {', '.join(sorted(METHODS))}",
        did_you_mean(str(name), names) or "Pick one of them",
        "merge_method",
    )


def merge_method(
    *,
    title: str,
    paper: str,
    splits: Splits,
    needs: Iterable[Need] = (),
    minimum_models: int = 2,
    maximum_models: int | None = None,
    linear_only: bool = False,
    aliases: Sequence[str] = (),
    breaks: Mapping[str, str] | None = None,
    ignores: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function as the merge method of its own name, and return it unchanged."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        doc = inspect.getdoc(function) or ""
        if not doc:
            raise TypeError(f"{function.__name__}: a merge method needs a docstring with its formula and source")
        method = MergeMethod(
            name=function.__name__,
            function=function,
            title=title,
            summary=doc.splitlines()[0],
            doc=doc,
            paper=paper,
            splits=splits,
            parameters=tuple(_parameters(function)),
            needs=frozenset(needs),
            minimum_models=minimum_models,
            maximum_models=maximum_models,
            linear_only=linear_only,
            aliases=tuple(aliases),
            breaks=breaks or {},
            ignores=ignores or {},
        )
        taken = {known for other in METHODS.values() for known in (other.name, *other.aliases)}
        clash = taken & {method.name, *method.aliases}
        if clash:
            raise ValueError(f"{', '.join(sorted(clash))}: another merge method has this name already")
        METHODS[method.name] = method
        return function

    return register


def _parameters(function: Callable[..., Tensor]) -> Iterable[Parameter]:
    for name, argument in inspect.signature(function, eval_str=True).parameters.items():
        if argument.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if get_origin(argument.annotation) is not Annotated:
            raise TypeError(f"{function.__name__}: {name} needs Annotated[type, Option(...)]")
        base, option = get_args(argument.annotation)[:2]
        kind = "choice" if option.choices else _kind(base)
        default = option.default if option.per_model else argument.default
        plain = name.removesuffix("_")
        yield Parameter(plain, kind, default, option, name if name != plain else "")  # type: ignore[arg-type]


def _kind(annotation: Any) -> str:
    for inner in (annotation, *get_args(annotation)):
        if inner in (float, int, bool):
            return str(inner.__name__)
        if get_origin(inner) in (Sequence, Union):
            return _kind(get_args(inner)[0])
        if get_args(inner):
            return _kind(get_args(inner)[0])
    raise TypeError(f"{annotation}: a parameter is a float, an int, a bool, a choice, or a sequence of them")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`Did you mean "x"?`, or "" when nothing is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f'Did you mean "{near[0]}"?' if near else ""


def normalised(weights: Sequence[float], *, may_cancel: bool = False) -> tuple[float, ...]:
    """The weights divided by their sum. When that is zero: as they are if they `may_cancel`, else an InputError."""
    total = math.fsum(weights)
    if not weights or (may_cancel and abs(total) < 1e-8):
        return tuple(weights)  # that there are no models is said elsewhere
    if abs(total) < 1e-12:
        raise InputError(
            "The weights sum to zero",
            f"{', '.join(f'{weight:g}' for weight in weights)} cannot be turned into shares",
            "Change one of them",
            "parameters.weight",
        )
    return tuple(weight / total for weight in weights)


def one_each(group: TensorGroup, given: Sequence[float] | None) -> tuple[float, ...]:
    """One number a model, such as its weight: those given, or 1 each."""
    return tuple(given) if given is not None else (1.0,) * len(group.tensors)


Weights = Annotated[
    Sequence[float] | None,
    Option("Share of this model; only the ratios count", per_model=True, default=1.0, by_layer=True),
]
Shares = Annotated[
    Sequence[float] | None,
    Option("Share of this model; only the ratios count", minimum=0, per_model=True, default=1.0),
]  # for methods in which a negative weight has no meaning
