"""How long `cli.py plan` takes to answer, against importing torch: `python -m benchmarks.start`.

Three tiny local folders, so that what is timed is the program's own start. Pairs in turn, the median of the ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

REPO = Path(__file__).parents[1]


def model(folder: Path, seed: int) -> Path:
    """A checkpoint of one layer of a Llama."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 8, generator=generator)
    save_file({"model.layers.0.self_attn.q_proj.weight": weight}, folder / "model.safetensors")
    config = {"model_type": "llama", "architectures": ["LlamaModel"], "hidden_size": 8}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def seconds(*command: str) -> float:
    """Wall time of a command that succeeds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, cwd=REPO, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folders = [str(model(Path(name) / str(seed), seed)) for seed in range(3)]
        recipe = Path(name) / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"merge_method": "average", "models": folders}))
        pairs = [
            (seconds("-c", "import torch"), seconds("cli.py", "plan", str(recipe))) for _ in range(options.pairs + 1)
        ][1:]
    ratio = statistics.median(plan / floor for floor, plan in pairs)
    floor, plan = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"import torch {floor:.2f} s, cli.py plan {plan:.2f} s, median of {len(pairs)} ratios {ratio:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"torch": floor, "plan": plan, "ratio": ratio}))


if __name__ == "__main__":
    main()
