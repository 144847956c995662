"""From which distance on an average fails: `python -m benchmarks.unrelated`.

A sentiment model of one domain is averaged with models of another domain that were trained at ever higher learning
rates, and with one whose weights are drawn at random: how far they are apart, how right each is on its own domain, and
how right the average is on the first one's. The models are made in a temporary folder, but for the first.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.differences import merged
from benchmarks.tasks import DOMAIN_FAMILY, Rows, Run, last, logits, percent_right, read_domain
from demo.train import TrainSettings, fine_tune

ROWS = 200  # of each test


def random_like(folder: Path, out: Path) -> Path:
    """A model with the spread of another's matrices and nothing else of it."""
    shutil.copytree(folder, out)
    torch.manual_seed(0)
    tensors = load_file(folder / "model.safetensors")
    drawn = {
        k: torch.randn_like(v) * v.std() if v.is_floating_point() and v.dim() > 1 else v for k, v in tensors.items()
    }
    save_file(drawn, out / "model.safetensors", metadata={"format": "pt"})
    return out


def right(folder: Path, rows: Rows) -> float:
    """Share of right answers."""
    return percent_right(logits(folder, [text for text, _ in rows]), rows) / 100


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="*", default=[1, 4, 8, 16, 32], help="factors on the usual rate")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    first = Run(DOMAIN_FAMILY, 0).model("amazon")
    here, there = read_domain("amazon", "test")[:ROWS], read_domain("imdb", "test")[:ROWS]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        print(f"alone: {right(first, here):.1%} of the first domain")
        others = []
        for rate in options.rates:
            settings = replace(TrainSettings(), epochs=options.epochs, learning_rate=2e-4 * rate)
            rows = read_domain("imdb", "train")
            others.append(
                (f"{rate:g} times the rate", last(fine_tune(rows, root / f"m{rate:g}", seed=1, settings=settings)))
            )
        others.append(("random weights", random_like(first, root / "random")))
        for title, other in others:
            _, report = merged([first, other], root / f"out-{other.name}", threads=1)
            apart = report.differences["pairs"][0]["distance"]
            both = right(root / f"out-{other.name}", here)
            own = right(other, there)
            print(
                f"{title}: {apart:.3f} apart, right alone {own:.1%}, the average on the first domain {both:.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
