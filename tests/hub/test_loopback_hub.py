"""The loopback Hub as the real client sees it: repos, uploads, downloads, search, pull requests, counters."""

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import save_file

from demo.loopback_hub import HubAdmin, LoopbackHub
from demo.loopback_store import git_blob_id

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test

ROOT = Path(__file__).parents[2]
CARD = """---
license: mit
base_model: [demo/parent-a, demo/parent-b]
tags: [merge]
---
# A <script>merged</script> model
"""


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    """The client of the user demo, who is in the organisation team."""
    hub.add_user("demo", orgs=["team"])
    return HfApi(endpoint=hub.url, token=hub.add_token("demo"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder like a small model's: a card, a config, weights of 400 kB, and a copy of them for another task."""
    folder = tmp_path / "model"
    (folder / "task").mkdir(parents=True)
    weights = {"a": np.zeros((1000, 100), "f4"), "b": np.ones(5, "f2")}
    save_file(weights, folder / "model.safetensors")
    save_file(weights, folder / "task" / "model.safetensors")
    (folder / "README.md").write_text(CARD)
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sha256(path: Path) -> str:
    """A file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def header_size(path: Path) -> int:
    """The bytes before a safetensors file's tensors."""
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """A GET as a browser makes it: status and body, errors included."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {})) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def run(hub: LoopbackHub, tmp_path: Path, code: str, *arguments: str, **environment: str) -> str:
    """Run Python code in a process whose environment points to the Hub; answers what it prints."""
    settings = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Accounts and repos


def test_names_are_checked(hub: LoopbackHub) -> None:
    """A name that could leave the Hub's folder is refused."""
    with pytest.raises(urllib.error.HTTPError, match="400"):
        hub.add_user("../elsewhere")


def test_whoami_names_the_user_and_the_organisations(api: HfApi) -> None:
    """whoami answers the token's user with roles."""
    answer = api.whoami()
    assert answer["name"] == "demo"
    assert [(org["name"], org["roleInOrg"]) for org in answer["orgs"]] == [("team", "admin")]


def test_a_new_repo_has_the_initial_commit_of_the_hub(api: HfApi) -> None:
    """create_repo makes one commit with .gitattributes; doing it twice is an error unless that is fine."""
    url = api.create_repo("demo/new")
    assert url.repo_id == "demo/new"
    assert api.list_repo_files("demo/new") == [".gitattributes"]
    assert [commit.title for commit in api.list_repo_commits("demo/new")] == ["initial commit"]
    assert api.create_repo("demo/new", exist_ok=True).repo_id == "demo/new"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("demo/new")


def test_repos_are_moved_changed_and_deleted(api: HfApi) -> None:
    """Settings, move and delete do what they say; the former name leads to the repo."""
    api.create_repo("demo/one")
    api.update_repo_settings("demo/one", private=True)
    assert api.model_info("demo/one").private
    api.move_repo("demo/one", "team/two")
    assert api.repo_exists("team/two")
    assert api.model_info("demo/one").id == "team/two"
    api.delete_repo("team/two")
    assert not api.repo_exists("demo/one")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("team/two")
    api.delete_repo("team/two", missing_ok=True)


def test_a_space_keeps_its_variables_and_hides_its_secrets(api: HfApi) -> None:
    """Secrets can be listed but not read back; a Space is said to run."""
    api.create_repo("demo/space", repo_type="space", space_sdk="gradio", space_variables=[{"key": "A", "value": "1"}])
    api.add_space_variable("demo/space", "B", "2")
    api.add_space_secret("demo/space", "KEY", "hidden")
    assert {key: variable.value for key, variable in api.get_space_variables("demo/space").items()} == {
        "A": "1",
        "B": "2",
    }
    assert list(api.get_space_secrets("demo/space")) == ["KEY"]
    assert "hidden" not in str(api.get_space_secrets("demo/space"))
    assert api.get_space_runtime("demo/space").stage == "RUNNING"
    assert api.space_info("demo/space").sdk == "gradio"


# Uploads


def check_uploaded(api: HfApi, model: Path) -> None:
    """The repo demo/m holds the folder, with git's and LFS's ids."""
    files = {file.rfilename: file for file in api.model_info("demo/m", files_metadata=True).siblings or []}
    assert files["config.json"].blob_id == git_blob_id((model / "config.json").read_bytes())
    assert files["config.json"].lfs is None
    weights = files["model.safetensors"].lfs
    assert weights is not None
    assert weights.sha256 == sha256(model / "model.safetensors")
    folder = Path(api.snapshot_download("demo/m", cache_dir=model.parent / "cache"))
    for name in ("README.md", "model.safetensors", "task/model.safetensors"):
        assert (folder / name).read_bytes() == (model / name).read_bytes()


def test_git_agrees_with_the_blob_ids(tmp_path: Path) -> None:
    """Ids of regular files are git's."""
    (tmp_path / "file").write_bytes(b"some\0content\n")
    git = subprocess.run(["git", "hash-object", tmp_path / "file"], capture_output=True, text=True, check=True)
    assert git.stdout.strip() == git_blob_id(b"some\0content\n")


def test_a_folder_is_uploaded_by_basic_lfs(hub: LoopbackHub, api: HfApi, model: Path) -> None:
    """upload_folder works, and storage sees no token, neither on the way up nor down."""
    api.create_repo("demo/m")
    api.upload_folder(repo_id="demo/m", folder_path=model)
    check_uploaded(api, model)
    assert hub.counters()["authorized_storage_requests"] == 0
    assert hub.counters()["requests"]["GET /_storage/{sha256}/{file}"] >= 1


def test_a_folder_is_uploaded_in_parts(tmp_path: Path, model: Path) -> None:
    """Bodies above the threshold come as multipart and are one body afterwards."""
    with LoopbackHub(tmp_path / "hub", multipart_over=100_000, multipart_part=90_000) as hub:
        hub.add_user("demo")
        api = HfApi(endpoint=hub.url, token=hub.add_token("demo"))
        api.create_repo("demo/m")
        api.upload_folder(repo_id="demo/m", folder_path=model)
        check_uploaded(api, model)
        parts = hub.counters()["requests"]["PUT /_upload/models/{owner}/{name}/{oid}/{upload}/{number}"]
        assert parts == 2 * -(-(model / "model.safetensors").stat().st_size // 90_000)


def test_a_body_sent_beforehand_is_sent_once(hub: LoopbackHub, api: HfApi, model: Path) -> None:
    """preupload_lfs_files of one body, then one commit of two files: one PUT, one commit."""
    api.create_repo("demo/m")
    body = CommitOperationAdd("model.safetensors", model / "model.safetensors")
    api.preupload_lfs_files("demo/m", [body])
    copy = CommitOperationAdd("task/model.safetensors", model / "model.safetensors")
    api.create_commit("demo/m", [body, copy], commit_message="two files, one body")
    assert hub.counters()["lfs_puts"] == {sha256(model / "model.safetensors"): 1}
    assert len(api.list_repo_commits("demo/m")) == 2


def test_commits_copy_delete_and_refuse_a_stale_parent(api: HfApi, model: Path) -> None:
    """Copies and deletions apply; a parent that is no longer the head is 412."""
    first = api.create_repo("demo/m") and api.upload_folder(repo_id="demo/m", folder_path=model)
    copy = CommitOperationCopy("model.safetensors", "copy.safetensors")
    gone = CommitOperationDelete("task/", is_folder=True)
    api.create_commit("demo/m", [copy, gone], commit_message="change", parent_commit=first.oid)
    names = {".gitattributes", "README.md", "config.json", "model.safetensors", "copy.safetensors"}
    assert set(api.list_repo_files("demo/m")) == names
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("demo/m", [gone], commit_message="too late", parent_commit=first.oid)


def test_unchanged_files_make_no_commit(hub: LoopbackHub, api: HfApi, model: Path) -> None:
    """Uploading the same again sends nothing."""
    api.create_repo("demo/m")
    first = api.upload_folder(repo_id="demo/m", folder_path=model)
    hub.reset_counters()
    assert api.upload_folder(repo_id="demo/m", folder_path=model).oid == first.oid
    assert hub.counters()["lfs_puts"] == {}


def test_a_card_with_broken_metadata_is_refused(api: HfApi) -> None:
    """The client learns of invalid YAML before the commit."""
    api.create_repo("demo/m")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md", repo_id="demo/m")


def test_a_pointer_without_a_body_is_refused(hub: LoopbackHub, api: HfApi) -> None:
    """A commit cannot name LFS content that was never uploaded to the repo."""
    api.create_repo("demo/m")
    value = {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 4}
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "lfsFile", "value": value}]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/x-ndjson"}
    request = urllib.request.Request(f"{hub.url}/api/models/demo/m/commit/main", body, headers)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)


# Downloads


def test_missing_things_raise_the_right_errors(api: HfApi, hub: LoopbackHub) -> None:
    """No repo, no revision, no file: each has its exception."""
    api.create_repo("demo/m")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("demo/other")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("without-namespace")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("demo/m", revision="nowhere")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("demo/m", "nothing.txt")
    with pytest.raises(HfHubHTTPError, match="does not speak GET /api/papers/1"):
        api.paper_info("1")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(endpoint=hub.url, token="hf_wrong").whoami()


def test_a_dry_run_tells_sizes_and_fetches_no_body(hub: LoopbackHub, api: HfApi, model: Path) -> None:
    """snapshot_download(dry_run=True) is exact and free."""
    api.create_repo("demo/m")
    api.upload_folder(repo_id="demo/m", folder_path=model)
    hub.reset_counters()
    plan = api.snapshot_download("demo/m", dry_run=True)
    assert {file.filename: file.file_size for file in plan}["README.md"] == len(CARD)
    assert hub.counters()["body_gets"] == {}
    assert hub.counters()["weight_bytes"] == 0


def test_header_requests_are_told_from_weights(hub: LoopbackHub, api: HfApi, model: Path, tmp_path: Path) -> None:
    """Bytes are counted by where they lie; the client's fixed first 100 kB are marked as spilled."""
    api.create_repo("demo/m")
    api.upload_folder(repo_id="demo/m", folder_path=model)
    hub.reset_counters()
    end = header_size(model / "model.safetensors")
    url = f"{hub.url}/demo/m/resolve/main/model.safetensors"
    assert fetch(url, {"Range": f"bytes=0-{end - 1}"})[1] == (model / "model.safetensors").read_bytes()[:end]
    counters = hub.counters()
    assert (counters["header_bytes"], counters["weight_bytes"], counters["weight_requests"]) == (end, 0, 0)
    assert api.get_safetensors_metadata("demo/m").parameter_count == {"F32": 100_000, "F16": 5}
    counters = hub.counters()
    assert counters["weight_bytes"] == counters["spilled_bytes"] == 100_001 - end
    assert counters["weight_requests"] == 0
    api.hf_hub_download("demo/m", "model.safetensors", cache_dir=tmp_path)
    counters = hub.counters()
    assert counters["weight_requests"] == 1
    assert counters["weight_bytes"] - counters["spilled_bytes"] == (model / "model.safetensors").stat().st_size - end


def test_ranges_are_exact(hub: LoopbackHub, api: HfApi) -> None:
    """First bytes, last bytes, open end; beyond the end is 416."""
    api.create_repo("demo/m")
    api.upload_file(path_or_fileobj=b"0123456789", path_in_repo="a.txt", repo_id="demo/m")
    url = f"{hub.url}/demo/m/resolve/main/a.txt"
    for part, body in {"0-3": b"0123", "8-": b"89", "-2": b"89", "5-99": b"56789"}.items():
        assert fetch(url, {"Range": f"bytes={part}"}) == (206, body)
    assert fetch(url, {"Range": "bytes=10-12"})[0] == 416


def test_shard_headers_come_in_one_answer(api: HfApi, model: Path) -> None:
    """get_sharded_safetensors_metadata reads what the index names."""
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors"}})
    )
    api.create_repo("demo/m")
    api.upload_folder(repo_id="demo/m", folder_path=model)
    metadata = api.get_sharded_safetensors_metadata("demo/m")
    assert metadata.weight_map["a"] == "model.safetensors"


def test_storage_links_cannot_be_made_up(hub: LoopbackHub, api: HfApi, model: Path) -> None:
    """Without the Hub's signature a body is not served, however well its SHA-256 is known."""
    api.create_repo("demo/m", private=True)
    api.upload_folder(repo_id="demo/m", folder_path=model)
    link = f"{hub.url}/_storage/{sha256(model / 'model.safetensors')}/model.safetensors?signature=0"
    assert fetch(link)[0] == 403


# Describing, searching


def test_model_info_knows_card_config_and_parameters(api: HfApi, model: Path) -> None:
    """Tags, task, library, base models and parameter counts come from the files."""
    api.create_repo("demo/m")
    api.upload_folder(repo_id="demo/m", folder_path=model)
    info = api.model_info("demo/m")
    assert (info.pipeline_tag, info.library_name) == ("text-classification", "transformers")
    assert info.config == {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    assert info.safetensors is not None
    assert info.safetensors.total == 100_005
    assert info.card_data is not None
    assert info.card_data.license == "mit"
    wanted = {"merge", "license:mit", "base_model:demo/parent-a", "base_model:merge:demo/parent-b"}
    assert wanted <= set(info.tags or [])
    short = api.model_info("demo/m", expand=["gated", "safetensors"])
    assert short.gated is False
    assert short.sha is None


def test_search_filters_sorts_and_pages(api: HfApi, model: Path) -> None:
    """By words, author, tag, task and number; newest change first."""
    for name in ("demo/bert-one", "demo/bert-two", "team/other"):
        api.create_repo(name)
    api.upload_folder(repo_id="demo/bert-one", folder_path=model)

    def found(**query: object) -> list[str]:
        return [model.id for model in api.list_models(**query)]  # type: ignore[arg-type]

    assert found(search="BERT") == ["demo/bert-one", "demo/bert-two"]
    assert found(author="team") == ["team/other"]
    assert found(filter=["base_model:demo/parent-a", "merge"]) == ["demo/bert-one"]
    assert found(pipeline_tag="text-classification", num_parameters="min:1K,max:1M") == ["demo/bert-one"]
    assert found(num_parameters="min:1M") == []
    assert found(sort="created_at", limit=2) == ["team/other", "demo/bert-two"]
    assert next(iter(api.list_models(search="one", full=True))).siblings


def test_long_listings_come_in_pages(api: HfApi) -> None:
    """A tree of more than one page arrives whole."""
    api.create_repo("demo/many", repo_type="dataset")
    files = [CommitOperationAdd(f"d/{number:04}.txt", b"x") for number in range(1100)]
    api.create_commit("demo/many", files, commit_message="many", repo_type="dataset")
    assert len(api.list_repo_files("demo/many", repo_type="dataset")) == 1101
    top = [entry.path for entry in api.list_repo_tree("demo/many", repo_type="dataset")]
    assert top == ["d", ".gitattributes"]
    paths = api.get_paths_info("demo/many", ["d", "d/0007.txt", "none"], repo_type="dataset", expand=True)
    assert [entry.path for entry in paths] == ["d", "d/0007.txt"]


# Branches, pull requests


def test_branches_and_tags(api: HfApi) -> None:
    """They can be made, listed, committed to, read from and removed."""
    api.create_repo("demo/m")
    api.create_branch("demo/m", branch="feature/x")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="demo/m", revision="feature/x")
    api.create_tag("demo/m", tag="v1", revision="feature/x")
    assert "x.txt" not in api.list_repo_files("demo/m")
    assert "x.txt" in api.list_repo_files("demo/m", revision="v1")
    refs = api.list_repo_refs("demo/m")
    assert [ref.name for ref in refs.branches] == ["main", "feature/x"]
    assert [ref.name for ref in refs.tags] == ["v1"]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("demo/m", branch="feature/x")
    api.delete_branch("demo/m", branch="feature/x")
    api.delete_tag("demo/m", tag="v1")
    assert len(api.list_repo_refs("demo/m").branches) == 1


def test_a_stranger_opens_a_pull_request_and_the_owner_merges_it(hub: LoopbackHub, api: HfApi) -> None:
    """create_pr needs no right to write; merging does."""
    api.create_repo("demo/m")
    hub.add_user("guest")
    guest = HfApi(endpoint=hub.url, token=hub.add_token("guest"))
    commit = guest.upload_file(path_or_fileobj=b"hi", path_in_repo="hi.txt", repo_id="demo/m", create_pr=True)
    assert commit.pr_num == 1
    assert commit.pr_url == f"{hub.url}/demo/m/discussions/1"
    guest.upload_file(path_or_fileobj=b"ho", path_in_repo="ho.txt", repo_id="demo/m", revision="refs/pr/1")
    guest.comment_discussion("demo/m", 1, "please")
    with pytest.raises(HfHubHTTPError, match="403"):
        guest.merge_pull_request("demo/m", 1)
    api.upload_file(path_or_fileobj=b"main", path_in_repo="main.txt", repo_id="demo/m")
    api.merge_pull_request("demo/m", 1)
    assert {"hi.txt", "ho.txt", "main.txt"} <= set(api.list_repo_files("demo/m"))
    details = api.get_discussion_details("demo/m", 1)
    assert (details.status, details.author) == ("merged", "guest")
    assert [discussion.num for discussion in api.get_repo_discussions("demo/m")] == [1]


def test_a_pull_request_can_be_closed(api: HfApi) -> None:
    """An empty pull request opens as such and closes."""
    api.create_repo("demo/m")
    request = api.create_pull_request("demo/m", "title")
    assert request.git_reference == "refs/pr/1"
    api.change_discussion_status("demo/m", 1, "closed")
    assert api.get_discussion_details("demo/m", 1).status == "closed"


# The process


def test_everything_survives_a_restart(tmp_path: Path, model: Path) -> None:
    """A Hub started again on the same folder has the users, tokens, repos, history and bodies."""
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.add_user("demo")
        token = hub.add_token("demo")
        api = HfApi(endpoint=hub.url, token=token)
        api.create_repo("demo/m", private=True)
        commit = api.upload_folder(repo_id="demo/m", folder_path=model)
    with LoopbackHub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=token)
        assert api.model_info("demo/m").sha == commit.oid
        assert [entry.title for entry in api.list_repo_commits("demo/m")][1] == "initial commit"
        folder = Path(api.snapshot_download("demo/m", cache_dir=tmp_path / "cache"))
        assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


@pytest.fixture
def hub_process(tmp_path: Path) -> tuple[HubAdmin, int]:
    """The command, started by a process that is then killed: the administrator's side and the Hub's own id."""
    command = [sys.executable, "-m", "demo.loopback_hub", "--root", str(tmp_path / "hub"), "--with-parent"]
    code = (
        "import subprocess, sys, time\n"
        "hub = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "print(hub.pid, hub.stdout.readline(), flush=True)\n"
        "time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert starter.stdout is not None
    pid, _, facts = starter.stdout.readline().partition(" ")
    place = json.loads(facts)
    hub = HubAdmin(place["url"], place["admin_key"])
    hub.add_user("demo")
    starter.kill()
    starter.wait()
    return hub, int(pid)


def test_the_command_ends_with_its_parent(hub_process: tuple[HubAdmin, int]) -> None:
    """--with-parent leaves no Hub behind when the starter is killed."""
    _, pid = hub_process
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        subprocess.run(["sleep", "0.1"], check=True)
    pytest.fail("the Hub outlived its parent")


def test_the_admin_routes_ask_for_the_key(hub: LoopbackHub) -> None:
    """Without the key nobody makes users."""
    assert fetch(f"{hub.url}/_admin/counters")[0] == 403
    assert fetch(f"{hub.url}/_admin/counters", {"X-Admin-Key": hub.admin_key})[0] == 200


def test_faults_happen_as_often_as_told(hub: LoopbackHub, api: HfApi) -> None:
    """A status with headers and a message, once, after as many as are left alone; then all is well."""
    api.create_repo("demo/m")
    url = f"{hub.url}/api/models/demo/m"
    hub.set_fault("/api/models/demo/m$", skip=1, status=403, headers={"Retry-After": "1"}, message="busy")
    assert [fetch(url)[0] for _ in range(3)] == [200, 403, 200]
    hub.set_fault("/api/models", method="GET", status=500, times=None)
    assert [fetch(url)[0] for _ in range(3)] == [500, 500, 500]
    hub.clear_faults()
    assert fetch(url)[0] == 200


def test_what_is_done_may_be_answered_by_an_error(hub: LoopbackHub, api: HfApi) -> None:
    """The repo is there although its creation was refused."""
    hub.set_fault("/api/repos/create", status=502, done=True)
    with pytest.raises(HfHubHTTPError):
        api.create_repo("demo/m")
    assert api.repo_exists("demo/m")


def test_bodies_are_spoiled(hub: LoopbackHub, api: HfApi) -> None:
    """Shortened with its announced length, altered in its last byte, or slow: the whole body, in its own time."""
    api.create_repo("demo/m")
    api.upload_file(path_or_fileobj=b"0123456789", path_in_repo="a.txt", repo_id="demo/m")
    url = f"{hub.url}/demo/m/resolve/main/a.txt"
    hub.set_fault("a.txt", shorten=3)
    hub.set_fault("a.txt", alter=True)
    hub.set_fault("a.txt", speed=50)
    assert [fetch(url)[1] for _ in range(2)] == [b"0123456", b"0123456788"]
    began = time.monotonic()
    assert fetch(url)[1] == b"0123456789"
    assert time.monotonic() - began > 0.05


def test_a_cut_connection_is_taken_up_again(hub: LoopbackHub, api: HfApi, model: Path, tmp_path: Path) -> None:
    """The client resumes a body that was cut, and the result is whole."""
    api.create_repo("demo/m")
    api.upload_folder(repo_id="demo/m", folder_path=model)
    hub.set_fault("^/_storage/", method="GET", cut_after=150_000)
    path = Path(api.hf_hub_download("demo/m", "model.safetensors", cache_dir=tmp_path))
    assert path.read_bytes() == (model / "model.safetensors").read_bytes()


# Pages for people


def test_pages_show_what_is_public_and_escape_it(hub: LoopbackHub, api: HfApi, model: Path) -> None:
    """A public repo's page opens for anyone with its card as text; a private one is 404."""
    api.create_repo("demo/m")
    api.create_repo("demo/secret", private=True)
    api.upload_folder(repo_id="demo/m", folder_path=model)
    status, body = fetch(f"{hub.url}/demo/m")
    assert status == 200
    assert b"A &lt;script&gt;merged&lt;/script&gt; model" in body
    assert b"<script>" not in body
    assert b"model.safetensors" in body
    assert b"demo/m" in fetch(f"{hub.url}/")[1]
    assert b"secret" not in fetch(f"{hub.url}/")[1]
    assert fetch(f"{hub.url}/demo/secret")[0] == 404
    assert fetch(f"{hub.url}/demo/m/blob/main/config.json")[1] == (model / "config.json").read_bytes()


# Other clients, which follow the environment


def test_transformers_load_a_model_from_a_subfolder(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    """from_pretrained(repo, subfolder=...) gives the published weights."""
    api.create_repo("demo/m")
    code = """
import sys, torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
torch.set_num_threads(1)
config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
model = BertForSequenceClassification(config)
model.save_pretrained(sys.argv[1] + "/task")
from huggingface_hub import HfApi
HfApi(token=sys.argv[2]).upload_folder(repo_id="demo/m", folder_path=sys.argv[1])
again = AutoModelForSequenceClassification.from_pretrained("demo/m", subfolder="task")
print(all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values())))
"""
    assert run(hub, tmp_path, code, str(tmp_path / "bert"), str(api.token)) == "True"
    assert hub.counters()["authorized_storage_requests"] == 0


def test_datasets_read_csv_and_jsonl(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    """load_dataset reads files of a dataset repo, private ones with a token, whole and streaming."""
    api.create_repo("demo/data", repo_type="dataset", private=True)
    table = b"text\tlabel\nhello\t1\nworld\t0\n"
    lines = b'{"text": "one"}\n{"text": "two"}\n'
    for name, body in {"train.tsv": table, "lines.jsonl": lines}.items():
        api.upload_file(path_or_fileobj=body, path_in_repo=name, repo_id="demo/data", repo_type="dataset")
    code = """
import sys
from datasets import load_dataset
token = sys.argv[1]
stream = load_dataset("demo/data", data_files="train.tsv", sep="\\t", split="train", streaming=True, token=token)
whole = load_dataset("demo/data", data_files="lines.jsonl", split="train", token=token)
print([row["text"] for row in stream], whole["text"][:])
"""
    assert run(hub, tmp_path, code, str(api.token)) == "['hello', 'world'] ['one', 'two']"


def test_an_upload_with_xet_on_can_be_read_back(hub: LoopbackHub, api: HfApi, tmp_path: Path, model: Path) -> None:
    """The client's default way up goes through the local content store and ends as a stored body."""
    api.create_repo("demo/m")
    code = """
import sys
from huggingface_hub import HfApi
HfApi(token=sys.argv[2]).upload_folder(repo_id="demo/m", folder_path=sys.argv[1])
"""
    run(hub, tmp_path, code, str(model), str(api.token), HF_HUB_DISABLE_XET="0")
    assert hub.counters()["lfs_puts"] == {}
    assert hub.counters()["requests"]["GET /api/models/{owner}/{name}/xet-write-token/{revision}"] >= 1
    check_uploaded(api, model)
