"""The base of a merge: whether it can be the model that the others were fine-tuned from, and where it has no say.

It is compared with the first parent as another parent would be, but for the heads: a base rarely has the head that a
task gave to its models.
"""

from collections.abc import Sequence
from dataclasses import replace

from merging.architecture import architecture_of
from merging.compatibility import configs, covered_architecture, licences, quantised, vocabularies
from merging.errors import Problem
from merging.glance import same_weights
from merging.heads import Arrangement
from merging.parent import Parent
from merging.tensors import TensorSpec

WHERE = "base_model"  # the field of the recipe
FIX = "Name the model that the others were fine-tuned from"


def base_problems(arranged: Arrangement) -> list[Problem]:
    """Why this aligned base cannot be that of the parents; the cheap and the plain reasons first."""
    if arranged.base is None:
        return []
    first, base = arranged.parents[0], arranged.base
    found = _itself(arranged.parents, base)
    if not found:
        found = _architecture(first, base)
        if not found and architecture_of(first.config) is not None:
            found = quantised([base])
            found = found or _to_mend(vocabularies([first, base]) or configs([first, base])) or _shapes(arranged, base)
        found = [replace(problem, where=WHERE) for problem in found]
    return [*found, *(replace(problem, where=WHERE) for problem in licences([base]))]


def silent(arranged: Arrangement, name: str, spec: TensorSpec) -> str:
    """Why the base says nothing of a parents' tensor, "" when it has its like."""
    assert arranged.base is not None
    theirs = arranged.base.source.specs.get(name)
    if theirs is None:
        return "the base has no such tensor"
    if theirs.shape != spec.shape:
        return "it has another shape in the base"
    return "its labels are others in the base" if name in arranged.other_head else ""


def _to_mend(found: list[Problem]) -> list[Problem]:
    """What is wrong between a parent and the base is mended by another base."""
    return [replace(problem, fix=FIX) for problem in found]


def _itself(parents: Sequence[Parent], base: Parent) -> list[Problem]:
    """A parent that is the base: nothing was learnt between the two."""
    for index, parent in enumerate(parents):
        named = (parent.model, parent.revision) == (base.model, base.revision)
        if named or same_weights(parent, base):
            why = "it is merged with itself" if named else f"its weights are those of {base.model}, byte for byte"
            what, fix = f"{parent.model} is the base model", "Leave it out of the models"
            return [Problem(what, why, fix, f"models.{index}.model")]
    return []


def _architecture(first: Parent, base: Parent) -> list[Problem]:
    if base.model_type == first.model_type:
        return []
    what = f"The base {base.model} is a {base.architecture or base.model_type or 'model without a model_type'}"
    return [Problem(what, f"{first.model} is a {first.architecture or first.model_type}", FIX)]


def _shapes(arranged: Arrangement, base: Parent) -> list[Problem]:
    """The first tensor of the shared body that is stored in another shape."""
    first, architecture = arranged.parents[0], covered_architecture(arranged.parents)
    for name, ours in sorted(first.source.specs.items()):
        theirs, role = base.source.specs.get(name), architecture.role(name, ours.shape)
        if theirs is None or theirs.shape == ours.shape or role.head or role.kind == "buffer" or "/" in name:
            continue
        what = f"{name} has shape {list(theirs.shape)} in the base {base.model}"
        return [Problem(what, f"it has {list(ours.shape)} in {first.model}", FIX)]
    return []
