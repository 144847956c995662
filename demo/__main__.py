"""The main job on real input, on this machine alone: `python -m demo [--once]`, or `make demo`.

Starts a Hub on loopback, fine-tunes three classifiers once, publishes them with their statistics, has RegMean
merge and evaluate them by the real job service, prints its table and a link, and leaves the page open. Models,
statistics and the Hub's content are kept in `.demo/`; the merge is done anew each time. Your own Hub token, cache
and settings are not touched.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from demo.loopback_hub import LoopbackHub
from demo.train import SKILLS, read_rows, train_skills
from merging.progress import Progress
from merging.recipe import HANDED_OVER, StatisticsKind

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
HUB_PORT, PAGE_PORT = 7861, 7860  # the demo's own; any other free one when they are taken
USER = "demo"
EXAMPLES = 600  # texts a model for Gram matrices
FISHER_EXAMPLES = 150  # a backward pass for each class of each text
Result = TypeVar("Result")


def run_demo(*, once: bool = False, seed: int = 0) -> int:
    """The whole demo; ends after the link with `once`, else when interrupted. One at a time: they share `.demo/`."""
    HOME.mkdir(exist_ok=True)
    with (HOME / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"A demo is running in {HOME} already. End it with Ctrl-C, then start again.") from None
        try:
            _run(once=once, seed=seed)
        except KeyboardInterrupt:
            say(f"\nEnded. What is finished stays in {HOME}: the next demo goes on from there.")
    return 0


def _run(*, once: bool, seed: int) -> None:
    """Models, statistics, the loopback Hub, the merge, and the page until it is interrupted."""
    began = time.monotonic()
    models = follow(
        train_skills(HOME / f"models-{seed}", seed=seed), "Fine-tuning three classifiers (the first time only)"
    )
    with LoopbackHub(HOME / "hub", port=_free(HUB_PORT)) as server:
        server.add_user(USER)
        token = server.add_token(USER)
        os.environ.update(_environment(server.url, token))
        _sign_in_shells(token)
        statistics = [collect(model) for model in models]
        publish_parents(server.url, token, models, statistics)
        service = _start_service(once)
        try:
            url, recipe_link, seconds, evaluation = submit_and_wait(server.url, token)
            print_table(evaluation)
            print(f"\nMerged and evaluated by a job in {seconds:.0f} s: {url}")
            print(f"The whole demo, with training, statistics and scores: {time.monotonic() - began:.0f} s")
            if not once:
                page = f"http://127.0.0.1:{os.environ['MERGE_PORT']}/?recipe={recipe_link}"
                print(f"The page, with the form filled: {page}")
                print(f"Commands for its Hub and its queue begin with: {_shell_words(server.url)}")
                print("Ctrl-C ends the demo.", flush=True)
                service.wait()
            else:
                target = download(url, server.url, token)
                print(f"That link lived as long as the demo's Hub; the merged model stays in {target}.")
        finally:
            _stop(service)


def collect(model: Path) -> dict[str, Path]:
    """Gram and Fisher statistics of a model from its training texts, once."""
    from merging.calibrate import collect as run

    texts = [text for text, _ in read_rows(_skill(model), "train")]
    paths: dict[str, Path] = {}
    kinds: tuple[tuple[StatisticsKind, int], ...] = (("gram", EXAMPLES), ("fisher", FISHER_EXAMPLES))
    for kind, examples in kinds:
        path = paths[kind] = HOME / "statistics" / f"{model.parent.name}-{model.name}-{kind}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            options: dict[str, Any] = {"examples": examples, "max_length": 64, "batch_size": 16, "seed": 0}
            options["numbers"] = "bfloat16"
            work = run(kind, model, texts, path, model=f"{USER}/{model.name}", dataset="demo/data/skills", **options)
            follow(work, f"Statistics of {model.name} from {examples} texts (the first time only)")
    return paths


def publish_parents(endpoint: str, token: str, models: Sequence[Path], statistics: Sequence[dict[str, Path]]) -> None:
    """The parents and their statistics on the loopback Hub, through the real client, once."""
    from hub.client import Hub
    from hub.publish_statistics import publish_statistics

    hub = Hub(endpoint, token)
    for model, files in zip(models, statistics, strict=True):
        repo_id = f"{USER}/{model.name}"
        if not hub.api.repo_exists(repo_id):
            say(f"Publishing {repo_id} and its statistics")
            hub.api.create_repo(repo_id, exist_ok=True)
            (model / "README.md").write_text(_parent_card(_skill(model)))
            hub.api.upload_folder(repo_id=repo_id, folder_path=model, commit_message="A fine-tune of MiniLM")
            publish_statistics(hub, repo_id, files, private=False)


def submit_and_wait(endpoint: str, token: str) -> tuple[str, str, float, dict[str, Any]]:
    """One RegMean merge through the job service: the repo's address, the recipe for a link, seconds, evaluation."""
    from hub.client import Hub
    from jobs.service import JobService
    from merging.recipe import recipe_from_dict
    from settings import Settings

    hub, service = Hub(endpoint, token), JobService(Settings())
    number = 1
    while hub.api.repo_exists(f"{USER}/skills-regmean-{number}"):
        number += 1
    sets, rows = evaluation_sets()
    recipe = recipe_from_dict(
        {
            "merge_method": "regmean",
            "models": [{"model": f"{USER}/minilm-{skill}"} for skill in SKILLS],
            "evaluate": sets,
            "output": {"repo_id": f"{USER}/skills-regmean-{number}"},
        }
    )
    job, began = service.submit(recipe, hub, rows=rows), time.monotonic()
    say(f"Job {job.id}: RegMean of {', '.join(job.models)}")
    while not job.ended:  # its worker logs the stages
        time.sleep(0.3)
        job = service.get(job.id, USER)
    report = service.report(job.id, USER) or {}
    service.close()
    if job.status != "done":
        raise SystemExit(f"The job {job.status}: {job.error}")
    plain = recipe.model_copy(update={"evaluate": ()})  # the rows are no part of a link
    return job.url, plain.to_link(), time.monotonic() - began, report["evaluation"]


def evaluation_sets() -> tuple[list[dict[str, Any]], dict[int, list[dict[str, str]]]]:
    """The test texts of the three skills: the sets of a recipe, and their rows, which are handed over with it."""
    options: dict[str, Any] = {"data": HANDED_OVER, "max_length": 64, "batch_size": 32, "examples": 1000}
    sets = [{"name": skill, "in_domain": [skill], **options} for skill in SKILLS]
    rows = {
        number: [{"text": text, "label": label} for text, label in read_rows(skill, "test")]
        for number, skill in enumerate(SKILLS)
    }
    return sets, rows


def print_table(evaluation: dict[str, Any]) -> None:
    """The accuracy of each row on the test texts of each skill, as the job's report has it."""
    found: dict[str, dict[str, float]] = {}
    for one in evaluation["sets"]:
        for score in one["scores"]:
            title = "each on its own" if score["who"] == "parent" else score["title"]
            found.setdefault(title, {})[one["name"]] = 100 * score["metrics"]["accuracy"]
    print(f"\n{'accuracy on test texts, %':26}{'mean':>8}" + "".join(f"{skill:>12}" for skill in SKILLS))
    for title, row in found.items():
        mean = sum(row.values()) / len(row)
        print(f"{title:26}{mean:8.1f}" + "".join(f"{row[skill]:12.1f}" for skill in SKILLS), flush=True)
    for note in evaluation["notes"]:
        say(f"  {note}")


def download(url: str, endpoint: str, token: str) -> Path:
    """The published repo, as anyone would fetch it."""
    from huggingface_hub import snapshot_download

    target = HOME / "published"
    shutil.rmtree(target, ignore_errors=True)
    snapshot_download(url.removeprefix(endpoint).strip("/"), local_dir=target, endpoint=endpoint, token=token)
    return target


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def follow(work: Generator[Progress, None, Result], title: str) -> Result:
    """The result of some work, its progress told every few seconds, under a title if there is any."""
    told = 0.0
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if not told:
            say(title)
        if time.monotonic() - told > 3:
            told = time.monotonic()
            say(f"  {progress.stage} {progress.fraction:.0%} {progress.message}")


def _environment(endpoint: str, token: str) -> dict[str, str]:
    """Variables of the demo's own Hub, home and page: nothing of the user's."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(HOME / "hf"),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MERGE_HOME": str(HOME / "home"),
        "MERGE_EXAMPLES": str(ROOT / "demo" / "examples.yaml"),
        "MERGE_PORT": str(_free(PAGE_PORT)),
        "NO_PROXY": "127.0.0.1,localhost",
    }


def _shell_words(endpoint: str) -> str:
    """What takes a command of another shell, in this folder, to the demo's Hub as its user, and to the page's queue."""
    home = HOME.relative_to(ROOT)
    return f"HF_ENDPOINT={endpoint} HF_HOME={home / 'hf'} MERGE_HOME={home / 'home'} .venv/bin/python cli.py"


def _sign_in_shells(token: str) -> None:
    """Leave the token of the demo's own Hub where `hf auth login` would, for commands with `HF_HOME=.demo/hf`."""
    path = HOME / "hf" / "token"
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(token)


def _start_service(once: bool) -> "subprocess.Popen[bytes]":
    """The page with its worker, or the worker alone when nobody will look at the page."""
    command = [sys.executable, "cli.py", "worker"] if once else [sys.executable, "app.py"]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


def _stop(service: "subprocess.Popen[bytes]") -> None:
    service.send_signal(signal.SIGTERM)
    try:
        service.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(service.pid, signal.SIGKILL)


def _free(port: int) -> int:
    """The port, or a free one when it is taken."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _skill(model: Path) -> str:
    return model.name.removeprefix("minilm-")


def _parent_card(skill: str) -> str:
    facts = json.dumps({"license": "apache-2.0", "pipeline_tag": "text-classification", "library_name": "transformers"})
    return f"---\n{facts}\n---\n# MiniLM for {skill}\n\nFine-tuned for the demo of Merge My Models.\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--once", action="store_true", help="end after the link")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return run_demo(once=options.once, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
