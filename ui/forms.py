"""From a method's declaration to fields and back: the form's values are a recipe, a recipe fills the form.

Nothing here knows a component. A form's values are plain data by key, and the keys are the paths that a `Problem`
names in `where` (`models.0.parameters.weight`, `output.repo_id`), but for the shared parameters, which every
method has of its own (`regmean.alpha`).

What a recipe may hold and the form has no field for (a revision's statistics, a calibration's column) travels in
the *draft*: the recipe's plain data, which the values are laid over.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merging.errors import InputError, Problem
from merging.layers import ByLayer
from merging.method import METHODS, MergeMethod, Parameter, find_method
from merging.parent import Parent
from merging.recipe import ModelEntry, Recipe, distinctive, recipe_from_dict
from ui.evaluation_sets import from_recipe, to_recipe
from ui.sweep_fields import sweep_data

ROWS = 8  # models that the form has room for
SAME_DTYPE = "as the first model"
Values = dict[str, Any]
Draft = dict[str, Any]


def methods() -> tuple[MergeMethod, ...]:
    """Every registered method, those that need nothing else first."""
    return tuple(sorted(METHODS.values(), key=lambda method: (len(method.needs), method.title)))


def shared_parameters(method: MergeMethod) -> tuple[Parameter, ...]:
    """The parameters that are one value for all models."""
    return tuple(parameter for parameter in method.parameters if not parameter.per_model)


def model_parameters() -> tuple[Parameter, ...]:
    """The per-model parameters of all methods, each name once: the fields of a model's row."""
    found: dict[str, Parameter] = {}
    for method in methods():
        for parameter in method.parameters:
            if parameter.per_model:
                found.setdefault(parameter.name, parameter)
    return tuple(found.values())


def per_model(method: MergeMethod) -> tuple[str, ...]:
    """Names of the parameters of which each model has its own."""
    return tuple(parameter.name for parameter in method.parameters if parameter.per_model)


def shared_key(method: MergeMethod, parameter: Parameter) -> str:
    """The field of a shared parameter."""
    return f"{method.name}.{parameter.name}"


def label(parameter: Parameter) -> str:
    """A parameter's name as people read it."""
    return parameter.name.replace("_", " ").capitalize()


def help_text(parameter: Parameter) -> str:
    """What a parameter is for, and its range."""
    return parameter.option.help if parameter.kind == "bool" else f"{parameter.option.help} ({parameter.range})"


@dataclass(frozen=True)
class Field:
    """A field of the form by its key, with the value of an untouched form."""

    key: str
    default: Any


def fields() -> tuple[Field, ...]:
    """Every field of the form, in a fixed order."""
    found = [Field("merge_method", methods()[0].name), Field("dtype", SAME_DTYPE), Field("seed", 0)]
    found += [Field("base_model", None), Field("output.owner", None), Field("output.name", "")]
    found += [Field("output.private", False), Field("output.root", None)]
    found += [Field("sweep.parameter", ""), Field("sweep.values", "")]
    for method in methods():
        found += [Field(shared_key(method, one), one.default) for one in shared_parameters(method)]
    return (*found, *(field for index in range(ROWS) for field in row_fields(index)))


def row_fields(index: int) -> tuple[Field, ...]:
    """The fields of one model's row."""
    start = f"models.{index}"
    parameters = tuple(Field(f"{start}.parameters.{one.name}", one.default) for one in model_parameters())
    return (*parameters, Field(f"{start}.task", ""), Field(f"{start}.calibration.data", ""))


def empty_form() -> tuple[Draft, Values]:
    """The form that nobody touched."""
    return {"models": []}, {field.key: field.default for field in fields()}


def read_form(draft: Draft, values: Values) -> Recipe:
    """The recipe that the form says. Raises InputError with `where` for every field at fault."""
    return recipe_from_dict(form_data(draft, values))


def form_data(draft: Draft, values: Values) -> dict[str, Any]:
    """The plain data of a recipe, not yet checked."""
    method = find_method(values["merge_method"])
    data: dict[str, Any] = {
        "merge_method": method.name,
        "models": [_entry(method, row, draft["models"][row], values) for row in merged_rows(draft, values)],
        "parameters": {one.name: _shared(draft, values, method, one) for one in shared_parameters(method)},
    }
    if base_of(values):
        data["base_model"] = base_of(values)
    if values["dtype"] not in (SAME_DTYPE, None):
        data["dtype"] = values["dtype"]
    if values["seed"]:
        seed = values["seed"]
        data["seed"] = int(seed) if float(seed).is_integer() else seed
    if draft.get("evaluate"):
        names = [draft["models"][row]["model"] for row in merged_rows(draft, values)]
        data["evaluate"] = to_recipe(draft["evaluate"], dict(zip(names, tasks_of(data["models"]), strict=True)))
    sweep = sweep_data(draft.get("sweep_model"), values, method)
    data |= {"sweep": sweep} if sweep else {}
    data["output"] = _output(draft, values)
    return data


def tasks_of(entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The task names of a recipe's models, as `Recipe.tasks` has them."""
    names = distinctive([ModelEntry(model=entry["model"]).short_name for entry in entries])
    return tuple(entry.get("task") or name for entry, name in zip(entries, names, strict=True))


def base_of(values: Values) -> str:
    """The base that the form names, "" where the method needs none."""
    return hub_id(values["base_model"] or "") if "base" in find_method(values["merge_method"]).needs else ""


def merged_rows(draft: Draft, values: Values) -> list[int]:
    """The rows whose models are merged, in the recipe's order: a row that names the base is none of them."""
    base = base_of(values)
    return [
        row
        for row, entry in enumerate(draft["models"])
        if not base or not ModelEntry(model=entry["model"]).names(ModelEntry(model=base[:300]))
    ]


def common_base(parents: Sequence[Parent]) -> str:
    """The base that the cards of these models name, "" when they name none, or several."""
    named = {parent.fine_tuned_from for parent in parents} - {""}
    return named.pop() if len(named) == 1 else ""


def share(recipe: Recipe, weight: float) -> str:
    """What the effective weight of a model means for the merge, "" for a method without weights."""
    method = recipe.method
    if not any(parameter.name == "weight" for parameter in method.parameters):
        return ""
    what = "change to the base" if "base" in method.needs else "merge"
    if recipe.bound().get("normalize", True):
        return f"{weight:.1%} of the {what}" if len(recipe.models) > 1 else ""
    return f"{weight:g} × its {what}" if "base" in method.needs else f"{weight:g} × its values"


def fill_form(recipe: Recipe) -> tuple[Draft, Values]:
    """The form that says this recipe. Raises InputError for more models than it has room for."""
    if len(recipe.models) > ROWS:
        raise InputError(
            f"The recipe has {len(recipe.models)} models",
            f"the form has room for {ROWS}",
            "Submit it on the command line",
            "models",
        )
    draft, values = empty_form()
    data = recipe.to_dict()
    draft["output"] = {"private": recipe.output.private} if recipe.output.private is False else {}
    method, bound = recipe.method, recipe.bound()
    draft["models"] = [
        _unfilled(
            {**entry, "parameters": {**recipe.parameters, **entry.get("parameters", {})}}, _by_layer(method, bound, row)
        )
        for row, entry in enumerate(data["models"])
    ]
    values |= {
        "merge_method": method.name,
        "dtype": recipe.dtype or SAME_DTYPE,
        "seed": recipe.seed,
        "base_model": recipe.base_model,
        "output.private": recipe.output.private is True,
        "output.root": recipe.output.root,
    }
    if recipe.evaluate:
        draft["evaluate"] = from_recipe(recipe, [entry["model"] for entry in draft["models"]])
    if recipe.sweep:
        values |= {"sweep.parameter": recipe.sweep.parameter, "sweep.values": ", ".join(map(str, recipe.sweep.values))}
        draft |= {"sweep_model": recipe.sweep.model} if recipe.sweep.model else {}  # it has no field
    owner, slash, name = (recipe.output.repo_id or "").partition("/")
    values |= {"output.owner": owner, "output.name": name} if slash else {}
    for one in shared_parameters(method):
        if isinstance(bound[one.name], ByLayer):  # no field holds it: kept until the field is moved
            draft.setdefault("by_layer", {})[shared_key(method, one)] = recipe.parameters[one.name]
        else:
            values[shared_key(method, one)] = bound[one.name]
    for index, entry in enumerate(recipe.models):
        start = f"models.{index}"
        values[f"{start}.task"] = entry.task or ""
        values[f"{start}.calibration.data"] = entry.calibration.data if entry.calibration else ""
        for one in method.parameters:
            if one.per_model and one.name not in _by_layer(method, bound, index):
                values[f"{start}.parameters.{one.name}"] = bound[one.name][index]
    return draft, values


def add_model(draft: Draft, model: str) -> Draft:
    """The draft with one more model. Raises InputError when it is no id, there already, or the form is full."""
    model = hub_id(model)
    if not re.fullmatch(r"[^\s/@]+/[^\s/@]+(@[^\s@]+)?", model):
        raise InputError(f"{model[:100]!r} is not the name of a model", "", "Write owner/name or owner/name@revision")
    if any(entry["model"] == model for entry in draft["models"]):
        raise InputError(f"{model} is already in the list", "a merge takes each model once", "Pick another")
    if len(draft["models"]) == ROWS:
        raise InputError("The form is full", f"it has room for {ROWS} models", "Remove one first")
    return {**draft, "models": [*draft["models"], {"model": model}]}


def hub_id(text: str) -> str:
    """`owner/name` of what somebody typed or pasted, a link to the model's page included."""
    text = text.strip().strip("/")
    link = re.fullmatch(r"https?://[^/\s]+/([^/\s]+/[^/\s?#]+)(?:/tree/([^/\s?#]+))?.*", text)
    if not link:
        return text
    return f"{link[1]}@{link[2]}" if link[2] and link[2] != "main" else link[1]


def remove_model(draft: Draft, values: Values, index: int) -> tuple[Draft, Values]:
    """The form without one of its models; the rows below it move up with all that was typed there."""
    models = [entry for place, entry in enumerate(draft["models"]) if place != index]
    moved = dict(values)
    for place in range(index, ROWS):
        for here, below in zip(row_fields(place), row_fields(place + 1), strict=True):
            moved[here.key] = values.get(below.key, here.default)
    return {**draft, "models": models}, moved


def default_name(models: Sequence[str], method: str) -> str:
    """A predictable name for the result: what the models' names share, then the method."""
    names = [model.partition("@")[0].rpartition("/")[2] for model in models]
    if not names:
        return ""
    parts = [re.split(r"[-_]", name) for name in names]
    common = _shared_start(parts) or _shared_start([part[::-1] for part in parts])[::-1]
    stem = "-".join(common) or "-".join(distinctive(names))
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-.")[:80].strip("-.")
    return f"{stem or 'merged'}-{method.replace('_', '-')}"


def field_of(where: str, method: MergeMethod) -> str:
    """The part of the form that a problem's `where` belongs to: `models.0`, `parameters`, `output`, ... or ""."""
    parts = where.split(".")
    if parts[0] == "models" and len(parts) > 1 and parts[1].isdigit():
        return f"models.{parts[1]}"
    if parts[0] in ("dtype", "seed"):
        return "parameters"
    if parts[0] == "sweep":
        return "evaluate"
    return parts[0] if parts[0] in ("parameters", "output", "base_model", "evaluate") else ""


def problems_by_field(problems: Sequence[Problem], method: MergeMethod) -> Mapping[str, tuple[Problem, ...]]:
    """The problems sorted by the part of the form that they stand beside."""
    found: dict[str, tuple[Problem, ...]] = {}
    for problem in problems:
        place = field_of(problem.where, method)
        found[place] = (*found.get(place, ()), problem)
    return found


def _shared(draft: Draft, values: Values, method: MergeMethod, one: Parameter) -> Any:
    """A parameter's value: its field, or what a loaded recipe says layer by layer while the field is untouched."""
    key = shared_key(method, one)
    return draft.get("by_layer", {}).get(key, values[key]) if values[key] == one.default else values[key]


def _entry(method: MergeMethod, index: int, entry: Mapping[str, Any], values: Values) -> dict[str, Any]:
    start = f"models.{index}"
    data = {**entry}
    kept = data.pop("parameters", {})
    own = {one.name: values[f"{start}.parameters.{one.name}"] for one in method.parameters if one.per_model}
    own |= {one.name: kept[one.name] for one in method.parameters if one.name in kept and own[one.name] == one.default}
    if own:
        data["parameters"] = own
    if values[f"{start}.task"]:
        data["task"] = values[f"{start}.task"]
    text = (values[f"{start}.calibration.data"] or "").strip()
    rest = data.pop("calibration", {})
    if text:
        data["calibration"] = {**rest, "data": text}
    return data


def _output(draft: Draft, values: Values) -> dict[str, Any]:
    output = dict(draft.get("output", {}))
    owner, name = values["output.owner"] or "", (values["output.name"] or "").strip()
    if owner and name:
        output["repo_id"] = f"{owner}/{name}"
    if values["output.private"]:
        output["private"] = True
    if values["output.root"]:
        output["root"] = values["output.root"]
    return output


def _by_layer(method: MergeMethod, bound: Mapping[str, Any], row: int) -> tuple[str, ...]:
    """Names of a model's own parameters that differ from layer to layer: no field holds them."""
    return tuple(name for name in per_model(method) if isinstance(bound[name][row], ByLayer))


def _unfilled(entry: Mapping[str, Any], by_layer: Sequence[str]) -> dict[str, Any]:
    """What of a recipe's model has no field; what differs by layer is kept until its field is moved."""
    data = {key: value for key, value in entry.items() if key not in ("parameters", "task", "calibration")}
    kept = {name: value for name, value in entry.get("parameters", {}).items() if name in by_layer}
    data |= {"parameters": kept} if kept else {}
    rest = {key: value for key, value in entry.get("calibration", {}).items() if key != "data"}
    return data | ({"calibration": rest} if rest else {})


def _shared_start(parts: Sequence[Sequence[str]]) -> list[str]:
    """The leading parts that all have in common, never all of a name unless it is the only one."""
    shared: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared
