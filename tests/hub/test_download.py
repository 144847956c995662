"""Files into a job's own folder: access first, resumed, verified, nothing shared."""

import os
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub, HubUnavailable
from hub.download import fetch, fetch_statistics
from hub.resolve import resolve
from merging.checkpoint import sha256_of
from merging.errors import InputError
from merging.parent import Parent
from merging.plan import make_plan
from tests.hub.helpers import Models, Put, SignIn, gram_file, wish

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test

FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def parent(ann: Hub, put: Put, tiny: Models) -> Parent:
    """A private model of ann, resolved."""
    put(ann, "ann/a", tiny(0), private=True)
    put(ann, "ann/b", tiny(1))
    return resolve(ann, wish("ann/a", "ann/b")).parents[0]


def run(hub: Hub, parent: Parent, folder: Path, files: tuple[str, ...] = FILES) -> list[int]:
    """Fetch to the end; bytes done at each report."""
    return [progress.done for progress in fetch(hub, parent, files, folder)]


def names(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_arrive_whole_and_alone(hub: LoopbackHub, ann: Hub, parent: Parent, tiny: Models, tmp_path: Path) -> None:
    """What was asked for, byte for byte, with progress up to the plan's bytes; no trace in a shared cache."""
    done = run(ann, parent, tmp_path / "job")
    assert names(tmp_path / "job") == sorted(FILES)
    assert all(sha256_of(tmp_path / "job" / name) == sha256_of(tiny(0) / name) for name in FILES)
    assert done == sorted(done)
    assert done[-1] == sum(parent.files[name] for name in FILES)
    assert not (Path(os.environ["HF_HOME"]) / "hub" / "models--ann--a").exists()
    assert hub.counters()["authorized_storage_requests"] == 0


def test_what_is_there_is_not_fetched_again(hub: LoopbackHub, ann: Hub, parent: Parent, tmp_path: Path) -> None:
    """A second call asks for access and downloads nothing; a damaged file is replaced."""
    run(ann, parent, tmp_path / "job")
    hub.reset_counters()
    assert run(ann, parent, tmp_path / "job")[0] == sum(parent.files[name] for name in FILES)
    requests = hub.counters()["requests"]
    assert not [route for route in requests if "resolve" in route]
    assert [route for route in requests if "auth-check" in route]
    weights = tmp_path / "job" / "model.safetensors"
    good = sha256_of(weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    run(ann, parent, tmp_path / "job")
    assert sha256_of(weights) == good


def test_access_is_asked_for_again(ann: Hub, sign_in: SignIn, parent: Parent, tmp_path: Path) -> None:
    """Another user's job gets nothing of a private model, although ann's files lie in the same process and home."""
    run(ann, parent, tmp_path / "ann")
    with pytest.raises(InputError, match="ann/a does not exist, or it is private: you have no access to it"):
        run(sign_in("bob"), parent, tmp_path / "bob")
    with pytest.raises(InputError, match="nobody is signed in"):
        run(Hub.anonymous(ann.endpoint), parent, tmp_path / "bob")
    assert not (tmp_path / "bob").exists()


def test_access_that_was_taken_away_ends_the_job(
    hub: LoopbackHub, ann: Hub, sign_in: SignIn, put: Put, tiny: Models, tmp_path: Path
) -> None:
    """A model that became gated between preview and job is refused, also when its files are there."""
    put(ann, "ann/x", tiny(0))
    put(ann, "ann/y", tiny(1))
    bob = sign_in("bob")
    seen = resolve(bob, wish("ann/x", "ann/y")).parents[0]
    run(bob, seen, tmp_path / "job")
    ann.api.update_repo_settings("ann/x", gated="manual")
    with pytest.raises(InputError, match="ann/x is gated: its owner has not let you in"):
        run(bob, seen, tmp_path / "job")


def test_a_cut_connection_goes_on(hub: LoopbackHub, ann: Hub, parent: Parent, tmp_path: Path) -> None:
    """The client resumes, and the file is whole."""
    hub.set_fault("_storage", method="GET", cut_after=20_000, times=1)
    run(ann, parent, tmp_path / "job")
    assert sha256_of(tmp_path / "job" / "model.safetensors") == parent.weights["model.safetensors"]


def test_a_damaged_body_is_refused(hub: LoopbackHub, ann: Hub, parent: Parent, tmp_path: Path) -> None:
    """Bytes of the right length but another SHA-256 never reach a merge."""
    digest = parent.weights["model.safetensors"]
    (stored,) = [path for path in hub.root.rglob(digest) if path.is_file()]
    stored.write_bytes(stored.read_bytes()[:-4] + b"evil")
    with pytest.raises(HubUnavailable, match=r"ann/a: model.safetensors arrived damaged twice"):
        run(ann, parent, tmp_path / "job")
    assert not (tmp_path / "job" / "model.safetensors").exists()


def test_closing_stops_and_the_next_call_goes_on(hub: LoopbackHub, ann: Hub, parent: Parent, tmp_path: Path) -> None:
    """Cancel is closing the generator: it returns soon, and nothing half is taken for whole."""
    hub.set_fault("_storage", delay=0.5, times=1)
    work = fetch(ann, parent, FILES, tmp_path / "job")
    next(work)
    next(work)
    work.close()
    run(ann, parent, tmp_path / "job")
    assert names(tmp_path / "job") == sorted(FILES)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "a\0b"])
def test_names_that_leave_the_folder_are_refused(ann: Hub, parent: Parent, tmp_path: Path, name: str) -> None:
    """No file name of the Hub becomes a path outside of the job."""
    with pytest.raises(InputError, match="has a file name that cannot be used"):
        run(ann, parent, tmp_path / "job", (name,))
    assert not (tmp_path / "job").exists()


def test_a_branch_is_not_pinned(ann: Hub, parent: Parent, tmp_path: Path) -> None:
    """Only commits are downloaded."""
    with pytest.raises(InputError, match="ann/a@main is not pinned"):
        run(ann, Parent(**{**vars(parent), "revision": "main"}), tmp_path / "job")


def test_a_later_commit_changes_nothing(ann: Hub, parent: Parent, tiny: Models, tmp_path: Path) -> None:
    """The pinned files arrive although main has moved on, and the plan from them is the plan from headers."""
    ann.api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="ann/a")
    resolved = resolve(ann, wish(f"ann/a@{parent.revision}", "ann/b"))
    plan = make_plan(resolved.recipe, resolved.parents)
    run(ann, resolved.parents[0], tmp_path / "a", plan.fetch[0])
    run(ann, resolved.parents[1], tmp_path / "b", plan.fetch[1])
    local = resolve(ann, wish(str(tmp_path / "a"), str(tmp_path / "b")), folders_allowed=True)
    assert make_plan(resolved.recipe, local.parents).fingerprint == plan.fingerprint


def test_statistics_arrive_verified(ann: Hub, sign_in: SignIn, parent: Parent, tiny: Models, tmp_path: Path) -> None:
    """From the Hub and from this machine; again it is nothing to do; another user is refused."""
    file = gram_file(tmp_path / "g.safetensors", tiny(0))
    ann.api.upload_file(path_or_fileobj=file, path_in_repo="merge-statistics/gram.safetensors", repo_id="ann/a")
    fact = resolve(ann, wish("ann/a", "ann/b", method="regmean")).parents[0].statistics["gram"]
    target = tmp_path / "job" / "0" / "gram.safetensors"
    with pytest.raises(InputError, match="does not exist, or it is private"):
        list(fetch_statistics(sign_in("bob"), fact, target))
    list(fetch_statistics(ann, fact, target))
    assert sha256_of(target) == fact.sha256 == sha256_of(file)
    assert names(target.parent) == ["gram.safetensors"]
    stamp = target.stat().st_mtime_ns
    list(fetch_statistics(ann, fact, target))
    assert target.stat().st_mtime_ns == stamp
    entry = {"model": "ann/a", "statistics": {"gram": str(file)}}
    local = resolve(ann, wish(entry, "ann/b", method="regmean"), folders_allowed=True).parents[0].statistics["gram"]
    list(fetch_statistics(ann, local, tmp_path / "copy.safetensors"))
    assert sha256_of(tmp_path / "copy.safetensors") == local.sha256
