"""The base of a recipe on the Hub: pinned like a model, each bad input in one sentence at `base_model`."""

import os
from pathlib import Path
from typing import Any

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.download import fetch
from hub.repository import open_repo
from hub.resolve import Resolved, resolve, result_is_private, with_pins
from merging.checkpoint import open_parent
from merging.plan import make_plan
from tests.hub.helpers import Models, Put, SignIn, changed, texts, wish


@pytest.fixture
def three(ann: Hub, put: Put, tiny: Models) -> dict[str, str]:
    """Two classifiers of ann's and the language model that they came from: name -> commit."""
    commits = {f"ann/m{seed}": put(ann, f"ann/m{seed}", tiny(seed)) for seed in (1, 2)}
    return commits | {"ann/base": put(ann, "ann/base", tiny(0, labels=None))}


def based(hub: Hub, base: str | None, method: str = "task_arithmetic", **more: Any) -> Resolved:
    """Both models on a base, resolved."""
    options = {"folders_allowed": more.pop("folders_allowed", False)}
    return resolve(hub, wish("ann/m1", "ann/m2", method=method, base_model=base, **more), **options)


def sentence(hub: Hub, base: str, **more: Any) -> str:
    """The only problem of a recipe, which stands beside the base."""
    resolved = based(hub, base, **more)
    (problem,) = resolved.problems
    assert (problem.where, resolved.base) == ("base_model", None)
    assert len(resolved.parents) == 2  # the models are known all the same
    return str(problem)


def test_a_base_is_pinned_and_planned_from_headers_alone(hub: LoopbackHub, ann: Hub, three: dict[str, str]) -> None:
    """Its commit stands in the recipe, a pinned recipe resolves to itself, and no weight byte is fetched."""
    hub.reset_counters()
    resolved = based(ann, "ann/base")
    plan = make_plan(resolved.recipe, resolved.parents, resolved.base)
    assert not plan.errors
    assert hub.counters()["weight_bytes"] == 0
    assert not (Path(os.environ["HF_HOME"]) / "hub" / "models--ann--base").exists()
    assert resolved.recipe.base_model == f"ann/base@{three['ann/base']}"
    again = resolve(ann, resolved.recipe)
    assert (again.recipe, again.problems) == (resolved.recipe, ())
    assert again.base is not None
    assert again.base.revision == three["ann/base"]


def test_another_weight_keeps_the_pin_of_the_base(ann: Hub, three: dict[str, str]) -> None:
    """The form asks the Hub once for several recipes of the same models."""
    resolved = based(ann, "ann/base")
    other = wish("ann/m1", "ann/m2", method="task_arithmetic", base_model="ann/base", parameters={"lambda": 0.3})
    assert with_pins(resolved, other).recipe.base_model == f"ann/base@{three['ann/base']}"


def test_a_base_that_the_method_does_not_need_is_not_asked_for(ann: Hub, three: dict[str, str]) -> None:
    """The plan says that it is not used; nobody looks whether it is there."""
    resolved = based(ann, "ann/nothing", method="average")
    assert (resolved.problems, resolved.base, resolved.recipe.base_model) == ((), None, "ann/nothing")


def test_a_base_that_is_not_there_or_not_to_be_read(
    hub: LoopbackHub, ann: Hub, sign_in: SignIn, three: dict[str, str], put: Put, tiny: Models
) -> None:
    """Missing, of a missing revision, private, gated: with the user's own token, as for a model."""
    assert sentence(ann, "ann/nothing") == (
        "ann/nothing does not exist, or it is private: you have no access to it. "
        "Check the name, or ask its owner for access."
    )
    assert sentence(ann, "ann/base@nope") == "ann/base has no revision 'nope'. Name a branch, a tag or a commit."
    put(ann, "ann/private", tiny(3), private=True)
    bob = sign_in("bob")
    assert sentence(bob, "ann/private").startswith("ann/private does not exist, or it is private: you have no access")
    put(ann, "ann/gated", tiny(4))
    ann.api.update_repo_settings("ann/gated", gated="manual")
    assert sentence(bob, "ann/gated").startswith("ann/gated is gated: its owner has not let you in. Ask for access at")
    hub.grant_access("ann/gated", "bob")
    assert based(bob, "ann/gated").problems == ()


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("bert", "'bert' is not the name of a model. Write owner/name[@revision]."),
        ("ann/base+ann/lora", "ann/base+ann/lora is an adapter: adapters cannot be merged."),
        ("/tmp/base", "/tmp/base is a folder: only models of the Hub can be used. Name owner/name."),
    ],
)
def test_names_that_are_no_base(ann: Hub, three: dict[str, str], base: str, said: str) -> None:
    """What is not the name of a model on the Hub."""
    assert sentence(ann, base).startswith(said)


def test_a_base_of_pickles(ann: Hub, three: dict[str, str], put: Put, tmp_path: Path) -> None:
    """Refused with the way out."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"x" * 100)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    put(ann, "ann/pickled", folder)
    assert sentence(ann, "ann/pickled").startswith("ann/pickled has no safetensors: it has only pytorch_model.bin")


def test_a_base_with_another_vocabulary(
    ann: Hub, three: dict[str, str], put: Put, tiny: Models, tmp_path: Path
) -> None:
    """Its tokenizer is read where it is not the same file as the models'; without one there is nothing to compare."""
    bare = changed(tiny(0, labels=None), tmp_path / "bare")
    for name in ("tokenizer.json", "vocab.txt"):
        (bare / name).unlink(missing_ok=True)
    put(ann, "ann/bare", bare)
    resolved = based(ann, "ann/bare")
    assert not make_plan(resolved.recipe, resolved.parents, resolved.base).errors
    swapped = changed(tiny(0, labels=None), tmp_path / "swapped")
    body = (swapped / "tokenizer.json").read_text()
    assert '"one": 31' in body
    (swapped / "tokenizer.json").write_text(
        body.replace('"one": 31', '"one": 0').replace('"two": 32', '"two": 31').replace('"one": 0', '"one": 32')
    )
    put(ann, "ann/swapped", swapped)
    resolved = based(ann, "ann/swapped")
    (error,) = make_plan(resolved.recipe, resolved.parents, resolved.base).errors
    assert error.where == "base_model"
    assert str(error).startswith("ann/swapped and ann/m1 have different vocabularies: the same size, but not")


def test_a_restricted_base_makes_the_result_private(ann: Hub, three: dict[str, str], put: Put, tiny: Models) -> None:
    """By default; the recipe may say otherwise, with a warning."""
    put(ann, "ann/private", tiny(0, labels=None), private=True)
    resolved = based(ann, "ann/private")
    assert result_is_private(resolved.recipe, resolved.parents, resolved.base)
    assert not result_is_private(resolved.recipe, resolved.parents)
    public = based(ann, "ann/private", output={"private": False})
    assert texts(public.problems)[0].startswith("The result will be public although ann/private is private or gated")


@pytest.mark.parametrize(
    ("card", "base"),
    [
        ("base_model: org/base", "org/base"),
        ("base_model: [org/base]", "org/base"),
        ("base_model: [org/base, org/other]", ""),
        ("base_model: org/base\nbase_model_relation: merge", ""),
        ("base_model: '<b>x</b>'", ""),
        ("license: mit", ""),
    ],
)
def test_the_base_that_a_card_names_is_known_without_another_question(
    ann: Hub, put: Put, tiny: Models, card: str, base: str
) -> None:
    """One name of a model; parents of a merge are none, nor is anything that is no name."""
    put(ann, "ann/tuned", tiny(1), card=f"---\n{card}\n---\n")
    assert open_repo(ann, "ann/tuned").fine_tuned_from == base
    put(ann, "ann/other", tiny(2))
    assert resolve(ann, wish("ann/tuned", "ann/other")).parents[0].fine_tuned_from == base


def test_what_is_fetched_of_a_base_is_enough_for_the_same_plan(ann: Hub, three: dict[str, str], tmp_path: Path) -> None:
    """The plan from headers is the plan from its files."""
    resolved = based(ann, "ann/base")
    plan = make_plan(resolved.recipe, resolved.parents, resolved.base)
    local = []
    for parent, names in zip((*resolved.parents, resolved.base), (*plan.fetch, plan.fetch_base), strict=True):
        assert parent is not None
        folder = tmp_path / parent.model
        for _ in fetch(ann, parent, names, folder):
            pass
        local.append(open_parent(parent.model, folder, revision=parent.revision))
    assert not (tmp_path / "ann/base/tokenizer.json").exists()  # nothing of the base goes into the result
    assert make_plan(resolved.recipe, local[:2], local[2]).fingerprint == plan.fingerprint


def test_a_folder_is_a_base_where_folders_are_allowed(ann: Hub, three: dict[str, str], tiny: Models) -> None:
    """On the command line; nothing of it is fetched."""
    base = str(tiny(0, labels=None))
    resolved = based(ann, base, folders_allowed=True)
    plan = make_plan(resolved.recipe, resolved.parents, resolved.base)
    assert not plan.errors
    assert resolved.recipe.base_model == base
    assert plan.download_bytes == sum(
        parent.files[name] for parent, names in zip(resolved.parents, plan.fetch, strict=True) for name in names
    )
