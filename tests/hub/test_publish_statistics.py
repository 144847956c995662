"""Statistics go where the token allows it, and what it does not allow is said before the work."""

from pathlib import Path
from typing import Any

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.publish import PublishFailed
from hub.publish_statistics import publish_statistics
from hub.statistics_place import publishing_problems
from merging.errors import InputError
from merging.wish import Place
from tests.hub.helpers import Models, Put, SignIn, gram_file, texts

pytestmark = pytest.mark.slow  # a Hub of its own for each test
NARROW = ("openid", "profile", "gated-repos", "contribute-repos")


def told(hub: Hub, place: Place, model: str = "ann/a", *, private: bool = False) -> list[str]:
    """What is said before statistics are collected for that place."""
    return texts(publishing_problems(hub, model, ["gram"], place, private=private))


@pytest.fixture
def gram(ann: Hub, put: Put, tiny: Models, tmp_path: Path) -> Path:
    """Gram statistics of ann/a, which is there."""
    put(ann, "ann/a", tiny(0))
    return gram_file(tmp_path / "gram.safetensors", tiny(0), name="ann/a")


@pytest.mark.usefixtures("gram")
def test_what_a_narrow_sign_in_lacks_is_named(sign_in: SignIn, hub: LoopbackHub) -> None:
    """For each place the one scope that is missing; a repo of one's own takes no more than the default."""
    bob = sign_in("bob", scopes=NARROW)
    assert told(bob, "own") == []
    assert told(sign_in("ann", scopes=NARROW), "model") == [
        "You may not write to ann/a: the scope write-repos was not granted. "
        "Sign in again and grant write-repos, or publish to a repo of your own, or open a pull request."
    ]
    assert told(bob, "model") == [
        "You may not write to ann/a: you are bob, it is ann's. Publish to a repo of your own, or open a pull request."
    ]
    assert told(bob, "pull-request") == [
        "You may not open pull requests with this sign-in: the scope write-discussions was not granted. "
        "Sign in again and grant write-discussions, or publish to a repo of your own."
    ]
    assert told(sign_in("bob", scopes=[*NARROW, "write-discussions"]), "pull-request") == []
    assert told(sign_in("bob", scopes=["openid", "profile"]), "own") == [
        "This sign-in may not make repos: the scope contribute-repos was not granted. "
        "Sign in again and grant contribute-repos."
    ]
    assert told(Hub.anonymous(hub.url), "own") == [
        "Not signed in: statistics are published under your own name. Sign in at the top of this page."
    ]
    for place in ("own", "model", "pull-request"):
        read_only = told(sign_in("ann", role="read"), place)
        assert read_only[0].startswith("Your token can only read: publishing makes a repo."), place


def test_next_to_the_model_nothing_is_replaced(ann: Hub, gram: Path) -> None:
    """One commit with the file alone; then the place is taken, for a pull request too."""
    before = ann.api.list_repo_files("ann/a")
    done = publish_statistics(ann, "ann/a", {"gram": gram}, private=False, place="model", job_id="m1")
    assert done.url == f"{ann.url}/ann/a/tree/main/merge-statistics"
    assert set(ann.api.list_repo_files("ann/a")) - set(before) == {"merge-statistics/gram.safetensors"}
    assert publish_statistics(ann, "ann/a", {"gram": gram}, private=False, place="model", job_id="m1") == done
    sentence = (
        "ann/a has gram statistics already: nothing in a model's repo is replaced. "
        "Use them, or publish to a repo of your own."
    )
    assert told(ann, "model") == told(ann, "pull-request") == [sentence]
    with pytest.raises(InputError, match="nothing in a model's repo is replaced"):
        publish_statistics(ann, "ann/a", {"gram": gram}, private=False, place="model", job_id="m2")


def test_a_pull_request_is_opened_once(sign_in: SignIn, ann: Hub, gram: Path, hub: LoopbackHub) -> None:
    """Also when the answer to the first attempt was lost; the model's owner merges it."""
    bob = sign_in("bob", scopes=[*NARROW, "write-discussions"])
    ann.api.create_discussion("ann/a", "hello")
    ann.api.create_pull_request("ann/a", "of somebody else")
    hub.set_fault("/commit/", method="POST", cut_after=0)
    lost = publish_statistics(bob, "ann/a", {"gram": gram}, private=False, place="pull-request", job_id="m1")
    hub.clear_faults()
    done = publish_statistics(bob, "ann/a", {"gram": gram}, private=False, place="pull-request", job_id="m1")
    assert (
        publish_statistics(bob, "ann/a", {"gram": gram}, private=False, place="pull-request", job_id="m1")
        == done
        == lost
    )
    (mine,) = ann.api.get_repo_discussions("ann/a", author="bob")
    assert (mine.is_pull_request, done.url) == (True, f"{ann.url}/ann/a/discussions/{mine.num}")
    assert "merge-statistics/gram.safetensors" not in ann.api.list_repo_files("ann/a")
    ann.api.merge_pull_request("ann/a", mine.num)
    assert "merge-statistics/gram.safetensors" in ann.api.list_repo_files("ann/a")


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/api/repos/create", {"status": 500, "done": True}),
        ("/api/repos/create", {"cut_after": 0}),
        ("/commit/", {"status": 502, "done": True}),
        ("/commit/", {"status": 503}),
        ("/objects/batch", {"status": 504}),
    ],
)
def test_a_fault_on_the_way_makes_no_second_commit(
    hub: LoopbackHub, ann: Hub, gram: Path, path: str, fault: dict[str, Any]
) -> None:
    """Whether the Hub had done what it was asked for or not: one repo, one commit beyond its first."""
    hub.set_fault(path, **fault)
    done = publish_statistics(ann, "ann/a", {"gram": gram}, private=False, job_id="m1")
    commits = ann.api.list_repo_commits("ann/a-merge-statistics")
    assert (len(commits), commits[0].commit_id) == (2, done.commit)


def test_in_the_own_repo_a_new_commit_replaces_the_old_and_says_so(
    ann: Hub, gram: Path, tiny: Models, tmp_path: Path
) -> None:
    """The old file stays in the history; a job that comes again is the same commit."""
    first = publish_statistics(ann, "ann/a", {"gram": gram}, private=False, job_id="m1")
    assert told(ann, "own") == [
        "ann/a-merge-statistics has gram statistics already: a new commit replaces them. "
        "The old ones stay in its history."
    ]
    more = gram_file(tmp_path / "more", tiny(0), name="ann/a", tokens=900)
    second = publish_statistics(ann, "ann/a", {"gram": more}, private=False, job_id="m2")
    assert publish_statistics(ann, "ann/a", {"gram": gram}, private=False, job_id="m1") == first
    assert second.commit == ann.api.model_info("ann/a-merge-statistics").sha != first.commit
    old = ann.api.hf_hub_download(
        first.repo_id, "merge-statistics/gram.safetensors", revision=first.commit, local_dir=tmp_path / "old"
    )
    assert Path(old).read_bytes() == gram.read_bytes()


def test_statistics_of_another_model_of_the_same_name_are_not_replaced(
    sign_in: SignIn, put: Put, tiny: Models, tmp_path: Path, gram: Path
) -> None:
    """Bob's statistics of carl/a would have the place of those of ann/a."""
    bob = sign_in("bob")
    publish_statistics(bob, "ann/a", {"gram": gram}, private=False)
    put(sign_in("carl"), "carl/a", tiny(1))
    other = gram_file(tmp_path / "other", tiny(1), name="carl/a")
    with pytest.raises(InputError) as error:
        publish_statistics(bob, "carl/a", {"gram": other}, private=False)
    assert str(error.value) == (
        "bob/a-merge-statistics holds statistics of ann/a: another model's are never overwritten. Rename that repo."
    )


def test_a_statistics_repo_that_another_app_made_takes_a_wider_scope(sign_in: SignIn, ann: Hub, gram: Path) -> None:
    """contribute-repos is for repos of this service; said before the work."""
    publish_statistics(ann, "ann/a", {"gram": gram}, private=False)
    narrow = sign_in("ann", scopes=NARROW)
    assert told(narrow, "own")[-1] == (
        "You may not write to ann/a-merge-statistics: the scope write-repos was not granted. "
        "Sign in again and grant write-repos, or rename that repo."
    )


def test_somebody_who_commits_meanwhile_is_not_overwritten(
    ann: Hub, gram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is on top of what was looked at, or is none."""
    real = ann.api.create_commit

    def late(*args: object, **more: object) -> object:
        monkeypatch.undo()
        ann.api.upload_file(repo_id="ann/a", path_or_fileobj=b"x", path_in_repo="merge-statistics/gram.safetensors")
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ann.api, "create_commit", late)
    with pytest.raises(PublishFailed, match="The statistics are kept: publish again"):
        publish_statistics(ann, "ann/a", {"gram": gram}, private=False, place="model")
