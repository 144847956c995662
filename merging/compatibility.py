"""Whether models can be merged at all, from their configs and headers."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from merging.architecture import GENERIC, architecture_of
from merging.errors import Problem
from merging.glance import same_weights
from merging.header import OTHER_VERSION
from merging.heads import HeadRule
from merging.parent import Parent, StatisticsFact
from merging.recipe import Recipe
from merging.roles import Architecture, inputs_of
from merging.tensors import TensorSpec, main_dtype
from merging.variants import variant_problems

CODES = re.compile(r"weight|zeros|scale|packed|codes|codebook|g_idx|absmax|quant|SCB", re.IGNORECASE)
SAME_CONFIG = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "n_head",
    "n_heads",
    "hidden_act",
    "activation_function",
    "position_embedding_type",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "sliding_window",
    "is_decoder",
)  # numbers that shapes do not show


def compatibility_problems(recipe: Recipe, parents: Sequence[Parent], rule: HeadRule) -> list[Problem]:
    """Every reason why these aligned parents cannot be merged by this recipe; the cheap and the plain ones first."""
    problems = _same_model(parents) or _architectures(parents)
    if not problems:
        problems = quantised(parents) or vocabularies(parents) or configs(parents) or _shapes(parents, rule)
        problems += _untested(parents)
        problems += [] if recipe.dtype else _mixed_dtypes(parents)
    problems += _statistics(recipe, parents)
    return problems + licences(parents)


def covered_architecture(parents: Sequence[Parent]) -> Architecture:
    """The architecture of parents without problems."""
    architecture = architecture_of(parents[0].config)
    assert architecture is not None
    return architecture


def _same_model(parents: Sequence[Parent]) -> list[Problem]:
    for index, parent in enumerate(parents):
        for first, earlier in enumerate(parents[:index]):
            named = (parent.model, parent.revision) == (earlier.model, earlier.revision)
            if not named and not same_weights(earlier, parent):
                continue
            why = "their weights are the same, byte for byte"
            if parent.model == earlier.model:
                why = "a model merged with itself is itself"
            return [
                Problem(
                    f"Models {first + 1} and {index + 1} are the same ({parent.model})",
                    why,
                    "Remove one, or give the other more weight",
                    f"models.{index}.model",
                )
            ]
    return []


def _architectures(parents: Sequence[Parent]) -> list[Problem]:
    problems = []
    for index, parent in enumerate(parents):
        where = f"models.{index}.model"
        if architecture_of(parent.config) is None:
            problems.append(
                Problem(
                    f"The config of {parent.model} names no model_type",
                    "so nothing says what its tensors are",
                    "Add it to its config.json",
                    where,
                )
            )
        elif not parent.architecture and _heads(parent):
            problems.append(
                Problem(
                    f"The config of {parent.model} names no class (architectures)",
                    "so nothing says what its head is for",
                    "Add it to its config.json",
                    where,
                )
            )
        elif parent.model_type != parents[0].model_type:
            problems.append(
                Problem(
                    f"{parent.model} is a {parent.architecture or parent.model_type}",
                    f"{parents[0].model} is a {parents[0].architecture or parents[0].model_type}",
                    "Merge models of one architecture",
                    where,
                )
            )
    return problems


def _untested(parents: Sequence[Parent]) -> list[Problem]:
    """A type that nobody has compared with an independent computation."""
    if covered_architecture(parents).tested:
        return []
    return [
        Problem(
            f"The type {parents[0].model_type} is not one that we have tested",
            "its tensors are merged by their names and shapes alone",
            "Try the result before you rely on it",
            "models",
            "warning",
        )
    ]


def _heads(parent: Parent) -> list[str]:
    architecture = architecture_of(parent.config)
    assert architecture is not None
    return [name for name, spec in parent.source.specs.items() if architecture.role(name, spec.shape).head]


def quantised(parents: Sequence[Parent]) -> list[Problem]:
    """The first parent whose weights are stored as codes: those cannot be averaged."""
    architecture = architecture_of(parents[0].config) or GENERIC
    for index, parent in enumerate(parents):
        codes = [name for name, spec in parent.source.specs.items() if _is_code(architecture, name, spec)]
        scheme = parent.config.get("quantization_config")
        if codes or scheme:
            name = str(scheme.get("quant_method") or "")[:30] if isinstance(scheme, dict) else ""
            return [
                Problem(
                    f"{parent.model} is quantised{f' ({name})' if name else ''}",
                    f"{codes[0]} holds codes, not weights" if codes else "its config says so",
                    OTHER_VERSION,
                    f"models.{index}.model",
                )
            ]
    return []


def _is_code(architecture: Architecture, name: str, spec: TensorSpec) -> bool:
    """True for whole numbers that stand for weights. Others are counters and indexes, which are copied."""
    if spec.dtype.is_floating_point:
        return False
    kind = architecture.role(name, spec.shape).kind
    return kind not in ("buffer", "other") or (kind == "other" and bool(CODES.search(name)))


def _mixed_dtypes(parents: Sequence[Parent]) -> list[Problem]:
    """Which number format wins when the models differ and the recipe does not say."""
    kinds = [str(main_dtype(parent.source.specs.values())).removeprefix("torch.") for parent in parents]
    if len(set(kinds)) == 1:
        return []
    return [
        Problem(
            f"The models are stored as {', '.join(sorted(set(kinds)))}",
            f"the result is {kinds[0]}, as the first of them",
            "Set dtype in the recipe to choose",
            "dtype",
            "warning",
        )
    ]


def vocabularies(parents: Sequence[Parent]) -> list[Problem]:
    """The first parent with other tokens than those of the first one."""

    def size(parent: Parent) -> object:
        return parent.config.get("vocab_size")

    first = parents[0]
    for index, parent in enumerate(parents[1:], 1):
        comparable = first.vocabulary.partition(":")[0] == parent.vocabulary.partition(":")[0]
        differs = comparable and first.vocabulary != parent.vocabulary
        if differs or size(parent) != size(first):
            why = (
                f"{size(parent)} and {size(first)} entries"
                if size(parent) != size(first)
                else "the same size, but not the same tokens at the same ids"
            )
            return [
                Problem(
                    f"{parent.model} and {first.model} have different vocabularies",
                    why,
                    "Merge models that share one tokenizer",
                    f"models.{index}.model",
                )
            ]
    return []


def _shapes(parents: Sequence[Parent], rule: HeadRule) -> list[Problem]:
    """The first tensor that two parents store differently; heads that stay apart are their own."""
    first = parents[0]
    architecture = covered_architecture(parents)
    classes_differ = len({parent.architecture for parent in parents}) > 1
    for index, parent in enumerate(parents[1:], 1):
        where = f"models.{index}.model"
        for name in sorted({*first.source.specs, *parent.source.specs}):
            ours, theirs = first.source.specs.get(name), parent.source.specs.get(name)
            present = ours or theirs
            assert present is not None
            role = architecture.role(name, present.shape)
            if role.kind == "buffer" or (rule == "apart" and (role.head or "/" in name)):
                continue
            if ours is None or theirs is None:
                if architecture.may_lack(name) and (classes_differ or theirs is None):
                    continue
                lacking = parent if theirs is None else first
                return [
                    Problem(
                        f"{lacking.model} has no tensor {name}",
                        f"{(first if theirs is None else parent).model} has it, with shape {list(present.shape)}",
                        "Merge models that were saved from the same class",
                        where,
                    )
                ]
            if ours.shape != theirs.shape:
                return [
                    Problem(
                        f"{name} has shape {list(theirs.shape)} in {parent.model}",
                        f"it has {list(ours.shape)} in {first.model}",
                        "Merge models of one size",
                        where,
                    )
                ]
    return []


def configs(parents: Sequence[Parent]) -> list[Problem]:
    """The first number that shapes do not show and that differs from the first parent's."""
    first = parents[0]
    for index, parent in enumerate(parents[1:], 1):
        for key, ours, theirs in _numbers(first, parent):
            if ours is not None and theirs is not None and ours != theirs:
                return [
                    Problem(
                        f"{key} is {theirs} in {parent.model}",
                        f"it is {ours} in {first.model}",
                        "Merge models that compute the same way",
                        f"models.{index}.model",
                    )
                ]
    return []


def _numbers(first: Parent, other: Parent) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, value) of what two configs must agree in."""
    for key in SAME_CONFIG:
        yield key, first.config.get(key), other.config.get(key)
    yield "rope_theta", _rope_theta(first), _rope_theta(other)
    architecture = covered_architecture([first])
    if architecture.head_copies or architecture.sequence_pairs:
        yield "tie_word_embeddings", architecture.ties(first.config), architecture.ties(other.config)


def _rope_theta(parent: Parent) -> float:
    """Base of the rotary positions; transformers 5 writes it into a table of its own."""
    table = parent.config.get("rope_parameters")
    value = parent.config.get("rope_theta") or (table.get("rope_theta") if isinstance(table, dict) else None)
    return float(value) if isinstance(value, int | float) else 10_000.0


def _statistics(recipe: Recipe, parents: Sequence[Parent]) -> list[Problem]:
    problems: list[Problem] = []
    for kind in sorted(recipe.method.needs & {"gram", "fisher"}):
        for index, parent in enumerate(parents):
            where = f"models.{index}.model"
            fact = parent.statistics.get(kind)
            if fact is not None:
                problems += [problem for check in _FACT_CHECKS for problem in check(parent, fact, where)]
            elif not parent.calibration:
                problems.append(
                    Problem(
                        f"{parent.model} has no {kind.title()} statistics",
                        f"{recipe.method.title} needs them of every model",
                        "Name a text to collect them from, or collect and publish them on the Statistics page or "
                        "with `cli.py statistics`; or use average",
                        where,
                    )
                )
    return problems + (variant_problems(recipe, parents) if "fisher" in recipe.method.needs else [])


def _other_weights(parent: Parent, fact: StatisticsFact, where: str) -> list[Problem]:
    known = {digest for digest in parent.weights.values() if digest}
    if known and known != set(fact.weights.values()):
        return [
            Problem(
                f"The {fact.kind.title()} statistics at {fact.source} belong to other weights",
                f"they were collected before {parent.model} was changed, or from another model",
                "Collect them anew",
                where,
            )
        ]
    return []


def _sizes(parent: Parent, fact: StatisticsFact, where: str) -> list[Problem]:
    """A Gram matrix has as many rows as its layer has inputs; a Fisher value belongs to each weight."""
    architecture = architecture_of(parent.config)
    for name, size in fact.keys.items():
        spec = parent.source.specs.get(name)
        if spec is None or architecture is None:
            continue
        shape = spec.shape
        wanted = inputs_of(architecture.role(name, shape).kind, shape) if fact.kind == "gram" else spec.numel
        if size != wanted:
            return [
                Problem(
                    f"The {fact.kind.title()} statistics at {fact.source} do not fit {name}",
                    f"they have size {size}, the layer needs {wanted}",
                    "Collect them anew",
                    where,
                )
            ]
    return []


def few_tokens(parent: Parent, fact: StatisticsFact, where: str) -> list[Problem]:
    """A warning for a Gram with fewer tokens than inputs, layers that see one row a text left aside."""
    if fact.kind != "gram":
        return []
    architecture = architecture_of(parent.config)
    short = [
        name
        for name, size in fact.keys.items()
        if fact.tokens.get(name, size) < size
        and not (architecture and name in parent.source.specs and _once_per_text(architecture, parent, name))
    ]
    if not short:
        return []
    name = max(short, key=lambda key: fact.keys[key])
    return [
        Problem(
            f"The Gram statistics of {parent.model} come from few tokens",
            f"{fact.tokens[name]:,} for the {fact.keys[name]:,} inputs of {name}: the solve leans on its ridge there, "
            "and the file says more about single texts than its owner may want",
            "Collect them from more text",
            where,
            "warning",
        )
    ]


def _once_per_text(architecture: Architecture, parent: Parent, name: str) -> bool:
    """True for layers that see one row a text (pooler, head): few rows are normal there."""
    return "pooler" in name or architecture.role(name, parent.source.specs[name].shape).head


def licences(parents: Sequence[Parent]) -> list[Problem]:
    """Every parent whose licence allows no merge."""
    problems = []
    for index, parent in enumerate(parents):
        if "-nd" in parent.license.lower():
            problems.append(
                Problem(
                    f"{parent.model} has the licence {parent.license}",
                    "it allows no derived works",
                    "Leave it out, or ask its owner",
                    f"models.{index}.model",
                )
            )
    return problems


_FACT_CHECKS: tuple[Callable[[Parent, StatisticsFact, str], list[Problem]], ...] = (
    _other_weights,
    _sizes,
    few_tokens,
)
