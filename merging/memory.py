"""The memory of a merge: one budget for all threads, and buffers that are allocated once."""

import ctypes
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

M_MMAP_THRESHOLD = -3  # of malloc.h


class Budget:
    """Bytes that the threads share: who needs much waits until it is there."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._changed = threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Hold `size` bytes for a while; more than the whole budget counts as the whole of it."""
        size = min(size, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


class Buffers(threading.local):
    """Memory that each thread allocates once and uses for every block: allocating costs more than the arithmetic."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Tensor] = {}

    def get(self, use: str, length: int, dtype: torch.dtype, device: torch.device, *, pinned: bool = False) -> Tensor:
        """`length` values, 1-D, not initialised; the same memory at the next call for this use."""
        key = (use, dtype, device)
        held = self._held.get(key)
        if held is None or held.numel() < length:
            self._held.pop(key, None)
            held = self._held[key] = torch.empty(length, dtype=dtype, device=device, pin_memory=pinned)
        return held[:length]


def return_freed_memory() -> None:
    """Blocks of 4 MB and more go back to the system when they are freed, for the rest of this process.

    glibc would keep up to 64 MB of them per thread, which no budget knows of. Other systems are left as they are.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 4 << 20)


def anonymous_memory(process: int | str = "self") -> int:
    """RssAnon of a process in bytes, by its id; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return 0
