"""Real jobs on the loopback Hub whose worker, page or both are killed at random moments: what is redone, what is left.

A kill is a stage and a share of the time that the stage takes undisturbed. `Scene.run` submits one job, kills, starts
again, follows the job to its end and compares; `Outcome.wrong` says in words what is not as it should be.
"""

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import BertForSequenceClassification

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.job import EVALUATED_STAGES, STAGES, Job, JobFolder, read_json
from jobs.service import JobService
from jobs.store import StoreAway
from merging.recipe import Recipe, recipe_from_dict
from settings import Settings
from tests.jobs.processes import wait_for
from tests.tiny_models import save_tokenizer, sentences, tiny_config, vary

REPO = "ann/merged"
LABELS = (("no", "yes"), ("joy", "anger", "fear"))
POSITIONS = 60_000  # makes the embedding large enough that a merge can be hit in the middle
TWICE = 2  # kills of one stage of one job at most: at the third the job itself would be blamed
GONE_IN = 2.0  # seconds after a worker's end in which nothing that it started may live
TARGETS = ("worker", "page", "both")


@dataclass(frozen=True)
class Kill:
    """kill -9 of a target, after this share of the stage."""

    stage: str
    share: float
    target: str = "worker"


def plan_kills(count: int, seed: int, each: int, targets: Sequence[str] = TARGETS) -> list[list[Kill]]:
    """So many kills, at most `each` of one job, over all stages and targets alike; in the order in which they come."""
    chance, among = random.Random(seed), EVALUATED_STAGES
    stages = [stage for _ in range(-(-count // len(among))) for stage in chance.sample(among, len(among))][:count]
    plans: list[list[Kill]] = []
    for start in range(0, count, each):
        chosen = stages[start : start + each]
        kills = [Kill(stage, chance.uniform(0, 1.1), chance.choice(targets)) for stage in chosen]
        plans.append(sorted(kills, key=lambda kill: (among.index(kill.stage), kill.share)))
    assert all(Counter(kill.stage for kill in plan).most_common(1)[0][1] <= TWICE for plan in plans)
    return plans


class Service(Protocol):
    """What runs the jobs of a home: a worker alone, or the page with its worker."""

    @property
    def settings(self) -> Settings:
        """Of the home."""

    def start(self) -> None:
        """Start what does not run."""

    def kill(self, target: str) -> None:
        """kill -9."""


@dataclass
class Outcome:
    """What came of one job. `files` maps each published file to its SHA-256, without what tells the time."""

    job: Job
    starts: Counter[str]  # stage -> how often it was started
    seconds: Mapping[str, float]  # stage -> how long it took at its last start
    files: Mapping[str, str]
    commits: int  # beyond the initial one
    hits: list[tuple[str, str]]  # (target, what it was doing) of each kill
    remade: set[str] = field(default_factory=set)  # finished shards that were made once more
    survivors: list[str] = field(default_factory=list)  # processes that outlived their worker

    def wrong(self, calm: "Outcome") -> list[str]:
        """What differs from the undisturbed job, in words."""
        if self.job.status != "done":
            return [f"it is {self.job.status}: {self.job.error}"]
        found = [f"{name} differs" for name in sorted({*self.files, *calm.files}) if self._differs(calm, name)]
        found += [f"{self.commits} commits"] if self.commits != 1 else []
        found += [f"{path} was made again" for path in sorted(self.remade)]
        found += [f"{process} outlived its worker" for process in self.survivors]
        allowed = Counter(stage for _, doing in self.hits for stage in doing.split())
        more = {stage: count - 1 - allowed[stage] for stage, count in self.starts.items()}
        return found + [f"{stage} was done {extra + 1} times" for stage, extra in more.items() if extra > 0]

    def _differs(self, calm: "Outcome", name: str) -> bool:
        return self.files.get(name) != calm.files.get(name)


class Scene:
    """Two classifiers with different labels and a text on a Hub, and what runs the jobs of a home.

    Where it `evaluates`, the merge is compared with both on labelled text. `positions` make the models larger.
    """

    def __init__(
        self, hub: LoopbackHub, root: Path, service: Service, *, evaluates: bool = False, positions: int = POSITIONS
    ) -> None:
        self.hub, self._root, self.runs = hub, root, service
        self.stages = EVALUATED_STAGES if evaluates else STAGES
        hub.add_user("ann")
        self.ann = Hub(hub.url, hub.add_token("ann"))
        self.service = JobService(service.settings)
        self.seconds: Mapping[str, float] = {}
        for index, labels in enumerate(LABELS):
            folder = root / f"model{index}"
            _save_classifier(folder, index, labels, positions)
            self.ann.api.create_repo(f"ann/m{index}")
            self.ann.api.upload_folder(repo_id=f"ann/m{index}", folder_path=folder)
        self.ann.api.create_repo("ann/texts", repo_type="dataset")
        text = "text\n" + "\n".join(sentences(400)) + "\n"
        self.ann.api.upload_file(
            repo_id="ann/texts", repo_type="dataset", path_or_fileobj=text.encode(), path_in_repo="train.csv"
        )
        self.ann.api.create_repo("ann/labelled", repo_type="dataset")
        rows = "text,label\n" + "".join(f"{one},{LABELS[0][at % 2]}\n" for at, one in enumerate(sentences(300)))
        self.ann.api.upload_file(
            repo_id="ann/labelled", repo_type="dataset", path_or_fileobj=rows.encode(), path_in_repo="test.csv"
        )

    def recipe(self) -> Recipe:
        """RegMean of both, with statistics that the job has to collect."""
        calibration = {"data": "ann/texts", "examples": 300, "max_length": 16, "batch_size": 4}
        models = [{"model": f"ann/m{i}", "task": f"m{i}", "calibration": calibration} for i in range(len(LABELS))]
        recipe: dict[str, Any] = {"merge_method": "regmean", "models": models, "output": {"repo_id": REPO}}
        if self.stages == EVALUATED_STAGES:
            recipe["evaluate"] = [{"data": "ann/labelled", "in_domain": ["m0"], "max_length": 16}]
        return recipe_from_dict(recipe)

    def calm(self) -> Outcome:
        """The job with nobody killed; its times are what shares of a stage are counted by from now on."""
        outcome = self.run(())
        self.seconds = outcome.seconds
        return outcome

    def run(self, kills: Sequence[Kill]) -> Outcome:
        """One job from submission to its end. The repo is deleted again."""
        self.runs.start()
        job = self.service.submit(self.recipe(), self.ann)
        folder = JobFolder(self.runs.settings.home, job.id)
        hits: list[tuple[str, str]] = []
        survivors: list[str] = []
        seen = 0
        with _Shards(folder) as shards:
            for kill in kills:
                wait_for(partial(self._is_time, folder, kill.stage, seen), 120, 0.005)
                if self._ended(job.id):
                    break  # the others came too late
                time.sleep(kill.share * self.seconds.get(kill.stage, 0.0))
                self.runs.kill(kill.target)
                hits.append((kill.target, _doing(folder, self.stages)))
                seen = _times(folder)[0].total()
                survivors += _survivors(folder) if kill.target != "page" else []
                self.runs.start()
            wait_for(lambda: self._ended(job.id), 240, 0.1)
        job = self.service.get(job.id, "ann")
        starts, seconds = _times(folder)
        done = job.status == "done"
        commits = len(self.ann.api.list_repo_commits(REPO)) - 1 if done else 0
        outcome = Outcome(job, starts, seconds, self._files() if done else {}, commits, hits, shards.remade, survivors)
        if done:
            self.ann.api.delete_repo(REPO)
        return outcome

    def close(self) -> None:
        """Give the connections back."""
        self.service.close()

    def _is_time(self, folder: JobFolder, stage: str, seen: int) -> bool:
        return comes_to(folder, stage, seen) or (folder.published.exists() and self._ended(folder.id))

    def _ended(self, id: str) -> bool:
        try:
            return self.service.get(id, "ann").ended
        except StoreAway:
            return False

    def _files(self) -> dict[str, str]:
        files = {}
        for name in self.ann.api.list_repo_files(REPO):
            path = Path(self.ann.api.hf_hub_download(REPO, name, local_dir=self._root / "published"))
            files[name] = sha256(_timeless(name, path.read_bytes())).hexdigest()
        return files


class _Shards:
    """Looks at the finished shards of a job again and again: a finished one must stay the file that it is."""

    def __init__(self, folder: JobFolder) -> None:
        self.remade: set[str] = set()
        self._folder = folder
        self._known: dict[str, tuple[int, int]] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Shards":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ending.wait(0.02):
            for path in (read_json(self._folder.journal) or {}).get("shards", ()):
                try:
                    stat = (self._folder.output / path).stat()
                except OSError:
                    continue  # it was published and is gone
                if self._known.setdefault(path, (stat.st_ino, stat.st_mtime_ns)) != (stat.st_ino, stat.st_mtime_ns):
                    self.remade.add(path)


def comes_to(folder: JobFolder, stage: str, seen: int) -> bool:
    """True once the stage or a later one has begun, after so many starts that were seen before."""
    starts = _times(folder)[0]
    return starts.total() > seen and any(starts[name] for name in EVALUATED_STAGES[EVALUATED_STAGES.index(stage) :])


def _doing(folder: JobFolder, stages: Sequence[str]) -> str:
    """The stage that was under way; between two of them both, for the end of the first may not be recorded yet."""
    told = [line for line in folder.read_log() if re.search(r" (started on|done in) ", line["message"])]
    if not told:
        return "waiting"
    last = told[-1]["stage"]
    if " started on " in told[-1]["message"]:
        return str(last)
    return " ".join(stages[stages.index(last) : stages.index(last) + 2])


def _times(folder: JobFolder) -> tuple[Counter[str], dict[str, float]]:
    """How often each stage was started, and the seconds that it took at last."""
    starts: Counter[str] = Counter()
    seconds = {}
    for line in folder.read_log():
        if " started on " in line["message"]:
            starts[line["stage"]] += 1
        elif found := re.search(r" done in ([\d.]+) s", line["message"]):
            seconds[line["stage"]] = float(found[1])
    return starts, seconds


def _survivors(folder: JobFolder) -> list[str]:
    """Processes of the job that live although their worker does not."""
    deadline = time.monotonic() + GONE_IN
    while (found := processes_of(str(folder.path))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def processes_of(*words: str) -> list[str]:
    """The command lines that hold these words."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            lines.append(line)
    return lines


def _timeless(name: str, data: bytes) -> bytes:
    """A published file without the seconds that it tells."""
    if name == "README.md":
        return re.sub(rb"merged in \d+ s", b"merged", data)
    if name.endswith("report.json"):
        return json.dumps(_without(json.loads(data)), sort_keys=True).encode()
    return data


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(one) for key, one in value.items() if key != "seconds"}
    return [_without(one) for one in value] if isinstance(value, list) else value


def _save_classifier(folder: Path, seed: int, labels: tuple[str, ...], positions: int) -> None:
    config = tiny_config("bert", id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    config.max_position_embeddings = positions
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    vary(model, seed)
    model.save_pretrained(folder)
    save_tokenizer(folder)
