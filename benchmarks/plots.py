"""Pictures of measured figures, as PNG files for the docs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"mergekit": "#d55e00", "this": "#0072b2"}  # apart for colour-blind eyes too
NAMES = {"mergekit": "mergekit", "this": "Merge My Models"}


def bars(found: Mapping[str, Any], path: Path) -> Path:
    """Wall and CPU seconds of each method, a bar a program; `found` is what `against_mergekit --time` measured."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    methods = list(found["methods"])
    for axis, what, title in zip(axes, ("wall", "cpu"), ("seconds", "CPU seconds"), strict=True):
        for offset, program in ((-0.2, "mergekit"), (0.2, "this")):
            runs = [sorted(one[what] for one in found["methods"][method]["runs"][program]) for method in methods]
            values = [times[len(times) // 2] for times in runs]
            places = [place + offset for place in range(len(methods))]
            drawn = axis.barh(places, values, 0.38, color=COLOURS[program], label=NAMES[program])
            axis.bar_label(drawn, [f"{value:.1f}" for value in values], padding=3, fontsize=8)
        axis.set_xlabel(title)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False)
    size = found["bytes"] / 1e9
    figure.suptitle(f"Merging three bfloat16 checkpoints of {size:.1f} GB, {found['threads']} threads, whole programs")
    return _save(figure, path)


def memory(found: Mapping[str, Any], path: Path, method: str) -> Path:
    """Anonymous memory of both programs over the time of one merge."""
    figure, axis = plt.subplots(figsize=(9, 3.2))
    for program in ("mergekit", "this"):
        samples = found["methods"][method]["runs"][program][-1]["samples"]
        times, sizes = zip(*samples, strict=True)
        axis.plot(times, [size / 1e9 for size in sizes], color=COLOURS[program], label=NAMES[program])
    axis.set_xlabel("seconds")
    axis.set_ylabel("anonymous memory, GB")
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    axis.set_title(f"{method} of three checkpoints of {found['bytes'] / 1e9:.1f} GB, imports included", fontsize=10)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path
