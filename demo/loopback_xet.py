"""Uploads through Xet, the client's default: the client writes into a content store in the Hub's own folder.

The token route names `local://<root>/xet` as the store, so client and Hub must share a disk. A commit then
names files by SHA-256, which the store does not know them by: its shard files tell which is which, and
hf_xet reads the bytes back. From there on such a file is a stored body like any other.

Covered: uploads with Xet on. Not covered: Xet downloads (files come over HTTP), deduplicated storage.
"""

import asyncio
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hf_xet  # type: ignore[import-untyped]

from demo.loopback_store import BodyWriter, Store

FAR_FUTURE = 4102444800  # 2100-01-01: tokens for a local store do not run out
HAS_CHECKSUMS, HAS_SHA256 = 1 << 31, 1 << 30
DATA, INDEX = Path("xet/xorbs"), "global_dedup_lookup.redb"  # where hf_xet 1.8 keeps them in a store
ROW = 48  # every record of a shard has this size; the first one is the shard's own header


def write_token(store: Store) -> dict[str, Any]:
    """What `xet-write-token` answers."""
    return {"accessToken": "loopback", "exp": FAR_FUTURE, "casUrl": f"local://{_folder(store)}"}


def _folder(store: Store) -> Path:
    return (store.root / "xet").resolve()


def _hex(digest: bytes) -> str:
    """Xet keeps a hash as four little-endian words and spells them as numbers."""
    return "".join(word[::-1].hex() for word in (digest[at : at + 8] for at in range(0, 32, 8)))


def shard_files(shard: bytes) -> Iterator[tuple[str, str, int]]:
    """(SHA-256, Xet hash, size) of the files that a shard describes.

    A file is one row (hash, flags, number of segments), then a row per segment, then if flagged a row of
    checksums per segment and a row with the SHA-256. A row whose hash is all ones ends the list.
    """
    at = ROW
    while shard[at : at + 32] != b"\xff" * 32:
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        rows = range(at + ROW, at + ROW * (1 + segments), ROW)
        size = sum(struct.unpack_from("<I", shard, row + 36)[0] for row in rows)
        end = at + ROW * (1 + segments * (2 if flags & HAS_CHECKSUMS else 1))
        if flags & HAS_SHA256:
            yield _hex(shard[end : end + 32]), _hex(shard[at : at + 32]), size
            end += ROW
        at = end


async def restore(store: Store, sha256: str) -> bool:
    """Bring a body that came through Xet into the blobs; False if the content store lacks it."""
    for path in _folder(store).glob(f"{DATA}/shards/*.mdb"):
        for found, xet_hash, size in shard_files(path.read_bytes()):
            if found == sha256:
                await asyncio.to_thread(_fetch, store, sha256, xet_hash, size)
                return True
    return False


def _fetch(store: Store, sha256: str, xet_hash: str, size: int) -> None:
    """Read one file out of the content store.

    The client's process may hold the lock on the store's index: hf_xet is given a copy of that, and links.
    """
    view, real = store.temporary(), _folder(store) / DATA
    (view / DATA).mkdir(parents=True)
    for name in ("xorbs", "shards"):
        (view / DATA / name).symlink_to(real / name)
    shutil.copy(real / INDEX, view / DATA / INDEX)
    target = view / "body"
    place = {"endpoint": f"local://{view.resolve()}", "token": "", "token_expiry_unix_secs": FAR_FUTURE}
    with hf_xet.XetSession().new_file_download_group(**place) as group:
        group.start_download_file(hf_xet.XetFileInfo(xet_hash, size), str(target))
    writer = BodyWriter(store)
    with target.open("rb") as file:
        while piece := file.read(1 << 20):
            writer.write(piece)
    writer.finish(sha256)
    shutil.rmtree(view)
