"""The common base of some models: from their cards without a weight byte, else from a few values of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.common_base import BUDGET, CommonBase, common_base
from hub.resolve import resolve
from tests.hub.helpers import Models, Put, SignIn, wish
from tests.tiny_models import save_fine_tune


@dataclass
class Tree:
    """Models that were trained from each other, on a Hub."""

    hub: Hub
    root: Path
    put: Callable[..., str]

    def child(self, name: str, of: Path, *, seed: int, card: str = "", scale: float = 0.1, **more: Any) -> Path:
        """A fine-tune of a folder, as a repo of ann's."""
        folder = save_fine_tune(self.root / name, of, scale, seed)
        self.put(self.hub, f"ann/{name}", folder, card=card and f"---\nbase_model: {card}\n---\n", **more)
        return folder

    def base_of(self, *names: str, hub: Hub | None = None) -> CommonBase:
        """What is found for these models."""
        resolved = resolve(self.hub, wish(*(f"ann/{name}" for name in names)))
        assert resolved.parents, resolved.problems
        return common_base(hub or self.hub, resolved.parents)


@pytest.fixture
def tree(ann: Hub, put: Put, tiny: Models, tmp_path: Path) -> Tree:
    """ann/base is there."""
    put(ann, "ann/base", tiny(0))
    return Tree(ann, tmp_path, put)


def test_cards_that_agree_are_believed_without_a_weight(hub: LoopbackHub, tree: Tree, tiny: Models) -> None:
    """Not one byte of a weight is read, also when the base itself is among the models."""
    for seed in (1, 2):
        tree.child(f"m{seed}", tiny(0), seed=seed, card="ann/base")
    hub.reset_counters()
    assert tree.base_of("m1", "m2") == CommonBase("ann/base", "cards", "every card names it")
    assert tree.base_of("base", "m1", "m2").sure == "cards"
    assert hub.counters()["weight_bytes"] == 0


def test_a_silent_card_is_answered_by_the_weights(hub: LoopbackHub, tree: Tree, tiny: Models) -> None:
    """The base that one card names is that of the other model too, or it is not; few bytes tell."""
    tree.child("told", tiny(0), seed=1, card="ann/base")
    tree.child("silent", tiny(0), seed=2)
    tree.child("stranger", tiny(0), seed=3, scale=30.0)
    hub.reset_counters()
    found = tree.base_of("told", "silent")
    assert (found.repo_id, found.sure) == ("ann/base", "weights")
    assert found.why.startswith("in the weights that were looked at, it is ")
    assert 0 < hub.counters()["weight_bytes"] < BUDGET
    assert tree.base_of("told", "stranger") == CommonBase(
        "", "unknown", "their weights have no candidate for a base in common"
    )


def test_cards_that_disagree_are_settled_by_the_weights(tree: Tree, tiny: Models) -> None:
    """The wrong base is far from the models; of a base and its own fine-tune, the elder is the common one."""
    put_by_other = tree.child("other", tiny(0), seed=9, scale=30.0)
    tree.child("m1", tiny(0), seed=1, card="ann/base")
    tree.child("m2", tiny(0), seed=2, card="ann/other")
    found = tree.base_of("m1", "m2")
    assert (found.repo_id, found.sure) == ("ann/base", "weights")
    tree.child("m3", put_by_other, seed=3, card="ann/middle")
    middle = tree.child("middle", tiny(0), seed=4, card="ann/base")
    tree.child("m4", middle, seed=5, card="ann/middle")
    found = tree.base_of("m1", "m4")
    assert (found.repo_id, found.sure) == ("ann/base", "likely")


def test_the_base_of_bases_is_found(tree: Tree, tiny: Models) -> None:
    """Cards that name two fine-tunes of one model: it is reached by the cards of these."""
    left = tree.child("left", tiny(0), seed=1, card="ann/base")
    right = tree.child("right", tiny(0), seed=2, card="ann/base")
    tree.child("m1", left, seed=3, card="ann/left", scale=0.02)
    tree.child("m2", right, seed=4, card="ann/right", scale=0.02)
    found = tree.base_of("m1", "m2")
    assert found.repo_id == "ann/base"


def test_without_cards_the_weights_show_the_model_that_the_others_come_from(
    hub: LoopbackHub, tree: Tree, tiny: Models
) -> None:
    """The base among three; of three siblings none is it, and two do not tell who was first."""
    for seed in (1, 2, 3):
        tree.child(f"m{seed}", tiny(0), seed=seed)
    hub.reset_counters()
    found = tree.base_of("m1", "base", "m2")
    assert (found.repo_id, found.sure) == ("ann/base", "weights")
    assert tree.base_of("m1", "m2", "m3").sure == "unknown"
    assert hub.counters()["weight_bytes"] < 2 * BUDGET
    hub.reset_counters()
    assert tree.base_of("m1", "m2") == CommonBase(
        "", "unknown", "no card names a base of these models that can be read"
    )
    assert hub.counters()["weight_bytes"] == 0


def test_a_base_that_cannot_be_read_or_does_not_fit_is_none(
    hub: LoopbackHub, tree: Tree, tiny: Models, sign_in: SignIn
) -> None:
    """Missing, private, of another shape: the person learns no more of it than that nothing is known."""
    tree.child("secret", tiny(0), seed=7, private=True)
    tree.put(tree.hub, "ann/wide", tiny(0, hidden_size=64))
    for name, card in (("m1", "ann/secret"), ("m2", ""), ("m3", "ann/nothing"), ("m4", "ann/wide")):
        tree.child(name, tiny(0), seed=len(name), card=card)
    bob = sign_in("bob")
    hub.reset_counters()
    for first in ("m1", "m3", "m4"):
        assert tree.base_of(first, "m2", hub=bob).sure == "unknown"
    assert hub.counters()["weight_bytes"] == 0
    assert tree.base_of("m1", "m2").repo_id == "ann/secret"  # its owner may


@pytest.mark.slow
def test_eight_models_of_different_cards_stay_within_the_bytes(hub: LoopbackHub, tree: Tree, tiny: Models) -> None:
    """As many as the form has room for, all with bases of their own."""
    for number in range(8):
        tree.child(f"b{number}", tiny(0), seed=100 + number, card="ann/base", scale=0.01)
        tree.child(f"m{number}", tiny(0), seed=number, card=f"ann/b{number}")
    hub.reset_counters()
    assert tree.base_of(*(f"m{number}" for number in range(8))).repo_id
    assert 0 < hub.counters()["weight_bytes"] < 100_000
