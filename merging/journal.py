"""Which shards of an output are finished, and what was seen while they were made: an interrupted merge goes on."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from merging.checkpoint import sha256_of


class Journal:
    """The finished shards by path, with their SHA-256 in hex: a file kept beside the output, not in it.

    A shard of an earlier run counts when that run did the same work (`identity`) and the file has the same bytes.
    """

    def __init__(self, out: Path, identity: str) -> None:
        self._out = out
        self._path = out.with_name(out.name + ".journal.json")
        self._identity = identity
        self.finished: dict[str, str] = {}
        self.told: Mapping[str, Any] = {}  # what the report was to tell with the last finished shard, plain data
        self.seen: dict[str, Any] = {}  # shard -> what was said of it, plain data
        self.hashing = 0.0  # seconds that the hashes of new shards took
        try:
            data = json.loads(self._path.read_text())
            if data["work"] == identity:
                self.finished = {
                    path: digest
                    for path, digest in data["shards"].items()
                    if (out / path).is_file() and sha256_of(out / path) == digest
                }
                self.told = data.get("told", {}) if self.finished else {}
                self.seen = {path: data.get("seen", {}).get(path, {}) for path in self.finished}
        except (OSError, ValueError, KeyError):
            pass  # nothing finished yet

    def finish(self, path: str, seen: Callable[[], Any], told: Callable[[], Mapping[str, Any]]) -> None:
        """Note a shard that has its final name, what was seen in it, and what the report is to tell so far.

        `seen` may wait for whoever looks at the shard while it is hashed; `told` is asked after that.
        """
        began = time.monotonic()
        self.finished[path] = sha256_of(self._out / path)
        self.hashing += time.monotonic() - began
        self.seen[path] = seen()
        temporary = self._path.with_suffix(".tmp")
        stored = {"work": self._identity, "shards": self.finished, "seen": self.seen, "told": told()}
        temporary.write_text(json.dumps(stored))
        temporary.replace(self._path)
