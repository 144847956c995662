"""What a merge has taken, and on what: all starts of an interrupted one together.

Of a start that was cut off counts what it had done when its last finished shard was noted (`merging.journal`).
"""

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from merging.device import device_name


class Account:
    """This start beside the earlier ones, of which `before` is what `told` said last; {} for none."""

    def __init__(self, before: Mapping[str, Any], device: torch.device, began: float) -> None:
        """`began` is when this start did, by `time.monotonic`."""
        self._before, self._began = before, began
        self._on = {"device": device_name(device), "cpu": cpu_name(), "torch": torch.__version__}

    def told(self, hashing: float, peak_memory: int) -> dict[str, Any]:
        """Seconds, those of hashing among them, bytes and machines, as the report has them. Given are this start's."""
        before, seconds = self._before, time.monotonic() - self._began
        return {
            "seconds": round(before.get("seconds", 0.0) + seconds, 3),
            "hashing": round(before.get("hashing", 0.0) + hashing, 3),
            "peak_memory": max(before.get("peak_memory", 0), peak_memory),
            **{name: _both(before.get(name, ""), own) for name, own in self._on.items()},
        }


def _both(before: str, now: str) -> str:
    """`cpu`, or `NVIDIA H100 and cpu` where the earlier shards were made on something else."""
    known = before.split(" and ") if before else []
    return " and ".join([*known, *([now] if now not in known else [])])


def cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
