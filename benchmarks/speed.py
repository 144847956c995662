"""How near a merge comes to reading its inputs and writing its output: `python -m benchmarks.speed`.

Three bfloat16 checkpoints in memory-backed files, two threads. The floor reads every input and writes an output of that
size in large blocks and does nothing else; both write into pages that exist. Pairs in turn, the median of the ratios.
Imports are not counted, hashing of the output is stated apart.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch

from benchmarks.memory import write
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.plan import make_plan
from merging.recipe import recipe_from_dict

LARGE = 4 << 20  # bytes: a block of the floor


def floor(inputs: list[Path], out: Path, threads: int) -> float:
    """Seconds to read every input and write as much as one of them, on some threads."""
    size = inputs[0].stat().st_size
    target = os.open(out, os.O_RDWR | os.O_CREAT)
    os.ftruncate(target, size)
    sources = [os.open(path, os.O_RDONLY) for path in inputs]
    places = list(range(0, size, LARGE))

    def work(mine: list[int]) -> None:
        block = memoryview(bytearray(LARGE))
        for place in mine:
            for source in sources:
                count = os.preadv(source, [block], place)
            os.pwrite(target, block[:count], place)

    began = time.perf_counter()
    crew = [threading.Thread(target=work, args=(places[number::threads],)) for number in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    os.fsync(target)
    seconds = time.perf_counter() - began
    for descriptor in (target, *sources):
        os.close(descriptor)
    return seconds


def merged(folders: list[Path], out: Path, threads: int) -> tuple[float, float]:
    """Seconds of an average, and those of them that went into hashing the output."""
    recipe = recipe_from_dict({"merge_method": "average", "models": [{"model": str(folder)} for folder in folders]})
    out.mkdir(exist_ok=True)
    finished = out / "model.safetensors"
    if finished.exists():  # its pages are used again
        finished.rename(out / "model.safetensors.partial")
    out.with_name(out.name + ".journal.json").unlink(missing_ok=True)
    parents = [open_parent(str(folder), folder) for folder in folders]
    plan = make_plan(recipe, parents).raise_if_impossible()
    began = time.perf_counter()
    report = run_to_end(merge(plan, parents, out, threads=threads, device="cpu"))
    return time.perf_counter() - began, report.hashing


def place(gigabytes: float) -> str | None:
    """A folder in memory, when there is room for twice the files; else the usual one."""
    free = os.statvfs("/dev/shm") if Path("/dev/shm").is_dir() else None
    return "/dev/shm" if free and free.f_bavail * free.f_frsize > gigabytes * 6e9 else None


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each of the three checkpoints")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    ratios, floors, engines, hashes = [], [], [], []
    with tempfile.TemporaryDirectory(dir=place(options.gigabytes)) as name:
        folders = [write(Path(name) / str(seed), int(options.gigabytes * 1000), seed) for seed in range(3)]
        files = [folder / "model.safetensors" for folder in folders]
        floor(files, Path(name) / "floor", options.threads)
        merged(folders, Path(name) / "out", options.threads)
        for _ in range(options.pairs):
            floors.append(floor(files, Path(name) / "floor", options.threads))
            seconds, hashing = merged(folders, Path(name) / "out", options.threads)
            engines.append(seconds - hashing)
            hashes.append(hashing)
            ratios.append(engines[-1] / floors[-1])
    found = {
        "gigabytes": options.gigabytes,
        "threads": options.threads,
        "floor": statistics.median(floors),
        "engine": statistics.median(engines),
        "hashing": statistics.median(hashes),
        "ratio": statistics.median(ratios),
        "least": min(engines) / min(floors),
        "ratios": sorted(ratios),
    }
    print(
        f"{options.pairs} pairs, {torch.get_num_threads()} torch threads outside: floor {found['floor']:.2f} s, "
        f"average {found['engine']:.2f} s, hashing its output {found['hashing']:.2f} s more"
    )
    print(f"ratio: median {found['ratio']:.2f}, {ratios and min(ratios):.2f} to {max(ratios):.2f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
