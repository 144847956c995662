"""A real job on the loopback Hub whose worker is killed in a stage of choice: what is redone, what is published."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from transformers import BertForSequenceClassification

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.job import Job, JobFolder
from jobs.service import JobService
from merging.recipe import Recipe, recipe_from_dict
from tests.jobs.processes import Workers, ended, wait_for
from tests.tiny_models import save_tokenizer, sentences, tiny_config

KILLED_IN = ("fetch", "calibrate", "merge", "check", "publish")
REPO = "ann/merged"
LABELS = (("no", "yes"), ("joy", "anger", "fear"))
POSITIONS = 60_000  # makes the embedding large enough that a merge can be hit in the middle


@dataclass(frozen=True)
class Outcome:
    """What came of one job. `files` maps each published file to its SHA-256, without what tells the time."""

    job: Job
    starts: Counter[str]  # stage -> how often it was started
    files: dict[str, str]
    commits: int  # beyond the initial one


class Scene:
    """Two classifiers with different labels and a text, on a Hub, and workers on a home."""

    def __init__(self, hub: LoopbackHub, root: Path) -> None:
        self.hub = hub
        self.workers = Workers(root / "home")
        self.workers.home.mkdir(parents=True)
        hub.add_user("ann")
        self.ann = Hub(hub.url, hub.add_token("ann"))
        self.service = JobService(self.workers.settings)
        for index, labels in enumerate(LABELS):
            folder = root / f"model{index}"
            _save_classifier(folder, index, labels)
            self.ann.api.create_repo(f"ann/m{index}")
            self.ann.api.upload_folder(repo_id=f"ann/m{index}", folder_path=folder)
        self.ann.api.create_repo("ann/texts", repo_type="dataset")
        text = "text\n" + "\n".join(sentences(400)) + "\n"
        self.ann.api.upload_file(
            repo_id="ann/texts", repo_type="dataset", path_or_fileobj=text.encode(), path_in_repo="train.csv"
        )

    def recipe(self) -> Recipe:
        """RegMean of both, with statistics that the job has to collect."""
        calibration = {"data": "ann/texts", "examples": 300, "max_length": 16, "batch_size": 4}
        models = [{"model": f"ann/m{i}", "calibration": calibration} for i in range(len(LABELS))]
        return recipe_from_dict({"merge_method": "regmean", "models": models, "output": {"repo_id": REPO}})

    def run(self, kill_in: str = "") -> Outcome:
        """One job from submission to its end; the worker is killed once in `kill_in`. The repo is deleted again."""
        if kill_in == "fetch":
            self.hub.set_fault(r"/m1/resolve/.*safetensors", method="GET", delay=1.5, times=2)
        if kill_in == "publish":
            self.hub.set_fault("/commit/", method="POST", delay=1.5)
        worker = self.workers.start(fake=False)
        job = self.service.submit(self.recipe(), self.ann)
        if kill_in:
            wait_for(self._moment(kill_in, job.id), 90, 0.001)
            worker.kill()
            worker.wait()
            self.hub.clear_faults()
            worker = self.workers.start(fake=False)
        job = ended(self.service, job.id, seconds=120)
        worker.terminate()
        worker.wait()
        log = [line["message"] for line in self.service.log(job.id, "ann")]
        starts = Counter(found[1] for line in log if (found := re.match(r"(\w+) started on", line)))
        commits = len(self.ann.api.list_repo_commits(REPO)) - 1 if job.status == "done" else 0
        outcome = Outcome(job, starts, self._files() if job.status == "done" else {}, commits)
        if job.status == "done":
            self.ann.api.delete_repo(REPO)
        return outcome

    def close(self) -> None:
        """End what is left."""
        self.workers.stop()
        self.service.close()

    def _files(self) -> dict[str, str]:
        files = {}
        for name in self.ann.api.list_repo_files(REPO):
            path = Path(self.ann.api.hf_hub_download(REPO, name, local_dir=self.workers.home / "published"))
            data = path.read_bytes()
            if name == "README.md":
                data = re.sub(rb"merged in \d+ s", b"merged", data)
            files[name] = sha256(data).hexdigest()
        return files

    def _moment(self, stage: str, id: str) -> Callable[[], bool]:
        """True in the middle of a stage."""
        folder = JobFolder(self.workers.home, id)
        moments: dict[str, Callable[[], bool]] = {
            "fetch": lambda: (folder.parent(0) / "model.safetensors").exists(),
            "calibrate": lambda: folder.statistics(0, "gram").exists(),
            "merge": lambda: any(folder.output.glob("*.partial")),
            "check": lambda: _runs("merging.check", str(folder.output)),
            "publish": lambda: (folder.path / "intent.json").exists() and self.ann.api.repo_exists(REPO),
        }
        return moments[stage]


def _runs(*words: str) -> bool:
    """Whether there is a process with these words in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            return True
    return False


def _save_classifier(folder: Path, seed: int, labels: tuple[str, ...]) -> None:
    config = tiny_config("bert", id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    config.max_position_embeddings = POSITIONS
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.save_pretrained(folder)
    save_tokenizer(folder)
