"""The Space: exactly the files that run there, and a secret that stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.space import create_space, space_files
from merging.errors import InputError
from tests.hub.helpers import SignIn

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test

ROOT = Path(__file__).parents[2]
README = "---\ntitle: Merge\nsdk: gradio\nsdk_version: 6.31.0\nhf_oauth: true\n---\n# Merge\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout with what belongs on a Space and what does not."""
    root = tmp_path / "checkout"
    bodies = {"README.md": README, "app.py": "run()", "cli.py": "", "settings.py": "", "requirements.txt": "gradio"}
    names = [
        "merging/method.py",
        "merging/methods/average.py",
        "hub/space.py",
        "jobs/job.py",
        "ui/page.py",
        "ui/page.css",
    ]
    names += ["demo/loopback_hub.py", "tests/test_x.py", "docs/log.md", "benchmarks/x.py", "Makefile", ".env"]
    names += ["hub/__pycache__/space.py", "merging/notes.txt"]
    for name, body in {**bodies, **{name: f"# {name}" for name in names}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(body)
    return root


def secret_of(hub: LoopbackHub) -> str:
    """The value of the Space's secret, which only the Hub itself can tell."""
    (repo,) = [repo for repo in hub._server.config.app._app.state.store.repos.values() if repo.kind == "space"]  # type: ignore[union-attr]
    return str(repo.space["secrets"]["MERGE_SECRET_KEY"]["value"])


def files_of(hub: Hub) -> set[str]:
    """What lies in the Space."""
    return {sibling.rfilename for sibling in hub.api.space_info("ann/merge").siblings or []}


def test_a_space_holds_exactly_what_runs_there(hub: LoopbackHub, ann: Hub, checkout: Path) -> None:
    """One commit beyond the initial one; no demo, tests, docs, benchmarks."""
    url = create_space(ann, "ann/merge", checkout, variables={"MERGE_KEEP_DAYS": "3"})
    assert url == f"{hub.url}/spaces/ann/merge"
    assert files_of(ann) - {".gitattributes"} == {
        "README.md",
        "app.py",
        "cli.py",
        "settings.py",
        "requirements.txt",
        "merging/method.py",
        "merging/methods/average.py",
        "hub/space.py",
        "jobs/job.py",
        "ui/page.py",
        "ui/page.css",
    }
    assert len(ann.api.list_repo_commits("ann/merge", repo_type="space")) == 2
    assert ann.api.get_space_variables("ann/merge")["MERGE_KEEP_DAYS"].value == "3"
    assert len(secret_of(hub)) > 30


def test_a_second_run_updates_and_keeps_the_secret(hub: LoopbackHub, ann: Hub, checkout: Path) -> None:
    """New and changed files go up, files of ours that are gone go away, the owner's own stay; no secret is rotated."""
    create_space(ann, "ann/merge", checkout)
    secret = secret_of(hub)
    ann.api.upload_file(path_or_fileobj=b"x", path_in_repo="NOTES.md", repo_id="ann/merge", repo_type="space")
    (checkout / "ui/page.py").rename(checkout / "ui/pages.py")
    create_space(ann, "ann/merge", checkout)
    assert {"ui/pages.py", "NOTES.md"} <= files_of(ann)
    assert "ui/page.py" not in files_of(ann)
    assert secret_of(hub) == secret
    before = ann.api.space_info("ann/merge").sha
    create_space(ann, "ann/merge", checkout)
    assert ann.api.space_info("ann/merge").sha == before


def test_another_space_is_not_touched(ann: Hub, checkout: Path) -> None:
    """A name that holds something else is refused."""
    ann.api.create_repo("ann/merge", repo_type="space", space_sdk="static")
    ann.api.upload_file(path_or_fileobj=b"x", path_in_repo="index.html", repo_id="ann/merge", repo_type="space")
    with pytest.raises(InputError, match="ann/merge exists and is another Space: nothing is overwritten"):
        create_space(ann, "ann/merge", checkout)


def test_faults_are_named_before_anything_is_made(sign_in: SignIn, ann: Hub, checkout: Path) -> None:
    """Another's namespace, an invalid name, a README that is no Space's, a folder that is no checkout."""
    sign_in("bob")
    with pytest.raises(InputError, match="You may not write to bob"):
        create_space(ann, "bob/merge", checkout)
    with pytest.raises(InputError, match="merge is not a valid name"):
        create_space(ann, "merge", checkout)
    (checkout / "README.md").write_text("# Merge\n")
    with pytest.raises(
        InputError, match=r"README.md does not describe a Space: sdk: gradio and hf_oauth: true are needed"
    ):
        create_space(ann, "ann/merge", checkout)
    (checkout / "app.py").unlink()
    with pytest.raises(InputError, match=r"app.py is missing"):
        space_files(checkout)
    assert not ann.api.repo_exists("ann/merge", repo_type="space")


def test_the_command_names_what_is_missing(hub: LoopbackHub) -> None:
    """`make space` without a name, and without a sign-in: exit 2 and a sentence, no traceback."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hub.space"]
    run = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert (run.returncode, run.stderr) == (2, "Which Space? One name is needed. Write make space REPO=owner/name.\n")
