"""What a merge will do, decided from headers alone: every output tensor's step and place, and every Problem.

Made twice, from headers in the preview and from files in the worker; `Plan.fingerprint` must agree.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from merging.base import base_problems
from merging.compatibility import compatibility_problems, covered_architecture
from merging.errors import Problem, errors_of, raise_errors
from merging.expectation import expectation
from merging.files import files_of, files_of_base
from merging.heads import HeadRule, arrange
from merging.layers import depths
from merging.parent import Parent, with_base
from merging.progress import size
from merging.recipe import Recipe
from merging.recipe_problems import recipe_problems
from merging.roles import LINEAR, inputs_of
from merging.sides import side_problems
from merging.steps import OutputModel, Shard, Step, lay_out
from merging.supply import Supply, small_bytes, supply_of, weight_bytes

LAPACK_MEMORY = 128 << 20  # bytes that products and factorisations take for themselves, measured
LEAST_MEMORY = 64 << 20  # bytes: the blocks of some threads, and what a search for a threshold holds


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
    supply: Supply | None = None  # which of these files each shard needs; None for a plan that is impossible
    head_rule: HeadRule = "none"
    expectation: str = ""  # whether the method will help, where that can be known

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make it impossible."""
        return errors_of(self.problems)

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
        """The most bytes that lie on the disk at a time, see `merging.supply`."""
        return self.supply.peak if self.supply else self.download_bytes

    @property
    def disk_words(self) -> str:
        """`downloads 30.3 GB, needs at most 25.1 GB of disk at a time`."""
        return f"downloads {size(self.download_bytes)}, needs at most {size(self.disk_bytes)} of disk at a time"

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
        recipe = self.recipe.without_output().model_copy(update={"evaluate": (), "sweep": None}).to_dict()
        return hashlib.sha256(json.dumps([recipe, work, outputs], sort_keys=True).encode()).hexdigest()

    def raise_if_impossible(self) -> "Plan":
        """The plan itself, or an InputError with every error."""
        raise_errors(self.problems)
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
                {
                    "folder": output.folder,
                    "model": self.recipe.models[output.parent].model,
                    "parameters": self.parameters(output),
                    "files": list(output.files),
                }
                for output in self.outputs
            ],
            "heads": self.head_rule,
            "expectation": self.expectation,
            "statistics": [{"model": model, "kind": kind, "source": source} for model, kind, source in self.sources],
            "tensors": dict(actions),
            "fallbacks": self.fallbacks,
            "download_bytes": self.download_bytes,
            "output_bytes": self.output_bytes,
            "disk_bytes": self.disk_bytes,
            "disk": self.disk_words,
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
    if not errors_of(sides):
        problems += compatibility_problems(recipe, arranged.parents, arranged.rule) + base_problems(arranged)
    base = arranged.base
    plan = Plan(
        recipe,
        tuple(problems),
        fetch=tuple(files_of(parent) for parent in parents),
        fetch_base=files_of_base(base) if base else (),
        download_bytes=small_bytes(recipe, parents, base) + weight_bytes(with_base(parents, base)),
    )
    if plan.errors:
        return plan
    rule = arranged.rule
    shards, outputs = lay_out(recipe, arranged, covered_architecture(parents))
    supply = supply_of(recipe, arranged, shards, outputs)
    download = supply.download_bytes
    plan = replace(plan, shards=shards, outputs=outputs, head_rule=rule, supply=supply, download_bytes=download)
    expected, doubts = expectation(recipe, arranged.parents, rule)
    problems += [*arranged.problems, *_fallback_problems(plan), *_no_average(plan), *doubts]
    return replace(plan, problems=tuple(problems), expectation=expected)


def solve_bytes(step: Step) -> tuple[int, int]:
    """Bytes of memory that the solve of a linear layer takes at least, and those of one more Gram matrix kept beside.

    The sum of the Grams, factored in place, is float64; one Gram at a time is float32 (see `methods.regmean`).
    """
    width = inputs_of(step.role.kind, step.spec.shape)
    return 12 * width**2 + 8 * 512 * width, 4 * width**2


def memory_problem(plan: Plan, memory: int) -> Problem | None:
    """The problem of a budget of `memory` bytes with which no merge works, or the widest layer cannot be solved."""
    if memory < LEAST_MEMORY:
        return Problem(
            "Not enough memory",
            f"{size(memory)} are allowed, a merge needs {size(LEAST_MEMORY)}",
            "Allow more (--memory, MERGE_MEMORY)",
            "memory",
        )
    solved = [step for step in plan.steps if step.action == "merge" and "gram" in plan.recipe.method.needs]
    if not solved:
        return None
    widest = max(solved, key=lambda step: solve_bytes(step)[0])
    needed = solve_bytes(widest)[0] * 4 // 3 + LAPACK_MEMORY  # beside the blocks of the weights, see `Work`
    if needed <= memory:
        return None
    width = inputs_of(widest.role.kind, widest.spec.shape)
    return Problem(
        "Not enough memory",
        f"{widest.name} has {width:,} inputs: its solve needs {size(needed)}, {size(memory)} are allowed",
        f"Allow {-(-needed // 10**9)} GB (--memory, MERGE_MEMORY), or use average",
        "memory",
    )


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
