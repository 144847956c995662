"""What the machine has to give: its memory, or that of the container that this process is in. Bytes everywhere."""

from contextlib import suppress
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUPS = (  # (folder, limit, in use): version 2, version 1
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def available_memory() -> int:
    """Memory that a process can take without pushing others out; 0 where the system does not tell."""
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return 0
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min([free, *_left_in_container()])


def _left_in_container() -> list[int]:
    """What the limit of a container leaves, not counting files that the kernel keeps in memory and would drop."""
    for folder, limit, used in CGROUPS:
        with suppress(OSError, ValueError):  # no such folder; "max"
            pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = int(pages.get("total_inactive_file", pages.get("inactive_file", 0)))
            return [max(0, int((folder / limit).read_text()) - int((folder / used).read_text()) + cached)]
    return []
