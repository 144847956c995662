"""How a merge grows: with threads, and with the size of its models: `python -m benchmarks.scaling`.

TIES of two models on their base (density 0.2, as in the paper) and RegMean of three (layers of 1024 inputs) on one
thread and on two in turn, and an average of two models of half a gigabyte and of four, in time per byte. The least of
the runs counts; small models are merged more often. Files lie in memory where there is room.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.memory import gram_file, write
from benchmarks.speed import place
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from merging.statistics import Statistics


def merged(method: str, folders: list[Path], out: Path, threads: int, grams: list[Path] | None = None) -> float:
    """Seconds of a merge, without those of hashing its output; the pages of the output are used again."""
    parents = [open_parent(str(folder), folder) for folder in folders]
    needs_base = method in ("ties", "task_arithmetic", "dare_ties", "slerp")
    base = parents.pop() if needs_base else None
    files = [{"gram": Statistics(path)} for path in grams or ()]
    if files:
        parents = [
            replace(parent, statistics={"gram": file["gram"].fact}) for parent, file in zip(parents, files, strict=True)
        ]
    wish: dict[str, Any] = {"merge_method": method, "models": [{"model": parent.model} for parent in parents]}
    wish |= {"parameters": {"density": 0.2}} if method == "ties" else {}
    recipe = recipe_from_dict(wish | ({"base_model": base.model} if base else {}))
    plan = make_plan(recipe, parents, base).raise_if_impossible()
    out.mkdir(exist_ok=True)
    if (out / "model.safetensors").exists():
        (out / "model.safetensors").rename(out / "model.safetensors.partial")
    out.with_name(out.name + ".journal.json").unlink(missing_ok=True)
    report = run_to_end(merge(plan, parents, out, base=base, statistics=files, threads=threads, device="cpu"))
    return report.seconds - report.hashing


def by_threads(method: str, megabytes: int, runs: int) -> tuple[float, float]:
    """Seconds on one thread and on two."""
    with tempfile.TemporaryDirectory(dir=place(megabytes / 1000)) as name:
        folders = [write(Path(name) / str(seed), megabytes, seed) for seed in range(3)]
        grams = [gram_file(folder, 1024) for folder in folders] if method == "regmean" else None
        merged(method, folders, Path(name) / "out", 2, grams)  # brings the files in
        pairs = [[merged(method, folders, Path(name) / "out", count, grams) for count in (1, 2)] for _ in range(runs)]
        one, two = map(min, zip(*pairs, strict=True))
        return one, two


def by_size(megabytes: int, runs: int) -> float:
    """Nanoseconds for each byte of an average of two models: read or written."""
    with tempfile.TemporaryDirectory(dir=place(megabytes / 2000)) as name:
        folders = [write(Path(name) / str(seed), megabytes, seed) for seed in range(2)]
        seconds = min(merged("average", folders, Path(name) / "out", 2) for _ in range(1 + runs))
        return seconds / (3 * (folders[0] / "model.safetensors").stat().st_size) * 1e9


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500, help="of each model of TIES and RegMean")
    parser.add_argument(
        "--sizes", type=int, nargs=2, default=(500, 4000), help="of each model of the average, megabytes"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for method in ("ties", "regmean"):
        one, two = found[method] = by_threads(method, options.megabytes, options.runs)
        print(f"{method}: {one:.2f} s on one thread, {two:.2f} s on two: {one / two:.2f} times as fast", flush=True)
    most = max(options.sizes)
    small, large = found["average"] = [by_size(size, options.runs * most // size) for size in options.sizes]
    names = [f"{size / 1000:g} GB" for size in options.sizes]
    print(f"average: {small:.3f} ns a byte at {names[0]}, {large:.3f} at {names[1]}: {large / small - 1:+.0%}")
    if options.json:
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
