"""What a merge will do, decided from headers alone: every output tensor's step and place, and every Problem.

Made twice, from headers in the preview and from files in the worker; `Plan.fingerprint` must agree.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch

from merging.base import base_problems, silent
from merging.checkpoint import TOKENIZER_FILES, layout
from merging.compatibility import compatibility_problems, covered_architecture
from merging.errors import InputError, Problem
from merging.expectation import expectation
from merging.header import WEIGHT_FILE, WEIGHT_INDEX
from merging.heads import Arrangement, HeadRule, arrange
from merging.layers import depths
from merging.modules import CHAT_FILES, MODULES_FILE, PICTURE_FILES, SENTENCE_FILES
from merging.parent import Parent
from merging.recipe import Recipe
from merging.recipe_problems import recipe_problems
from merging.roles import LINEAR, Architecture, Role, inputs_of
from merging.sides import side_problems
from merging.tensors import MERGED_DTYPES, TensorSpec

SHARD_BYTES = 2 * 1024**3  # an output shard is closed before it grows past this
SIDE_FILES = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    *CHAT_FILES,
    *PICTURE_FILES,
    "video_preprocessor_config.json",
    *SENTENCE_FILES,
)  # carried from a parent; never code
TEMPLATES = re.compile(r"additional_chat_templates/[\w-]+\.jinja", re.ASCII)  # the chat templates beside the first one
Action = Literal["merge", "average", "copy"]


@dataclass(frozen=True)
class Step:
    """One output tensor: which parents it is made from, and how."""

    name: str  # on disk
    spec: TensorSpec  # of the output
    role: Role
    action: Action  # the method itself, the weighted average, or a copy of one parent's tensor
    inputs: tuple[int, ...]  # indexes of parents
    reason: str = ""  # why the method does not apply, when it should


@dataclass(frozen=True)
class Shard:
    """One output file, laid out to the byte by the order of its steps."""

    path: str  # relative to the output folder
    steps: tuple[Step, ...]

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return layout(step.spec for step in self.steps)[2]


@dataclass(frozen=True)
class OutputModel:
    """One model that transformers can load from the result."""

    folder: str  # "" is the root of the repo
    parent: int  # whose head, labels, config and tokenizer it has
    shards: tuple[str, ...]  # paths of its shards, in the order of their numbers


@dataclass(frozen=True)
class Plan:
    """All that a merge will do. Impossible when `errors` is not empty."""

    recipe: Recipe
    problems: tuple[Problem, ...]
    shards: tuple[Shard, ...] = ()
    outputs: tuple[OutputModel, ...] = ()
    fetch: tuple[tuple[str, ...], ...] = ()  # files to download, per parent
    fetch_base: tuple[str, ...] = ()  # of the base, when the method needs one
    download_bytes: int = 0
    head_rule: HeadRule = "none"
    expectation: str = ""  # whether the method will help, where that can be known

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make it impossible."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that a person should know of."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step of every shard."""
        return tuple(step for shard in self.shards for step in shard.steps)

    @property
    def output_bytes(self) -> int:
        """Bytes of all weight files, each distinct file once."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def disk_bytes(self) -> int:
        """Peak need of disk: all inputs and the output."""
        return self.download_bytes + self.output_bytes

    def place(self, output: OutputModel, path: str) -> str:
        """Where a shard stands inside a loadable model: `2_Dense/model.safetensors`, or its plain name."""
        if self.head_rule != "apart":
            return path
        return path.removeprefix(f"{self.recipe.tasks[output.parent]}/")

    def parameters(self, output: OutputModel) -> int:
        """Number of values in one loadable model."""
        paths = set(output.shards)
        return sum(step.spec.numel for shard in self.shards if shard.path in paths for step in shard.steps)

    @property
    def fallbacks(self) -> dict[str, str]:
        """Tensor -> reason, for those that the method should have merged but cannot."""
        return {step.name: step.reason for step in self.steps if step.reason}

    @cached_property
    def depths(self) -> dict[str, float]:
        """Tensor -> where it stands between the first layer and the last, see `layers.depths`."""
        return depths(step.name for step in self.steps)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every step, place and file: equal for equal work."""
        work = [
            [shard.path, [[s.name, s.spec.shape, str(s.spec.dtype), s.action, s.inputs] for s in shard.steps]]
            for shard in self.shards
        ]
        outputs = [[output.folder, output.parent, output.shards] for output in self.outputs]
        recipe = self.recipe.without_output().to_dict()
        return hashlib.sha256(json.dumps([recipe, work, outputs], sort_keys=True).encode()).hexdigest()

    def raise_if_impossible(self) -> "Plan":
        """The plan itself, or an InputError with every error."""
        if self.errors:
            raise InputError.of(self.errors)
        return self

    @property
    def sources(self) -> tuple[tuple[str, str, str], ...]:
        """(model, kind, where its statistics come from): a published file, or the text they are collected from."""
        found = []
        for entry in self.recipe.models:
            named = {str(kind): ref.source for kind, ref in entry.statistics.items()}
            text = f"collected from {entry.calibration.data}" if entry.calibration else "missing"
            needed = sorted(self.recipe.method.needs & {"gram", "fisher"})
            found += [(entry.repo_id, kind, named.get(kind, text)) for kind in needed]
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """The plan in plain data: what the preview and `cli.py plan --json` show."""
        actions = Counter(step.action for step in self.steps)
        return {
            "possible": not self.errors,
            "problems": [problem.as_dict() for problem in self.problems],
            "method": self.recipe.method.name,
            "weights": list(self.recipe.effective_weights),
            "base": self.recipe.base.model if self.recipe.base else None,
            "outputs": [
                {"folder": o.folder, "model": self.recipe.models[o.parent].model, "parameters": self.parameters(o)}
                for o in self.outputs
            ],
            "heads": self.head_rule,
            "expectation": self.expectation,
            "statistics": [{"model": model, "kind": kind, "source": source} for model, kind, source in self.sources],
            "tensors": dict(actions),
            "fallbacks": self.fallbacks,
            "download_bytes": self.download_bytes,
            "output_bytes": self.output_bytes,
            "disk_bytes": self.disk_bytes,
            "shards": [shard.path for shard in self.shards],
            "fingerprint": self.fingerprint,
        }


def make_plan(recipe: Recipe, parents: Sequence[Parent], base: Parent | None = None) -> Plan:
    """The plan of a recipe for its parents, in the recipe's order, and the base where the method needs one.

    Never raises for bad input: see `problems`.
    """
    if not parents:
        return Plan(recipe, tuple(recipe_problems(recipe)))
    arranged = arrange(parents, base if recipe.base else None)
    sides = side_problems(recipe.tasks, parents, arranged.rule)
    problems = [*recipe_problems(recipe), *sides]
    if not any(problem.severity == "error" for problem in sides):
        problems += compatibility_problems(recipe, arranged.parents, arranged.rule) + base_problems(arranged)
    plan = _files_of(Plan(recipe, tuple(problems)), parents, arranged.base)
    if plan.errors:
        return plan
    rule = arranged.rule
    shards, outputs = _lay_out(recipe, arranged, covered_architecture(parents))
    plan = replace(plan, shards=shards, outputs=outputs, head_rule=rule)
    expected, doubts = expectation(recipe, arranged.parents, rule)
    problems += [*arranged.problems, *_fallback_problems(plan), *_no_average(plan), *doubts]
    return replace(plan, problems=tuple(problems), expectation=expected)


def disk_problem(plan: Plan, free: int) -> Problem | None:
    """The problem of a disk with `free` bytes that cannot hold the inputs and the output."""
    if plan.disk_bytes <= free:
        return None
    return Problem(
        "Not enough disk",
        f"this merge needs {_gigabytes(plan.disk_bytes)} and {_gigabytes(free)} are free",
        "Free some space, or merge smaller models",
    )


def solve_bytes(step: Step) -> tuple[int, int]:
    """Bytes of memory that the solve of a linear layer takes at least, and those of one more Gram matrix kept beside.

    The sum of the Grams, factored in place, is float64; one Gram at a time is float32 (see `methods.regmean`).
    """
    width = inputs_of(step.role.kind, step.spec.shape)
    return 12 * width**2 + 8 * 512 * width, 4 * width**2


def memory_problem(plan: Plan, memory: int) -> Problem | None:
    """The problem of a budget of `memory` bytes in which the widest layer cannot be solved."""
    solved = [step for step in plan.steps if step.action == "merge" and "gram" in plan.recipe.method.needs]
    if not solved:
        return None
    widest = max(solved, key=lambda step: solve_bytes(step)[0])
    needed = solve_bytes(widest)[0] * 4 // 3  # beside the blocks of the weights, see `Work`
    if needed <= memory:
        return None
    width = inputs_of(widest.role.kind, widest.spec.shape)
    return Problem(
        "Not enough memory",
        f"{widest.name} has {width:,} inputs: its solve needs {_gigabytes(needed)}, {_gigabytes(memory)} are allowed",
        f"Allow {-(-needed // 10**9)} GB (--memory, MERGE_MEMORY), or use average",
        "memory",
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _files_of(plan: Plan, parents: Sequence[Parent], base: Parent | None) -> Plan:
    """The plan with all that must be downloaded."""
    fetch, own = tuple(_files(parent) for parent in parents), _base_files(base) if base else ()
    download = sum(_download_bytes(parent, names, plan.recipe) for parent, names in zip(parents, fetch, strict=True))
    download += _download_bytes(base, own, plan.recipe) if base else 0
    return replace(plan, fetch=fetch, fetch_base=own, download_bytes=download)


def _base_files(base: Parent) -> tuple[str, ...]:
    """What must be on disk of the base: its weights, and what says how they are built; nothing of it is carried."""
    wanted = {*base.weights, "config.json", WEIGHT_INDEX, MODULES_FILE, *(module.config for module in base.modules)}
    return tuple(sorted(name for name in wanted if name in base.files))


def _files(parent: Parent) -> tuple[str, ...]:
    """What must be on disk of a parent."""
    wanted = {*parent.weights, "config.json", WEIGHT_INDEX}
    return tuple(sorted({*(name for name in wanted if name in parent.files), *side_files(parent)}))


def side_files(parent: Parent) -> tuple[str, ...]:
    """Paths of the files beside the weights that are carried from a parent, as far as it has them."""
    templates = sorted(name for name in parent.files if TEMPLATES.fullmatch(name))
    wanted = [*SIDE_FILES, *templates, *(module.config for module in parent.modules)]
    return tuple(name for name in wanted if name in parent.files)


def _download_bytes(parent: Parent, files: Sequence[str], recipe: Recipe) -> int:
    """Bytes to fetch of a parent; a folder of this machine (no revision) is here already."""
    if not parent.revision:
        return 0
    statistics = [parent.statistics[kind].nbytes for kind in sorted(recipe.method.needs) if kind in parent.statistics]
    return sum(parent.files.get(name, 0) for name in files) + sum(statistics)


def _lay_out(
    recipe: Recipe, arranged: Arrangement, architecture: Architecture
) -> tuple[tuple[Shard, ...], tuple[OutputModel, ...]]:
    parents, rule = arranged.parents, arranged.rule
    body: list[Step] = []
    own: list[list[Step]] = [[] for _ in parents]
    for name in sorted({name for parent in parents for name in parent.source.specs}, key=_natural):
        having = [index for index, parent in enumerate(parents) if name in parent.source.specs]
        role = architecture.role(name, parents[having[0]].source.specs[name].shape)
        if rule == "apart" and (role.head or "/" in name or len(having) < len(parents)):
            if role.kind != "buffer":
                for index in having:
                    spec = _output_spec(recipe, parents[index].source.specs[name])
                    own[index].append(Step(name, spec, role, "copy", (index,)))
        elif having[0] == 0 and (role.kind != "buffer" or len(having) == len(parents)):
            body.append(_step(recipe, arranged, name, role, tuple(having)))
    if rule != "apart":
        transformer = [step for step in body if "/" not in step.name]
        shards = (*_split(transformer, "", 0), *_module_shards(body, ""))
        return shards, (OutputModel("", 0, tuple(shard.path for shard in shards)),)
    shards = _split(body, "", 1)
    total = len(shards) + 1
    names = [f"{task}/{_shard_name(total, total)}" for task in recipe.tasks]
    own_shards = [_own_shards(path, steps) for path, steps in zip(names, own, strict=True)]
    paths = [tuple(shard.path for shard in (*shards, *mine)) for mine in own_shards]
    root = recipe.tasks.index(recipe.output.root) if recipe.output.root else 0
    outputs = [OutputModel("", root, paths[root])]
    outputs += [OutputModel(task, i, paths[i]) for i, task in enumerate(recipe.tasks)]
    return (*shards, *(shard for mine in own_shards for shard in mine)), tuple(outputs)


def _own_shards(path: str, steps: Sequence[Step]) -> tuple[Shard, ...]:
    """The shard of one task's head, and those of its modules."""
    head = tuple(step for step in steps if "/" not in step.name)
    return (*((Shard(path, head),) if head else ()), *_module_shards(steps, f"{path.rpartition('/')[0]}/"))


def _module_shards(steps: Sequence[Step], folder: str) -> tuple[Shard, ...]:
    """One shard for each module of sentence-transformers (`2_Dense/linear.weight`), in its own folder."""
    groups: dict[str, list[Step]] = {}
    for step in steps:
        if "/" in step.name:
            groups.setdefault(step.name.rpartition("/")[0], []).append(step)
    return tuple(Shard(f"{folder}{module}/{WEIGHT_FILE}", tuple(group)) for module, group in groups.items())


def _step(recipe: Recipe, arranged: Arrangement, name: str, role: Role, inputs: tuple[int, ...]) -> Step:
    """The step of one merged tensor."""
    parents = arranged.parents
    spec = _output_spec(recipe, parents[0].source.specs[name])
    if role.kind == "buffer" or not spec.dtype.is_floating_point:
        return Step(name, spec, role, "copy", (0,))
    method = recipe.method
    if len(inputs) < len(parents):
        return Step(name, spec, role, "average", inputs, f"only {len(inputs)} of {len(parents)} models have it")
    if "/" in name and method.needs & {"gram", "fisher"}:
        reason = f"no statistics are collected of the module {name.rpartition('/')[0]}"
        known = method.linear_only and len(spec.shape) < 2  # averaged in every layer
        return Step(name, spec, role, "average", inputs, "" if known else reason)
    if method.linear_only and role.kind not in LINEAR:
        unknown = role.kind == "other" and len(spec.shape) > 1
        return Step(name, spec, role, "average", inputs, "not known to be a linear layer" if unknown else "")
    if "base" in method.needs and (reason := silent(arranged, name, spec)):
        return Step(name, spec, role, "average", inputs, reason)
    for kind in sorted(method.needs & {"gram", "fisher"}):
        for parent in parents:
            fact = parent.statistics.get(kind)
            if fact is None:
                continue  # collected later from text: covers every layer
            if name not in fact.keys:
                return Step(name, spec, role, "average", inputs, f"no {kind.title()} of it for {parent.model}")
    return Step(name, spec, role, "merge", inputs)


def _output_spec(recipe: Recipe, spec: TensorSpec) -> TensorSpec:
    dtype = MERGED_DTYPES[recipe.dtype] if recipe.dtype and spec.dtype.is_floating_point else spec.dtype
    if dtype == torch.float64:
        dtype = torch.float32
    return TensorSpec(spec.name.rpartition("/")[2], spec.shape, dtype)


def _split(steps: list[Step], folder: str, extra: int) -> tuple[Shard, ...]:
    """The steps in shards of at most SHARD_BYTES; `extra` more shards are numbered behind them."""
    groups: list[list[Step]] = [[]]
    size = 0
    for step in steps:
        if groups[-1] and size + step.spec.nbytes > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(step)
        size += step.spec.nbytes
    total = len(groups) + extra
    return tuple(Shard(folder + _shard_name(i + 1, total), tuple(group)) for i, group in enumerate(groups))


def _shard_name(number: int, total: int) -> str:
    return WEIGHT_FILE if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"


def _fallback_problems(plan: Plan) -> list[Problem]:
    """A merge that mostly falls back is not that method's merge."""
    linear = [step for step in plan.steps if step.action != "copy" and (step.role.kind in LINEAR or step.reason)]
    heads_count = "base" not in plan.recipe.method.needs  # a base rarely has the heads of its fine-tunes
    fallen = [step for step in linear if step.reason and (heads_count or not step.role.head)]
    if not fallen:
        return []
    share = sum(step.spec.numel for step in fallen) / max(1, sum(step.spec.numel for step in linear))
    first = fallen[0]
    text = f"{len(fallen)} of {len(linear)} linear layers ({share:.0%} of their weights), first {first.name}"
    return [
        Problem(
            f"{plan.recipe.method.title} cannot merge {text}",
            first.reason,
            "Collect the statistics anew" if share > 0.5 else "They are averaged",
            "models",
            "error" if share > 0.5 else "warning",
        )
    ]


def _no_average(plan: Plan) -> list[Problem]:
    """A tensor that the method leaves to the average, and weights that make none."""
    weights = plan.recipe.bound().get("weight")
    if weights is None or plan.recipe.method.name == "average":
        return []
    for step in plan.steps:
        here = plan.recipe.method.values_for({"weight": weights}, step.name, plan.depths[step.name])["weight"]
        if step.action == "average" and abs(sum(here[index] for index in step.inputs)) < 1e-12:
            what, why = f"{step.name} is averaged, and its weights sum to zero", step.reason
            return [Problem(what, why, "Change one of the weights", "parameters.weight")]
    return []


def _natural(name: str) -> list[Any]:
    """Sort key in which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
