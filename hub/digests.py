"""What the content of a file of the Hub is checked by: the SHA-256 of a large file, git's own id of a small one."""

import hashlib
from typing import BinaryIO

from hub.client import HubUnavailable

PIECE = 1 << 20
GIT = 40  # hex digits of git's ids; a SHA-256 has 64


def digest_of(file: BinaryIO, size: int, like: str) -> str:
    """The digest of a file of `size` bytes, of the same kind as `like`."""
    found = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if len(like) == GIT else hashlib.sha256()
    while piece := file.read(PIECE):
        found.update(piece)
    return found.hexdigest()


def damaged(repo_id: str, name: str) -> HubUnavailable:
    """The error for a file that is not what the Hub lists, twice."""
    what = f"{repo_id}: {name} arrived damaged twice"
    return HubUnavailable(what, "its size or SHA-256 is wrong", "Try again later")
