"""The same recipes by mergekit and by this: equal results, and what they cost.

    python -m benchmarks.against_mergekit --mergekit PATH/mergekit-yaml            # equality, on tiny models
    python -m benchmarks.against_mergekit --mergekit PATH/mergekit-yaml --time     # wall and CPU time, large models

mergekit is a program in an environment of its own (`pip install mergekit==0.1.5 accelerate`) and never imported.
Equality: the largest difference of any value, in steps of the output's dtype at the largest of the values that it was
made from; for DARE, which draws other random numbers, statistics. Of equal magnitudes TIES keeps those with the lower
index here, which mergekit leaves open: a last table tells how many values that concerns. Time: whole processes, imports
and hashing included, in turn, the same number of threads for both, and their anonymous memory; the first of three
bfloat16 checkpoints is the base where one is needed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.plots import bars, memory
from benchmarks.speed import place
from merging.memory import anonymous_memory

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("one", "two", "three")
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 5}
SMALL = {"vocab_size": 4000, "hidden_size": 512, "intermediate_size": 1408}
LARGE = {"vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 5632}
ARC = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]
HALF = {"weight": 0.5, "density": 0.5}
BY_LAYER = (
    {"density": [1, 0.7, 0.1], "weight": 1.0},
    {"density": 0.5, "weight": [0, 0.3, 0.7, 1]},
    {"density": 0.33, "weight": [{"filter": "mlp", "value": 0.5}, {"value": 0}]},
)


def recipe(
    method: str, models: Sequence[Mapping[str, Any]], base: str | None = "base", **parameters: Any
) -> dict[str, Any]:
    """A recipe in mergekit's words; the models by their parameters, in the order of MODELS."""
    named = [
        {"model": f"./{name}", **({"parameters": dict(own)} if own else {})}
        for name, own in zip(MODELS, models, strict=False)
    ]
    return {
        "merge_method": method,
        "models": named,
        **({"base_model": f"./{base}"} if base else {}),
        **({"parameters": parameters} if parameters else {}),
    }


WEIGHTS = ({"weight": 0.4}, {"weight": 0.7}, {"weight": 0.5})
EQUAL = {
    "linear": recipe("linear", WEIGHTS, None),
    "linear, not normalised": recipe("linear", WEIGHTS, None, normalize=False),
    "linear, over the layers": recipe("linear", ({"weight": [0, 1]}, {"weight": [1, 0.5, 1]}), None),
    "task_arithmetic": recipe("task_arithmetic", WEIGHTS),
    "task_arithmetic, lambda, one taken away": recipe(
        "task_arithmetic", (*WEIGHTS[:2], {"weight": -0.5}), **{"lambda": 0.8}
    ),
    "task_arithmetic, normalised": recipe("task_arithmetic", WEIGHTS, normalize=True),
    "slerp": recipe("slerp", ({},), t=0.3),
    "slerp, over the layers": recipe("slerp", ({},), t=ARC),
    "ties, density 1": recipe("ties", WEIGHTS),
    "ties, density 0.2": recipe("ties", [{**own, "density": 0.2} for own in WEIGHTS]),
    "ties, not normalised": recipe("ties", (HALF, HALF, HALF), normalize=False),
    "ties, rescaled": recipe("ties", (HALF, HALF, HALF), rescale=True),
    "ties, over the layers": recipe("ties", BY_LAYER, normalize=True, int8_mask=True),
    "dare_ties, density 1": recipe("dare_ties", WEIGHTS),
}
ONE = recipe("ties", ({"weight": 1.0, "density": 0.2},))
DARE = {
    "dare_ties, one model": recipe("dare_ties", ({"weight": 1.0, "density": 0.3},)),
    "dare_ties, one model, not rescaled": recipe("dare_ties", ({"weight": 1.0, "density": 0.3},), rescale=False),
    "dare_ties, three models": recipe("dare_ties", (HALF, HALF, HALF)),
    "dare_ties, three models, normalised": recipe("dare_ties", (HALF, HALF, HALF), normalize=True),
}
TIMED = {
    "linear": {
        "merge_method": "linear",
        "models": [{"model": f"./{name}", "parameters": {"weight": 1.0}} for name in ("base", "one", "two")],
    },
    "slerp": recipe("slerp", ({},), t=0.5),
    "ties": recipe("ties", (HALF, HALF), normalize=True),
    "dare_ties": recipe("dare_ties", (HALF, HALF), normalize=True),
}


def write_models(folder: Path, names: Sequence[str], dtype: torch.dtype, spread: float, **sizes: int) -> int:
    """Llama checkpoints of random weights that differ from the first one by `spread`; the bytes of one."""
    heads = {"num_attention_heads": sizes["hidden_size"] // 16, "num_key_value_heads": sizes["hidden_size"] // 32}
    config = transformers.LlamaConfig(**sizes, **heads, max_position_embeddings=128, tie_word_embeddings=False)  # type: ignore[arg-type]
    config.architectures, config.dtype = ["LlamaForCausalLM"], dtype
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in transformers.LlamaForCausalLM(config).state_dict().items()}
    for seed, name in enumerate(names):
        first, own = (torch.Generator().manual_seed(number) for number in (0, seed))
        tensors = {}
        for key, shape in shapes.items():
            values = torch.randn(shape, generator=first) * 0.02 + (1.0 if "norm" in key else 0.0)
            if seed:
                values += torch.randn(shape, generator=own) * spread
            tensors[key] = values.to(dtype)
        (folder / name).mkdir(parents=True)
        config.save_pretrained(folder / name)
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in tensors.values())


def run(command: Sequence[str | Path], folder: Path, threads: int = 1) -> dict[str, Any]:
    """Wall and CPU seconds of a program, and its anonymous memory, sampled: the most, and (seconds, bytes)."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, env=environment, stdout=output, stderr=output
        )
        samples = [(0.0, 0)]
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            samples.append((time.perf_counter() - began, anonymous_memory(process.pid)))
            time.sleep(0.02)
        _, status, used = ended
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed:\n{output.read().decode(errors='replace')[-3000:]}")
    return {
        "wall": wall,
        "cpu": used.ru_utime + used.ru_stime,
        "memory": max(size for _, size in samples),
        "samples": samples,
    }


class Tools:
    """The two programs, on recipes in one folder."""

    def __init__(self, mergekit: Path, folder: Path, threads: int = 1) -> None:
        self._mergekit, self._folder, self._threads = mergekit, folder, threads

    def mergekit(self, wish: Mapping[str, Any], dtype: str, computed: str = "float32") -> dict[str, Any]:
        """Run mergekit; what it computes in is set apart from what it writes."""
        own = {"dtype": computed} if computed == dtype else {"dtype": computed, "out_dtype": dtype}
        options = ["--no-copy-tokenizer", "--quiet"]
        return self._run({**wish, **own}, "theirs", [self._mergekit, "theirs.yaml", "theirs", *options])

    def ours(self, wish: Mapping[str, Any], dtype: str) -> dict[str, Any]:
        """Run the command line of this project."""
        command = [sys.executable, ROOT / "cli.py", "merge", "ours.yaml", "ours", "--no-check", "--device", "cpu"]
        return self._run({**wish, "dtype": dtype}, "ours", [*command, "--threads", str(self._threads)])

    def _run(self, wish: Mapping[str, Any], out: str, command: Sequence[str | Path]) -> dict[str, Any]:
        (self._folder / f"{out}.yaml").write_text(yaml.safe_dump(dict(wish)))
        for old in sorted((self._folder / out).rglob("*"), reverse=True):
            old.unlink()
        (self._folder / f"{out}.journal.json").unlink(missing_ok=True)
        return run(command, self._folder, self._threads)

    def load(self, name: str) -> dict[str, Tensor]:
        """All tensors of a checkpoint."""
        files = sorted((self._folder / name).glob("*.safetensors"))
        return {key: values for file in files for key, values in load_file(file).items()}


def difference(tools: Tools, wish: Mapping[str, Any]) -> tuple[float, float]:
    """(largest difference in steps of the dtype, share of the values that differ) of the two results."""
    names = {entry["model"][2:] for entry in wish["models"]} | {str(wish.get("base_model", "./one"))[2:]}
    operands = [tools.load(name) for name in names]
    theirs, ours = tools.load("theirs"), tools.load("ours")
    assert theirs.keys() == ours.keys(), theirs.keys() ^ ours.keys()
    worst, differing, count = 0.0, 0, 0
    for key, values in ours.items():
        assert values.dtype == theirs[key].dtype
        involved = [values, theirs[key], *(one[key] for one in operands)]
        largest = torch.stack([one.double().abs() for one in involved]).amax(0)
        step = torch.finfo(values.dtype).eps * 2 ** torch.floor(torch.log2(largest.clamp(min=1e-30)))
        apart = (values.double() - theirs[key].double()).abs()
        worst = max(worst, float((apart / step).max()))
        differing, count = differing + int((apart > 0).sum()), count + apart.numel()
    return worst, differing / count


def shape_of_change(tools: Tools, result: str) -> tuple[float, float, float]:
    """(share of the values that changed, mean change, L1 norm of the change) over all tensors, against the base."""
    base, merged = tools.load("base"), tools.load(result)
    change = torch.cat([(merged[key].double() - base[key].double()).flatten() for key in base])
    return float((change != 0).double().mean()), float(change.mean()), float(change.abs().sum())


def equality(mergekit: Path) -> None:
    """Print the tables of differences."""
    print("| recipe | output | mergekit computes in | largest difference (steps) | values that differ |")
    print("|---|---|---|---|---|")
    chosen: list[str] = []
    for dtype in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as name:
            tools = Tools(mergekit, Path(name))
            write_models(Path(name), ("base", *MODELS), getattr(torch, dtype), 0.004, **TINY)
            for title, wish in EQUAL.items():
                tools.ours(wish, dtype)
                for computed in dict.fromkeys(("float32", dtype)):
                    tools.mergekit(wish, dtype, computed)
                    steps, share = difference(tools, wish)
                    print(f"| {title} | {dtype} | {computed} | {steps:.2g} | {share:.2%} |", flush=True)
            if dtype == "float32":
                drawn = {title: _drawn(tools, wish, dtype) for title, wish in DARE.items()}
            chosen.append(_chosen(tools, dtype))
    print("\n| recipe | program | values changed | mean change | L1 norm of the change |\n|---|---|---|---|---|")
    for title, found in drawn.items():
        for program, (share, mean, norm) in found.items():
            print(f"| {title} | {program} | {share:.2%} | {mean:+.2e} | {norm:.5g} |")
    print("\n| ties of one model | kept by mergekit | kept here | kept by one alone | of those not at the threshold |")
    print("|---|---|---|---|---|", *chosen, sep="\n")


def _chosen(tools: Tools, dtype: str) -> str:
    """A row: how many changes each program keeps of one model, and whether only equal magnitudes tell them apart."""
    tools.ours(ONE, dtype)
    tools.mergekit(ONE, dtype)
    base, model, theirs, ours = (tools.load(name) for name in ("base", "one", "theirs", "ours"))
    kept, apart, elsewhere, count = [0, 0], 0, 0, 0
    for name, before in base.items():
        change = (model[name].float() - before.float()).abs().flatten()
        threshold = change.sort(descending=True).values[max(1, int(0.2 * len(change))) - 1]
        left, right = ((result[name] != before).flatten() for result in (theirs, ours))
        kept = [kept[0] + int(left.sum()), kept[1] + int(right.sum())]
        apart, count = apart + int((left != right).sum()), count + len(change)
        elsewhere += int(((left != right) & (change != threshold)).sum())
    cells = (f"{number / count:.3%}" for number in (*kept, apart))
    return f"| {dtype} | {' | '.join(cells)} | {elsewhere} |"


def _drawn(tools: Tools, wish: Mapping[str, Any], dtype: str) -> dict[str, tuple[float, float, float]]:
    tools.ours(wish, dtype)
    tools.mergekit(wish, dtype)
    return {"mergekit": shape_of_change(tools, "theirs"), "this": shape_of_change(tools, "ours")}


def layers_for(gigabytes: float, sizes: Mapping[str, int]) -> int:
    """How many layers make a bfloat16 checkpoint of that size."""
    hidden = sizes["hidden_size"]
    outside = 2 * sizes["vocab_size"] * hidden
    return max(1, round((gigabytes * 5e8 - outside) / (3 * hidden * (hidden + sizes["intermediate_size"]))))


def timing(mergekit: Path, gigabytes: float, pairs: int, threads: int) -> dict[str, Any]:
    """Run both programs in turn and print the table; all that was measured."""
    sizes = dict(LARGE if gigabytes >= 0.5 else SMALL)
    sizes["num_hidden_layers"] = layers_for(gigabytes, sizes)
    found: dict[str, Any] = {"threads": threads, "pairs": pairs, "dtype": "bfloat16", "methods": {}}
    print("| method | mergekit: wall, CPU (s), memory (GB) | this | wall | CPU |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=place(gigabytes)) as name:
        tools = Tools(mergekit, Path(name), threads)
        found["bytes"] = write_models(Path(name), ("base", "one", "two"), torch.bfloat16, 0.001, **sizes)
        for method, wish in TIMED.items():
            runs: dict[str, list[dict[str, Any]]] = {"mergekit": [], "this": []}
            for _ in range(pairs):
                runs["mergekit"].append(tools.mergekit(wish, "bfloat16", "bfloat16"))
                runs["this"].append(tools.ours(wish, "bfloat16"))
            ratios = {what: _ratio(runs, what) for what in ("wall", "cpu")}
            found["methods"][method] = {"runs": runs, "ratios": ratios}
            cells = [", ".join(f"{_median(runs[tool], what):.3g}" for what in ("wall", "cpu")) for tool in runs]
            memory = [f"{_median(runs[tool], 'memory') / 1e9:.2g}" for tool in runs]
            row = [f"{cell}, {most}" for cell, most in zip(cells, memory, strict=True)]
            print(f"| {method} | {row[0]} | {row[1]} | {ratios['wall']:.1f} x | {ratios['cpu']:.1f} x |", flush=True)
    return found


def _median(runs: Sequence[Mapping[str, float]], what: str) -> float:
    return statistics.median(one[what] for one in runs)


def _ratio(runs: Mapping[str, Sequence[Mapping[str, float]]], what: str) -> float:
    """The median of the ratios of runs that followed each other."""
    pairs = zip(runs["mergekit"], runs["this"], strict=True)
    return statistics.median(theirs[what] / ours[what] for theirs, ours in pairs)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=Path, required=True, help="the program mergekit-yaml")
    parser.add_argument("--time", action="store_true", help="measure times in place of equality")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each of the three checkpoints")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="where the figures of --time go")
    parser.add_argument("--plots", type=Path, help="a folder for pictures of --time: docs/images")
    options = parser.parse_args()
    if not options.time:
        equality(options.mergekit.absolute())
        return
    found = timing(options.mergekit.absolute(), options.gigabytes, options.pairs, options.threads)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.plots:
        bars(found, options.plots / "engine-time.png")
        memory(found, options.plots / "engine-memory.png", "ties")


if __name__ == "__main__":
    main()
