"""Uploads through Xet, the client's default: the client writes into a content store in the Hub's own folder.

The token route names `local://<root>/xet` as the store's address, so client and Hub must share a disk.
"""

from demo.loopback_store import Store


async def restore(store: Store, sha256: str) -> bool:
    """Bring a body that came through Xet into the blobs; False if it cannot be found."""
    return False
