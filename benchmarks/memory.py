"""Peak anonymous memory of an average of three 500 MB checkpoints, above an idle import: `python -m benchmarks.memory`.

The merge runs in a process of its own whose RssAnon is sampled every 5 ms.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

MEGABYTE = 1_000_000
WORKER = """
import sys, time
import torch
from merging.checkpoint import HEADER_LIMIT
from merging.engine import merge, run_to_end
from merging.checkpoint import open_parent
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from pathlib import Path
print("idle", flush=True); sys.stdin.readline()
folders = [Path(argument) for argument in sys.argv[2:]]
recipe = recipe_from_dict({"merge_method": "average", "models": [{"model": str(folder)} for folder in folders]})
parents = [open_parent(str(folder), folder) for folder in folders]
report = run_to_end(merge(make_plan(recipe, parents), parents, Path(sys.argv[1]), threads=2))
print(report.seconds, flush=True)
"""


def write(folder: Path, megabytes: int, seed: int) -> Path:
    """A Llama-like checkpoint of random bfloat16 weights; one tensor holds a quarter of it."""
    import json

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    hidden, values = 1024, megabytes * MEGABYTE // 2
    vocabulary = values // 4 // hidden

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.bfloat16)

    tensors = {"model.embed_tokens.weight": draw(vocabulary, hidden)}
    layers = (values - vocabulary * hidden) // (hidden * hidden)
    for layer in range(layers):
        tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] = draw(hidden, hidden)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "llama", "architectures": ["LlamaModel"], "vocab_size": vocabulary, "hidden_size": hidden}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def anonymous(process_id: int) -> int:
    """RssAnon of a process in bytes."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def measure(folders: list[Path], out: Path) -> tuple[int, int, float]:
    """(idle, peak) RssAnon in bytes and the seconds of the merge."""
    command = [sys.executable, "-c", WORKER, str(out), *map(str, folders)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        idle, peak = anonymous(process.pid), 0
        done = threading.Event()

        def sample() -> None:
            nonlocal peak
            while not done.is_set():
                try:
                    peak = max(peak, anonymous(process.pid))
                except OSError:
                    return
                time.sleep(0.005)

        thread = threading.Thread(target=sample)
        thread.start()
        process.stdin.write("\n")
        process.stdin.flush()
        seconds = float(process.stdout.readline())
        done.set()
        thread.join()
    return idle, peak, seconds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500, help="of each of the three checkpoints")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        folders = [write(Path(name) / str(seed), options.megabytes, seed) for seed in range(3)]
        size = sum((folder / "model.safetensors").stat().st_size for folder in folders)
        idle, peak, seconds = measure(folders, Path(name) / "out")
    print(f"inputs {size / 1e6:.0f} MB, idle {idle / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB anonymous")
    print(
        f"the merge took {(peak - idle) / 1e6:.0f} MB above idle, {(peak - idle) / size:.1%} of its inputs, {seconds} s"
    )


if __name__ == "__main__":
    main()
