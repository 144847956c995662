"""Which shards of an output are finished, so that an interrupted merge goes on."""

import json
import time
from pathlib import Path

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
        self.hashing = 0.0  # seconds that the hashes of new shards took
        try:
            data = json.loads(self._path.read_text())
            if data["work"] == identity:
                self.finished = {
                    path: digest
                    for path, digest in data["shards"].items()
                    if (out / path).is_file() and sha256_of(out / path) == digest
                }
        except (OSError, ValueError, KeyError):
            pass  # nothing finished yet

    def finish(self, path: str) -> None:
        """Note a shard that has its final name."""
        began = time.monotonic()
        self.finished[path] = sha256_of(self._out / path)
        self.hashing += time.monotonic() - began
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"work": self._identity, "shards": self.finished}))
        temporary.replace(self._path)
