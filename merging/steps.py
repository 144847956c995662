"""What every tensor of the output is made from, and where it stands: to the byte, in the order of the first parent."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from merging.base import silent
from merging.checkpoint import layout
from merging.files import side_files
from merging.header import WEIGHT_FILE
from merging.heads import Arrangement
from merging.recipe import Recipe
from merging.roles import LINEAR, Architecture, Role
from merging.tensors import MERGED_DTYPES, TensorSpec

SHARD_BYTES = 2 * 1024**3  # an output shard is closed before it grows past this
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

    @cached_property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return layout(step.spec for step in self.steps)[2]


@dataclass(frozen=True)
class OutputModel:
    """One model that transformers can load from the result."""

    folder: str  # "" is the root of the repo
    parent: int  # whose head, labels, config and tokenizer it has
    shards: tuple[str, ...]  # paths of its shards, in the order of their numbers
    files: tuple[str, ...] = ()  # carried from that parent beside the config


def lay_out(
    recipe: Recipe, arranged: Arrangement, architecture: Architecture
) -> tuple[tuple[Shard, ...], tuple[OutputModel, ...]]:
    """The output shards in the order in which they are made, and the models that they are parts of.

    Tensors stand as the first parent stores them, so that its files are read from the first to the last; what only
    later parents have comes behind.
    """
    parents, rule = arranged.parents, arranged.rule
    body: list[Step] = []
    own: list[list[Step]] = [[] for _ in parents]
    for name in dict.fromkeys(name for parent in parents for name in parent.source.specs):
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
        return shards, (OutputModel("", 0, tuple(shard.path for shard in shards), side_files(parents[0])),)
    shards = _split(body, "", 1)
    total = len(shards) + 1
    names = [f"{task}/{_shard_name(total, total)}" for task in recipe.tasks]
    own_shards = [_own_shards(path, steps) for path, steps in zip(names, own, strict=True)]
    paths = [tuple(shard.path for shard in (*shards, *mine)) for mine in own_shards]
    root = recipe.tasks.index(recipe.output.root) if recipe.output.root else 0
    outputs = [OutputModel("", root, paths[root], side_files(parents[root]))]
    outputs += [OutputModel(task, i, paths[i], side_files(parents[i])) for i, task in enumerate(recipe.tasks)]
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
