"""Peak anonymous memory of a merge above an idle import: `python -m benchmarks.memory`.

The merge runs in a process of its own whose RssAnon is sampled every 5 ms. By default an average of three checkpoints
of 500 MB; `--method` takes any other, RegMean with statistics of layers of `--width` inputs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from merging.memory import anonymous_memory

MEGABYTE = 1_000_000
PIECE = 1 << 22  # values that are drawn at a time
WORKER = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from merging.statistics import Statistics
print("idle", flush=True)
wish = json.loads(sys.stdin.readline())
parents = [open_parent(folder, Path(folder)) for folder in wish["folders"]]
base = open_parent(wish["base"], Path(wish["base"])) if wish["base"] else None
files = [{"gram": Statistics(Path(path))} for path in wish["grams"]]
parents = [replace(parent, statistics={"gram": file["gram"].fact}) for parent, file in zip(parents, files)] or parents
plan = make_plan(recipe_from_dict(wish["recipe"]), parents, base)
out, memory = Path(wish["out"]), wish["memory"]
print(run_to_end(merge(plan, parents, out, base=base, statistics=files, threads=2, memory=memory)).seconds, flush=True)
"""


def write(folder: Path, megabytes: int, seed: int, hidden: int = 1024) -> Path:
    """A Llama-like checkpoint of random bfloat16 weights, written tensor by tensor; one holds a quarter of it."""
    from merging.checkpoint import ShardWriter
    from merging.tensors import TensorSpec

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    values = megabytes * MEGABYTE // 2
    vocabulary = values // 4 // hidden
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range((values - vocabulary * hidden) // (hidden * hidden)):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (hidden, hidden)
    specs = [TensorSpec(name, shape, torch.bfloat16) for name, shape in shapes.items()]
    writer = ShardWriter(folder / "model.safetensors", specs)
    for spec in specs:
        for start in range(0, spec.numel, PIECE):
            count = min(PIECE, spec.numel - start)
            writer.write(spec.name, start, torch.randn(count, generator=generator, dtype=torch.bfloat16))
    writer.finish()
    config = {"model_type": "llama", "architectures": ["LlamaModel"], "vocab_size": vocabulary, "hidden_size": hidden}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def gram_file(folder: Path, width: int) -> Path:
    """Statistics of every linear layer of such a checkpoint: each its own matrix, all with the same numbers."""
    from merging.checkpoint import Checkpoint, sha256_of
    from merging.statistics import Provenance, pack_triangle, write_triangles

    inputs = torch.randn(2 * width, width)
    triangle = pack_triangle(inputs.T @ inputs / len(inputs))
    names = [name for name in Checkpoint(folder).specs if "proj" in name]
    weights = {"model.safetensors": sha256_of(folder / "model.safetensors")}
    same = dict.fromkeys(names, width)
    tables = (dict.fromkeys(names, float(width)), same, dict(zip(names, names, strict=True)))
    path = folder.with_suffix(".gram")
    return write_triangles(path, dict.fromkeys(names, triangle), same, *tables, Provenance(weights), "bfloat16")


def measure(wish: dict[str, object]) -> tuple[int, int, float]:
    """(idle, peak) RssAnon in bytes and the seconds of the merge that a worker is asked for."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        idle, peak = anonymous_memory(process.pid), 0
        done = threading.Event()

        def sample() -> None:
            nonlocal peak
            while not done.is_set():
                peak = max(peak, anonymous_memory(process.pid))
                time.sleep(0.005)

        thread = threading.Thread(target=sample)
        thread.start()
        process.stdin.write(json.dumps(wish) + "\n")
        process.stdin.flush()
        seconds = float(process.stdout.readline())
        done.set()
        thread.join()
    return idle, peak, seconds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500, help="of each of the three checkpoints")
    parser.add_argument("--method", default="average")
    parser.add_argument("--width", type=int, default=1024, help="inputs of each linear layer")
    parser.add_argument("--budget", default="2GB")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    from merging.recipe import find_method
    from settings import parse_size

    method = find_method(options.method)
    needs, most = method.needs, method.maximum_models
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        root = Path(name)
        folders = [write(root / str(seed), options.megabytes, seed, options.width) for seed in range(3)]
        size = sum((folder / "model.safetensors").stat().st_size for folder in folders)
        base = str(folders.pop()) if "base" in needs else None
        models = [{"model": str(folder)} for folder in folders[:most]]
        recipe = {"merge_method": options.method, "models": models} | ({"base_model": base} if base else {})
        wish = {
            "folders": [model["model"] for model in models],
            "base": base,
            "grams": [str(gram_file(folder, options.width)) for folder in folders] if "gram" in needs else [],
            "recipe": recipe,
            "memory": parse_size(options.budget),
            "out": str(root / "out"),
        }
        idle, peak, seconds = measure(wish)
    took = peak - idle
    print(f"{options.method}: inputs {size / 1e6:.0f} MB, idle {idle / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB anonymous")
    share, part = took / parse_size(options.budget), took / size
    print(f"above idle {took / 1e6:.0f} MB: {share:.0%} of its budget, {part:.1%} of its inputs; {seconds} s")
    if options.json:
        options.json.write_text(
            json.dumps({"method": options.method, "inputs": size, "took": took, "seconds": seconds})
        )


if __name__ == "__main__":
    main()
