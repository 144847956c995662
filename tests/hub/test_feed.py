"""The inputs of a merge come when a shard needs them, the next one's as far as the disk allows, and go again."""

from dataclasses import replace
from pathlib import Path

import pytest

from hub.client import Hub
from hub.feed import HubFeed
from hub.resolve import resolve
from merging.checkpoint import Checkpoint
from merging.parent import Parent
from merging.plan import Plan, make_plan
from tests.hub.helpers import Put, wish
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow  # a Hub of its own for each test


@pytest.fixture
def planned(ann: Hub, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, list[Parent]]:
    """Two models in many files, merged into many shards, each model with a folder that is empty yet."""
    monkeypatch.setattr("merging.steps.SHARD_BYTES", 15_000)
    for seed, size in enumerate(("15KB", "25KB")):
        put(ann, f"ann/m{seed}", save_tiny(tmp_path / f"m{seed}", seed=seed, shard_size=size))
    resolved = resolve(ann, wish("ann/m0", "ann/m1")).raise_if_impossible()
    parents = []
    for parent in resolved.parents:
        folder = tmp_path / "fetched" / parent.model
        folder.mkdir(parents=True)
        parents.append(replace(parent, source=Checkpoint(folder, parent.model, parent.headers)))
    return make_plan(resolved.recipe, parents).raise_if_impossible(), parents


def here(root: Path) -> set[tuple[int, str]]:
    """(model, file) of what is fetched."""
    return {(int(path.parent.name[1]), path.name) for path in (root / "fetched").glob("ann/*/*.safetensors")}


@pytest.mark.parametrize("room", ["none", "plenty"])
def test_what_comes_and_goes(ann: Hub, planned: tuple[Plan, list[Parent]], tmp_path: Path, room: str) -> None:
    """With no room left nothing comes before its time; nothing stays longer than it is needed."""
    plan, parents = planned
    assert plan.supply is not None
    needs = [set(plan.supply.needs[shard.path]) for shard in plan.shards]
    first = plan.supply.bytes_of(needs[0]) + plan.shards[0].nbytes + plan.supply.beside
    with HubFeed(ann, plan.supply, parents, first if room == "none" else 10**9) as feed:
        feed.begin(plan.shards)
        assert not here(tmp_path)
        assert not feed.needs_room(plan.shards[0])
        list(feed.bring(plan.shards[0]))
        assert feed.needs_room(plan.shards[1]) == (room == "none")
    ahead = set() if room == "none" else needs[1]
    assert needs[0] <= here(tmp_path) <= needs[0] | ahead
    with HubFeed(ann, plan.supply, parents, 10**9) as feed:
        feed.begin(plan.shards)
        for place, shard in enumerate(plan.shards):
            list(feed.bring(shard))
            assert needs[place] <= here(tmp_path)
            feed.release(shard)
            later = set().union(*needs[place + 1 :])
            assert here(tmp_path) <= later
    assert not here(tmp_path)


def test_what_only_finished_shards_needed_goes_first(
    ann: Hub, planned: tuple[Plan, list[Parent]], tmp_path: Path
) -> None:
    """A start after a kill: files of finished shards, and files that are not whole, are deleted, others kept."""
    plan, parents = planned
    assert plan.supply is not None
    with HubFeed(ann, plan.supply, parents, 10**9) as feed:
        feed.begin(plan.shards)
        for shard in plan.shards[:2]:
            list(feed.bring(shard))
    rest = tmp_path / "fetched" / "ann" / "m0" / ".cache" / "half.incomplete"
    rest.parent.mkdir()
    rest.write_bytes(b"x")
    last = set(plan.supply.needs[plan.shards[-1].path])
    before = here(tmp_path)
    with HubFeed(ann, plan.supply, parents, 10**9) as feed:
        feed.begin(plan.shards[1:])
        assert not rest.exists()
        later = set().union(*(plan.supply.needs[shard.path] for shard in plan.shards[1:]))
        assert here(tmp_path) == before & later
    with HubFeed(ann, plan.supply, parents, 10**9) as feed:
        feed.begin(plan.shards[-1:])
        assert here(tmp_path) == before & last


def test_what_is_compared_with_the_merge_stays(ann: Hub, planned: tuple[Plan, list[Parent]], tmp_path: Path) -> None:
    """Nothing is deleted when a shard is finished, and nothing of it when an interrupted merge goes on."""
    plan, parents = planned
    assert plan.supply is not None
    every = frozenset(plan.supply.sizes)
    supply = replace(plan.supply, kept=every)
    with HubFeed(ann, supply, parents, supply.peak) as feed:
        feed.begin(plan.shards)
        for shard in plan.shards:
            list(feed.bring(shard))
            feed.release(shard)
        assert here(tmp_path) == set(every)
    with HubFeed(ann, supply, parents, supply.peak) as feed:
        feed.begin(plan.shards[-1:])
        assert here(tmp_path) == set(every)
