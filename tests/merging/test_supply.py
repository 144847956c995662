"""Which files each output shard needs, and how much disk that takes: from headers, against plain counting."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from merging.checkpoint import Checkpoint, open_parent
from merging.errors import MergeError
from merging.glance import same_weights
from merging.parent import Parent
from merging.plan import Plan, make_plan
from merging.recipe import recipe_from_dict
from merging.supply import NOTES, Piece, Supply
from merging.tensors import HeaderSource
from tests.tiny_models import save_tiny

SHARDS = ("15KB", "30KB", "1GB")  # of each model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models in shards of different sizes, the last one in one file."""
    root = tmp_path_factory.mktemp("supply")
    return [save_tiny(root / f"m{seed}", seed=seed, shard_size=size) for seed, size in enumerate(SHARDS)]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.steps.SHARD_BYTES", 15_000)


def remote(folder: Path) -> Parent:
    """The model as the Hub would show it: headers alone."""
    parent = open_parent(f"ann/{folder.name}", folder)
    source = HeaderSource(parent.source.specs)
    return replace(parent, source=source, weights=dict(parent.weights), revision="0" * 40, stamp=())


def planned(parents: Sequence[Parent], method: str = "average", **entry: Any) -> Plan:
    """The plan of these parents."""
    models = [{"model": parent.model, **entry} for parent in parents]
    return make_plan(recipe_from_dict({"merge_method": method, "models": models}), parents).raise_if_impossible()


def supply_of(plan: Plan) -> Supply:
    """What it needs."""
    assert plan.supply is not None
    return plan.supply


def stored(folder: Path) -> list[str]:
    """The tensors of a model, file by file, in the order of their bytes."""
    names = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names += list(file.offset_keys())
    return names


def test_the_output_stands_in_the_order_of_the_first_model(folders: list[Path]) -> None:
    """From headers and from files alike, so that each input is read from its beginning to its end."""
    plan = planned([remote(folder) for folder in folders])
    assert [step.name for step in plan.steps] == stored(folders[0])
    assert [step.name for step in planned([remote(folder) for folder in folders[::-1]]).steps] == stored(folders[2])
    local = [open_parent(f"ann/{folder.name}", folder) for folder in folders]
    assert planned(local).fingerprint == plan.fingerprint


def test_each_shard_names_the_files_that_it_reads(folders: list[Path]) -> None:
    """Those in which its tensors stand, of every model."""
    plan = planned([remote(folder) for folder in folders])
    where = [
        {name: path.name for path in folder.glob("*.safetensors") for name in load_file(path)} for folder in folders
    ]
    assert len(plan.shards) > 4
    for shard in plan.shards:
        pieces = {Piece(model, where[model][step.name]) for step in shard.steps for model in step.inputs}
        assert supply_of(plan).needs[shard.path] == pieces


def test_the_peak_is_what_lies_on_the_disk_at_a_time(folders: list[Path]) -> None:
    """From the first need of a file to the last, and all output: counted shard by shard."""
    plan = planned([remote(folder) for folder in folders])
    supply, most = supply_of(plan), 0
    needs = [supply.needs[shard.path] for shard in plan.shards]
    for place in range(len(needs)):
        begun, left = set().union(*needs[: place + 1]), set().union(*needs[place:])
        size = sum((folders[piece.model] / piece.file).stat().st_size for piece in begun & left)
        most = max(most, size + sum(shard.nbytes for shard in plan.shards[: place + 1]))
    assert plan.disk_bytes == most + supply.beside
    assert plan.disk_bytes - NOTES < plan.download_bytes + plan.output_bytes


def test_a_user_s_folder_is_not_fetched(folders: list[Path]) -> None:
    """It costs no disk, and nothing of it can be deleted: no piece of it is known."""
    local = open_parent("mine", folders[0])
    plan = planned([local, remote(folders[1])])
    assert {piece.model for piece in supply_of(plan).sizes} == {1}
    files = sum(path.stat().st_size for path in folders[1].iterdir())
    assert plan.download_bytes == files


def test_models_that_statistics_are_collected_of_are_there_from_the_beginning(folders: list[Path]) -> None:
    """Whole, and the statistics beside them."""
    parents = [replace(remote(folder), calibration=True) for folder in folders[:2]]
    plan = planned(parents, "regmean", calibration={"data": "ann/texts"})
    supply = supply_of(plan)
    weights = sum(path.stat().st_size for folder in folders[:2] for path in folder.glob("*.safetensors"))
    assert supply.bytes_of(supply.whole) == weights
    assert plan.disk_bytes > weights + supply.written[plan.shards[0].path] + supply.small


def test_a_file_is_opened_when_it_is_first_read(folders: list[Path], tmp_path: Path) -> None:
    """It need not be there before; then it must be the one that was planned; dropped, it costs nothing."""
    headers = open_parent("m", folders[0]).headers
    source = Checkpoint(tmp_path, "ann/m", headers)
    (first, second), names = list(headers)[:2], stored(folders[0])
    with pytest.raises(FileNotFoundError):
        source.read(names[0])
    os.link(folders[0] / first, tmp_path / first)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert source.read(names[0]).numel()
    assert len(os.listdir("/proc/self/fd")) == descriptors + 1
    source.drop(first)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    save_file({"other": load_file(folders[0] / second).popitem()[1]}, tmp_path / second)
    with pytest.raises(MergeError, match=f"ann/m: {second} is not the file that was planned"):
        source.read(next(name for name in names if name in headers[second].specs))


def test_folders_that_differ_are_not_hashed(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """To hash is to read all of them: a plan and a merge of folders look at some values."""

    def refused(path: Path) -> str:
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr("merging.checkpoint.sha256_of", refused)
    parents = [open_parent(str(folder), folder) for folder in folders]
    assert planned(parents).shards


def test_the_same_weights_are_known_under_other_names(folders: list[Path], tmp_path: Path) -> None:
    """Links at once, copies by their hashes; one value that differs is enough."""
    for name in ("links", "copies", "changed"):
        (tmp_path / name).mkdir()
        for path in folders[0].iterdir():
            target = tmp_path / name / path.name
            os.link(path, target) if name == "links" else target.write_bytes(path.read_bytes())
    path = max((tmp_path / "changed").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    one = open_parent("one", folders[0])
    assert same_weights(one, open_parent("links", tmp_path / "links"))
    assert same_weights(one, open_parent("copies", tmp_path / "copies"))
    assert not same_weights(one, open_parent("changed", tmp_path / "changed"))
    assert not same_weights(one, open_parent("other", folders[2]))


def test_models_that_are_compared_with_the_merge_stay(folders: list[Path]) -> None:
    """The peak is all their weights, the merge and the plain average; the plan is that of the same merge without it."""
    parents = [remote(folder) for folder in folders]
    plain = planned(parents)
    models = [{"model": parent.model} for parent in parents]
    wish = {"merge_method": "average", "models": models, "evaluate": [{"data": "ann/reviews"}]}
    compared = make_plan(recipe_from_dict(wish), parents).raise_if_impossible()
    assert compared.fingerprint == plain.fingerprint
    supply = supply_of(compared)
    weights = sum(parent.weight_bytes for parent in parents)
    assert supply.bytes_of(supply.kept) == weights
    assert compared.disk_bytes == supply.beside + weights + 2 * compared.output_bytes
    assert compared.disk_bytes > plain.disk_bytes
    assert supply_of(plain).kept == frozenset()
