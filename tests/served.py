"""The whole service as its users meet it: a Hub with three small classifiers, and the app in a process of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradio_client import Client
from huggingface_hub import HfApi

from demo.loopback_hub import LoopbackHub
from merging.calibrate import collect
from tests.tiny_models import save_tiny, sentences

REPO = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
SWITCHES = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-software-rasterizer",  # pages are drawn without a GPU process of software
    "--disable-dev-shm-usage",
]  # of Chromium
SKILLS = {
    "banking": ("card lost", "top up", "exchange rate", "fee"),
    "emotion": ("anger", "joy", "sadness"),
    "subjectivity": ("objective", "subjective"),
}  # task -> labels of its classifier


def publish_skills(hub: LoopbackHub, folder: Path, owner: str = "ana") -> Sequence[str]:
    """Three tiny classifiers of one base with three label sets, each with its Gram statistics; their repo ids."""
    hub.add_user(owner)
    api = HfApi(endpoint=hub.url, token=hub.add_token(owner))
    names = []
    for seed, (task, labels) in enumerate(SKILLS.items(), start=1):
        model = save_tiny(folder / task, seed=seed, labels=labels)
        (model / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n# minilm-{task}\n")
        repo_id = f"{owner}/minilm-{task}"
        api.create_repo(repo_id)
        api.upload_folder(repo_id=repo_id, folder_path=model)
        add_gram(api, repo_id, model, seed)
        names.append(repo_id)
    return names


def add_gram(api: HfApi, repo_id: str, model: Path, seed: int) -> None:
    """Collect a model's Gram statistics from random sentences and publish them beside it."""
    out = model / "gram.safetensors"
    texts = sentences(64, seed)
    for _ in collect(
        "gram", model, texts, out, examples=64, max_length=16, batch_size=16, seed=0, device="cpu", model=repo_id
    ):
        pass
    api.upload_file(repo_id=repo_id, path_or_fileobj=out, path_in_repo="merge-statistics/gram.safetensors")


@contextmanager
def served(home: Path, environment: Mapping[str, str], *, token: str | None = None) -> Iterator[str]:
    """The app with its worker, on a free port; gives its address. `token` is what `hf auth login` would have left."""
    (home / "hf").mkdir(parents=True, exist_ok=True)
    if token:
        (home / "hf" / "token").write_text(token)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "OAUTH_", "MERGE_"))}
    own = {
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MERGE_HOME": str(home / "merge"),
        "MERGE_PORT": "0",
        "GRADIO_TEMP_DIR": str(home / "uploads"),
        "MERGE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    with (home / "app.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=REPO,
            env={**kept, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield _address(process, home / "app.log")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def program(url: str, token: str | None = None) -> Client:
    """A program that uses the public API."""
    return Client(url, oauth_token=token, verbose=False, analytics_enabled=False, download_files=False)


def run_job(client: Client, recipe: str) -> dict[str, Any]:
    """Submit a recipe (YAML) by the public API, and follow its job to its end."""
    job: dict[str, Any] = client.predict(recipe, api_name="/submit")
    deadline = time.monotonic() + 150
    while not job["ended"] and time.monotonic() < deadline:
        time.sleep(0.5)
        job = client.predict(job["id"], api_name="/status")
    assert job["status"] == "done", job["error"]
    return job


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    """The address that the app prints once it listens; what follows on its stdout is read and dropped."""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"open at (http://\S+)", line)
        if found:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return found[1]
    raise AssertionError(f"the app did not start:\n{log.read_text(errors='replace')[-3000:]}")
