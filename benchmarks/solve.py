"""RegMean of three models of BERT-base's size, from ready statistics, against LAPACK: `python -m benchmarks.solve`.

The floor does, on the same threads, what nobody can leave out: for every Gram matrix one Cholesky factorisation, for
every weight the right-hand side (one product a model) and its solution, all in float64 by BLAS and LAPACK on matrices
that lie ready in memory; and it reads every input and writes an output of that size. Widest layers first in both.
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speed import floor, place
from merging.checkpoint import Checkpoint, open_parent, sha256_of
from merging.engine import merge, one_torch_thread, run_to_end
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from merging.statistics import Provenance, Statistics, pack_triangle, write_triangles

HIDDEN, WIDE, LAYERS = 768, 3072, 12
# the Gram matrices of a layer, widest first: (inputs, the weights that share it)
SHARED = (
    (WIDE, ("output.dense",)),
    (HIDDEN, ("attention.self.query", "attention.self.key", "attention.self.value")),
    (HIDDEN, ("intermediate.dense",)),
    (HIDDEN, ("attention.output.dense",)),
)


def model(folder: Path, seed: int) -> Path:
    """A BERT of random weights, float32, 440 MB."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    BertModel(BertConfig(num_hidden_layers=LAYERS)).save_pretrained(folder)
    return folder


def gram(width: int, seed: int) -> Tensor:
    """A Gram matrix of correlated inputs, (width, width) float32."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2 * width, width, generator=generator) * torch.linspace(0.1, 3, width)
    inputs += torch.randn(2 * width, 1, generator=generator)
    return inputs.T @ inputs / len(inputs)


def gram_file(folder: Path, path: Path, seed: int) -> Path:
    """Statistics of every layer in bfloat16; layers of one width share the numbers, not the matrices."""
    matrices = {width: gram(width, seed) for width in (HIDDEN, WIDE)}
    triangles, sizes, traces, aliases = {}, {}, {}, {}
    for layer in range(LAYERS):
        for width, names in SHARED:
            weights = [f"encoder.layer.{layer}.{name}.weight" for name in names]
            key = weights[0]
            triangles[key], sizes[key] = pack_triangle(matrices[width]), width
            traces[key] = float(matrices[width].trace())
            aliases |= dict.fromkeys(weights, key)
    provenance = Provenance(weights={"model.safetensors": sha256_of(folder / "model.safetensors")}, examples=1)
    tokens = dict.fromkeys(sizes, 2 * WIDE)
    return write_triangles(path, triangles, sizes, traces, tokens, aliases, provenance, numbers="bfloat16")


def lapack(sources: list[Checkpoint], threads: int) -> float:
    """Seconds of the factorisations, right-hand sides and solutions alone."""
    grams = {width: [gram(width, seed).double() for seed in range(len(sources))] for width in (HIDDEN, WIDE)}
    jobs = sorted(
        ((width, layer, names) for layer in range(LAYERS) for width, names in SHARED), key=lambda job: -job[0]
    )
    weights = {
        (layer, name): [
            source.read(f"encoder.layer.{layer}.{name}.weight").reshape(-1, width).double() for source in sources
        ]
        for width, layer, names in jobs
        for name in names
    }

    def solve(job: tuple[int, int, tuple[str, ...]]) -> None:
        width, layer, names = job
        total = sum(grams[width][1:], grams[width][0])
        factor = torch.linalg.cholesky(total)
        for name in names:
            side = torch.zeros(weights[layer, name][0].shape, dtype=torch.float64)
            for weight, matrix in zip(weights[layer, name], grams[width], strict=True):
                side.addmm_(weight, matrix)
            torch.cholesky_solve(side.T, factor)

    with one_torch_thread(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        began = time.perf_counter()
        list(pool.map(solve, jobs))
        return time.perf_counter() - began


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=place(0.6)) as name:
        root = Path(name)
        folders = [model(root / str(seed), seed) for seed in range(3)]
        files = [Statistics(gram_file(folder, root / f"{i}.gram", i)) for i, folder in enumerate(folders)]
        wish = {"merge_method": "regmean", "models": [{"model": str(folder)} for folder in folders]}
        parents = [
            replace(open_parent(str(folder), folder), statistics={"gram": file.fact})
            for folder, file in zip(folders, files, strict=True)
        ]
        plan = make_plan(recipe_from_dict(wish), parents).raise_if_impossible()
        inputs = [folder / "model.safetensors" for folder in folders] + [root / f"{i}.gram" for i in range(3)]
        sources = [Checkpoint(folder) for folder in folders]
        ratios, floors, merges = [], [], []
        for pair in range(options.pairs):
            reading = floor(inputs[:3], root / "floor", options.threads) + floor(
                inputs[3:], root / "small", options.threads
            )
            floors.append(lapack(sources, options.threads) + reading)
            report = run_to_end(
                merge(
                    plan,
                    parents,
                    root / f"out{pair}",
                    statistics=[{"gram": file} for file in files],
                    threads=options.threads,
                    device="cpu",
                )
            )
            merges.append(report.seconds - report.hashing)
            ratios.append(merges[-1] / floors[-1])
            print(
                f"floor {floors[-1]:.2f} s ({reading:.2f} of it reading and writing), merge {merges[-1]:.2f} s, "
                f"hashing {report.hashing:.2f} s more, ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"{options.threads} threads: median ratio {statistics.median(ratios):.2f}, merge {min(merges):.2f} s at best")
    if options.json:
        options.json.write_text(
            json.dumps({"threads": options.threads, "ratios": ratios, "floor": min(floors), "merge": min(merges)})
        )


if __name__ == "__main__":
    main()
