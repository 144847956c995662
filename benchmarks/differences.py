"""What the figures of how models differ cost and how exact they are: `python -m benchmarks.differences`.

Two bfloat16 checkpoints of 100 MB in memory-backed files, two threads: averages with and without the figures in turn,
the median of the ratios. Then, of the small models that `benchmarks.skills` trained (where they are), the figures from
the sampled chunks beside those from every value.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.memory import write
from benchmarks.speed import place
from merging import products
from merging.checkpoint import open_parent
from merging.engine import Report, merge, run_to_end
from merging.plan import make_plan
from merging.recipe import recipe_from_dict


def merged(folders: list[Path], out: Path, *, threads: int = 2, base: Path | None = None) -> tuple[float, Report]:
    """Seconds of a merge, and its report."""
    wish: dict[str, Any] = {"merge_method": "average", "models": [{"model": str(folder)} for folder in folders]}
    wish |= {"merge_method": "task_arithmetic", "base_model": str(base)} if base else {}
    finished = out / "model.safetensors"
    if finished.exists():  # its pages are used again
        finished.rename(out / "model.safetensors.partial")
    out.with_name(out.name + ".journal.json").unlink(missing_ok=True)
    parents = [open_parent(str(folder), folder) for folder in folders]
    origin = open_parent(str(base), base) if base else None
    plan = make_plan(recipe_from_dict(wish), parents, origin).raise_if_impossible()
    began = time.perf_counter()
    report = run_to_end(merge(plan, parents, out, base=origin, threads=threads, device="cpu"))
    return time.perf_counter() - began, report


def cost(root: Path, models: int, megabytes: int, pairs: int) -> None:
    """The ratio of an average with the figures to one without."""
    folders = [write(root / f"{models}-{seed}", megabytes, seed) for seed in range(models)]
    ratios, plain, full = [], [], []
    for number in range(pairs + 1):
        with mock.patch.object(products.Observer, "of", return_value={}):
            without, _ = merged(folders, root / "out")
        having, _ = merged(folders, root / "out")
        if number:  # the first pair warms up
            ratios.append(having / without)
            plain.append(without)
            full.append(having)
    print(
        f"{models} models of {megabytes} MB: {statistics.median(plain):.2f} s without, "
        f"{statistics.median(ratios):.3f} times as long with ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"of the fastest of both {min(full) / min(plain):.3f}"
    )


def exactness(root: Path, folders: list[Path], base: Path | None) -> None:
    """Totals, and the largest relative error of a cell, of the chunks beside those of every value."""
    _, sampled = merged(folders, root / "sampled", base=base)
    products.places_of.cache_clear()
    with mock.patch.object(products, "EVERY", 1):
        _, whole = merged(folders, root / "whole", base=base)
    products.places_of.cache_clear()
    a, b = sampled.differences, whole.differences
    for one, other in zip(a["models"], b["models"], strict=True):
        cells = [
            abs(x / y - 1)
            for ours, theirs in zip(one["cells"], other["cells"], strict=True)
            for x, y in zip(ours, theirs, strict=True)
            if x is not None and y
        ]
        print(
            f"{one['model']}: distance {one['distance']:.4f} for {other['distance']:.4f}, "
            f"cells off by {statistics.median(cells):.1%}, at most {max(cells):.1%}"
        )
    for one, other in zip(a["pairs"], b["pairs"], strict=True):
        print(f"{one} for {other}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="folders of fine-tunes")
    parser.add_argument("--base", type=Path, help="the folder of their base")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=place(options.megabytes / 1000)) as name:
        for models in (2, 5) if options.pairs else ():
            cost(Path(name), models, options.megabytes, options.pairs)
        if options.models:
            exactness(Path(name), options.models, options.base)


if __name__ == "__main__":
    main()
