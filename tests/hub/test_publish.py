"""Publishing once, whatever happens, and never into what is not ours."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub, SignInNeeded
from hub.publish import Published, PublishFailed, publish, publishable
from merging.errors import InputError
from tests.hub.helpers import Models, Put, SignIn

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test

ROOT = Path(__file__).parents[2]


@pytest.fixture
def result(tiny: Models, tmp_path: Path) -> Path:
    """A merged folder as the engine leaves it: a root, two tasks with the same body, a card, a journal of ours."""
    folder = tmp_path / "job" / "output"
    shutil.copytree(tiny(0), folder)
    body = folder / "model.safetensors"
    for task in ("one", "two"):
        (folder / task).mkdir()
        os.link(body, folder / task / "model.safetensors")
        shutil.copy(folder / "config.json", folder / task)
    (folder / "README.md").write_text("---\ntags: [merge]\n---\n# A merge\n")
    (folder / "recipe.yaml").write_text("merge_method: average\n")
    (folder / ".journal").write_text("ours")
    return folder


def send(hub: Hub, folder: Path, job: str = "job-1", private: bool = True, name: str = "ann/merged") -> Published:
    """Publish with this test's usual names."""
    return publish(hub, folder, name, private=private, job_id=job)


def commits(hub: Hub, name: str = "ann/merged") -> int:
    """Number of commits of a repo."""
    return len(hub.api.list_repo_commits(name))


def test_a_result_is_one_commit(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """All files at once on the initial commit, private as asked, hidden files left here."""
    published = send(ann, result)
    info = ann.api.model_info("ann/merged")
    assert published == Published("ann/merged", f"{hub.url}/ann/merged", str(info.sha))
    assert commits(ann) == 2
    assert info.private
    assert {s.rfilename for s in info.siblings or []} == {".gitattributes", *publishable(result)}
    assert ".journal" not in publishable(result)


def test_the_body_is_uploaded_once(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """Three folders hold the same shard: one upload."""
    send(ann, result)
    digest = hashlib.sha256((result / "model.safetensors").read_bytes()).hexdigest()
    assert hub.counters()["lfs_puts"] == {digest: 1}


def test_twice_is_once(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """The same job again gives the same commit, also without its notes and after the owner's own commits."""
    first = send(ann, result)
    ann.api.upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id="ann/merged")
    (result.parent / "intent.json").unlink()
    assert send(ann, result) == first
    assert commits(ann) == 3


def test_a_repo_of_the_users_is_never_touched(ann: Hub, result: Path, put: Put, tiny: Models) -> None:
    """A model that is there, an empty repo that is there, and another job's result: refused, unchanged."""
    put(ann, "ann/merged", tiny(1))
    ann.api.create_repo("ann/empty")
    send(ann, result, name="ann/other")
    for name in ("ann/merged", "ann/empty", "ann/other"):
        before = ann.api.model_info(name).sha
        with pytest.raises(InputError, match=f"{name} exists already: nothing of yours is ever overwritten"):
            send(ann, result, job="job-2", name=name)
        assert ann.api.model_info(name).sha == before


def test_an_intent_for_another_name_says_nothing(ann: Hub, result: Path) -> None:
    """Only the intent for this job and this repo makes an empty repo ours."""
    send(ann, result, name="ann/first")
    ann.api.create_repo("ann/second", private=True)
    with pytest.raises(InputError, match="ann/second exists already"):
        send(ann, result, name="ann/second")


def test_a_name_that_was_taken_meanwhile(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """Somebody is faster between the look and the making: refused, and their repo is not taken for ours later."""
    hub.set_fault("/api/repos/create", status=409, message="You already created this model repo", times=1)
    with pytest.raises(InputError, match="exists already"):
        send(ann, result)
    ann.api.create_repo("ann/merged", private=True)
    with pytest.raises(InputError, match="exists already"):
        send(ann, result)
    assert commits(ann) == 1


def test_a_private_result_never_goes_into_a_public_repo(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """Our empty repo was made public meanwhile: refused."""
    hub.set_fault("/commit/main", status=500, times=None)
    with pytest.raises(PublishFailed):
        send(ann, result)
    hub.clear_faults()
    ann.api.update_repo_settings("ann/merged", private=False)
    with pytest.raises(InputError, match="ann/merged is public: this result is to be private"):
        send(ann, result)
    assert commits(ann) == 1


def test_a_parent_that_was_withdrawn_meanwhile_does_not_make_our_repo_a_strangers(
    hub: LoopbackHub, ann: Hub, result: Path
) -> None:
    """Made public and left empty, it is still ours when the result is to be private: its owner is told what to do."""
    hub.set_fault("/commit/main", status=500, times=None)
    with pytest.raises(PublishFailed):
        send(ann, result, private=False)
    hub.clear_faults()
    with pytest.raises(InputError, match=r"ann/merged is public: this result is to be private\. Make that"):
        send(ann, result, private=True)
    ann.api.update_repo_settings("ann/merged", private=True)
    send(ann, result, private=False)
    assert (ann.api.model_info("ann/merged").private, commits(ann)) == (True, 2)


def test_somebody_elses_namespace(sign_in: SignIn, ann: Hub, result: Path) -> None:
    """Refused before anything is made."""
    sign_in("bob")
    with pytest.raises(InputError, match="You may not write to bob"):
        send(ann, result, name="bob/merged")
    assert not (result.parent / "intent.json").exists()


def test_the_narrow_scopes_are_enough(sign_in: SignIn, result: Path) -> None:
    """gated-repos and contribute-repos publish, and publish again."""
    limited = sign_in("ann", scopes=["openid", "gated-repos", "contribute-repos"])
    first = send(limited, result)
    assert send(limited, result) == first


def test_a_token_that_has_run_out(hub: LoopbackHub, ann: Hub, sign_in: SignIn, result: Path) -> None:
    """Before and in the middle: sign in again, then it is only published."""
    late = sign_in("ann")
    hub.set_fault("/commit/main", status=401, message="Invalid credentials in Authorization header", times=1)
    with pytest.raises(SignInNeeded, match=r"the result is kept and waits to be published. Sign in again and publish"):
        send(late, result)
    hub.expire_token(str(late.token))
    with pytest.raises(SignInNeeded, match="Your sign-in has run out"):
        send(late, result)
    assert send(ann, result).commit == ann.api.model_info("ann/merged").sha
    assert commits(ann) == 2


def test_a_hub_that_is_full(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """The Hub's own words, what was made, and the way on; publishing again works."""
    hub.set_fault("/commit/main", status=403, message="Private repository storage limit reached", times=1)
    with pytest.raises(PublishFailed) as caught:
        send(ann, result)
    assert str(caught.value) == (
        "ann/merged could not be published: Private repository storage limit reached. "
        "The result is kept and ann/merged exists and is empty: publish again."
    )
    send(ann, result)
    assert commits(ann) == 2


def test_a_repo_that_was_changed_meanwhile(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """A commit of the user's into our empty repo makes it theirs."""
    hub.set_fault("/commit/main", status=500, times=None)
    with pytest.raises(PublishFailed):
        send(ann, result)
    hub.clear_faults()
    ann.api.upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id="ann/merged")
    with pytest.raises(InputError, match="exists already"):
        send(ann, result)
    assert commits(ann) == 2


def test_a_commit_that_comes_between_is_not_built_upon(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """The user writes into the new repo while we upload: our commit goes on the initial one or nowhere."""
    hub.set_fault("/preupload/", delay=1.0, times=1)
    (fault,) = hub._server.config.app.faults  # type: ignore[union-attr]
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(send, ann, result)
        while fault.times:
            time.sleep(0.01)
        ann.api.upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id="ann/merged")
        with pytest.raises(PublishFailed, match="ann/merged has been changed since"):
            publishing.result()
    assert commits(ann) == 2


def test_an_invalid_name(ann: Hub, result: Path) -> None:
    """What the Hub would not take is refused here."""
    with pytest.raises(InputError, match=r"ann/a..b is not a valid name"):
        send(ann, result, name="ann/a..b")


# Killed


POINTS = {
    "whoami": "/api/whoami",
    "create": "/api/repos/create",
    "preupload": "/preupload/",
    "batch": "/lfs/objects/batch",
    "upload": "/_upload/",
    "commit": "/commit/main",
}


def publish_in_child(endpoint: str, token: str, folder: Path) -> None:
    """What the killed process does."""
    send(Hub(endpoint, token), folder)


@pytest.fixture(scope="module")
def processes() -> BaseContext:
    """Fresh processes that have imported what is slow to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hub.publish", __name__])
    return context


@pytest.mark.parametrize("effect", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_called_again_it_publishes_once(
    hub: LoopbackHub, ann: Hub, result: Path, processes: BaseContext, point: str, effect: bool
) -> None:
    """SIGKILL while a request is under way, whether the Hub still carries it out or not: one repo, one commit."""
    hub.set_fault(POINTS[point], times=1, **({"hold": 0.5} if effect else {"delay": 0.5, "status": 503}))
    (fault,) = hub._server.config.app.faults  # type: ignore[union-attr]
    child = processes.Process(target=publish_in_child, args=(hub.url, ann.token, result))  # type: ignore[attr-defined]
    child.start()
    while (not fault.holding if effect else fault.times) and child.is_alive():
        time.sleep(0.01)
    assert child.is_alive()
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    if point == "commit":
        assert commits(ann) == 1 + effect
    published = send(ann, result)
    assert commits(ann) == 2
    assert published == send(ann, result)
    info = ann.api.model_info("ann/merged")
    assert {s.rfilename for s in info.siblings or []} == {".gitattributes", *publishable(result)}
    assert info.private


def test_a_lost_answer_to_the_commit_is_no_failure(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """The commit was made but its answer was cut off: the same commit is returned, and no second one made."""
    hub.set_fault("/commit/main", cut_after=1, times=1)
    published = send(ann, result)
    assert commits(ann) == 2
    assert published.commit == ann.api.model_info("ann/merged").sha


def test_a_publish_with_xet_on(hub: LoopbackHub, ann: Hub, result: Path) -> None:
    """Xet, the client's default in production: the same one commit."""
    code = """
import sys
from pathlib import Path
from hub.client import Hub
from hub.publish import publish
publish(Hub(sys.argv[1], input()), Path(sys.argv[2]), "ann/merged", private=True, job_id="job-1")
"""
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, hub.url, str(result)]
    subprocess.run(command, cwd=ROOT, input=ann.token, text=True, check=True, env=environment, timeout=120)
    assert commits(ann) == 2
    assert hub.counters()["lfs_puts"] == {}
    assert len(ann.api.model_info("ann/merged").siblings or []) == len(publishable(result)) + 1


# What may be published


@pytest.mark.parametrize(
    "name", ["modeling.py", "a/run.sh", "pytorch_model.bin", "x.pkl", "x.pt", "x.ckpt", "x.so", "x.ipynb", "x.h5"]
)
def test_code_and_pickles_stay_here(result: Path, name: str) -> None:
    """What can run when somebody loads the repo is refused by name."""
    (result / name).parent.mkdir(exist_ok=True)
    (result / name).write_text("x")
    with pytest.raises(InputError, match=f"{name} cannot be published: it is code or can run code when loaded"):
        publishable(result)


def test_class_paths_stay_here(result: Path) -> None:
    """`auto_map` in any JSON file is refused."""
    (result / "one" / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(InputError, match=r"one/config.json cannot be published: its auto_map names code to run"):
        publishable(result)


def test_links_and_half_files_stay_here(result: Path) -> None:
    """A symbolic link could name any file of this machine; a partial shard is not finished."""
    (result / "shadow.txt").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=r"shadow.txt cannot be published: it is not a plain file"):
        publishable(result)
    (result / "shadow.txt").unlink()
    (result / "model-2.safetensors.partial").write_bytes(b"x")
    with pytest.raises(InputError, match=r"model-2.safetensors.partial is not finished: the merge has not ended"):
        publishable(result)


def test_a_folder_without_a_model_is_refused_before_anything_is_made(ann: Hub, tmp_path: Path) -> None:
    """No weights, no repo."""
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(InputError, match=r"config.json or the weights are missing"):
        send(ann, folder)
    assert not ann.api.repo_exists("ann/merged")
