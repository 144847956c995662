"""What a trial may fetch and keep: bounded in all its files, and never given up while it needs them."""

import os
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.repository import RemoteFile, RemoteRepo, open_repo
from jobs.try_it_models import BESIDE, Shelf, Trial, content, too_much
from merging.errors import InputError


def a_trial(repo: RemoteRepo) -> Trial:
    """All files of a repo."""
    return Trial("merge", "The merge", "", repo, "", tuple(repo.files))


def test_files_beside_the_weights_are_bounded_too() -> None:
    """All together, each content once: weights by the service's limit, the others by one of their own."""

    def trial(number: int, weights: int, tokenizer: int) -> Trial:
        files = {"model.safetensors": RemoteFile(weights, "1" * 64), "tokenizer.json": RemoteFile(tokenizer, "2" * 64)}
        files["merges.txt"] = RemoteFile(BESIDE // 2, blob_id=f"{number}" * 40)
        return a_trial(RemoteRepo("ann/merged", "c" * 40, files))

    assert too_much([trial(3, 1000, 5), trial(3, 1000, 5)], 1000) == ""
    assert too_much([trial(3, 1001, 5)], 1000) == "weights take 1.0 kB, at most 1.0 kB are fetched"
    for found in ([trial(3, 1000, 30_000_000_000)], [trial(3, 1000, 5), trial(4, 1000, 5)]):
        why = too_much(found, 1000)
        assert why.startswith("tokenizers and other small files take ")
        assert why.endswith(", at most 100 MB are fetched")


def test_the_shelf_keeps_what_the_trial_needs(hub: LoopbackHub, tmp_path: Path) -> None:
    """Whatever the dates say, others go; what is more than the shelf holds is refused before anything is given up."""
    hub.add_user("ann")
    ann = Hub(hub.url, hub.add_token("ann"))
    ann.api.create_repo("ann/one")
    for name, byte in (("config.json", b"a"), ("tokenizer.json", b"b")):
        ann.api.upload_file(repo_id="ann/one", path_or_fileobj=byte * 4000, path_in_repo=name)
    repo = open_repo(ann, "ann/one")
    found = [Trial("merge", "The merge", "", repo, "", ("config.json", "tokenizer.json"))]
    shelf = Shelf(tmp_path, 10_000, 0)
    there = tmp_path / "files" / content(repo.files["config.json"])
    there.write_bytes(b"a" * 4000)
    other = tmp_path / "files" / ("0" * 40)
    other.write_bytes(b"0" * 4000)
    os.utime(other, (1 << 33, 1 << 33))
    with pytest.raises(InputError) as refused:
        list(Shelf(tmp_path, 7000, 0).bring(ann, found))
    assert str(refused.value) == (
        "These models are not tried here: together they take 8.0 kB, at most 7.0 kB are kept here. "
        "Load them on a machine of your own."
    )
    assert other.exists()
    list(shelf.bring(ann, found))
    assert not other.exists()
    with shelf.laid_out(found[0]) as folder:
        assert (folder / "config.json").read_bytes() == b"a" * 4000
        assert (folder / "tokenizer.json").read_bytes() == b"b" * 4000
