"""Rows of a dataset of the Hub as a stranger wrote them: pictures in it are its own, never files of this machine.

The `datasets` library opens whatever path stands in the row of an image column, here or on any other machine. So it is
told to open none, and what is opened is looked at first.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

from hub.client import Hub
from merging.errors import InputError

PICTURE_LIMIT = 50_000_000  # bytes of one picture as it is stored


@dataclass(frozen=True)
class DatasetFile:
    """A picture in a row: its bytes, or its path in the dataset itself."""

    dataset: str
    revision: str
    data: bytes | None
    path: str
    hub: Hub

    def open(self) -> IO[bytes]:
        """The picture's bytes. Raises InputError for a path that leads out of the dataset, and for too many bytes."""
        if self.data is not None:
            return BytesIO(self.data)
        inside = rf"((zip|tar)://[^:]*::)?hf://datasets/{re.escape(f'{self.dataset}@{self.revision}')}/[^:]*"
        if not re.fullmatch(inside, self.path) or ".." in self.path.split("/"):
            raise InputError(
                f"{self.dataset} names a picture that is not in it", self.path[:100], "Pick another dataset"
            )
        from datasets import DownloadConfig
        from datasets.utils.file_utils import xopen

        with xopen(self.path, "rb", download_config=DownloadConfig(token=self.hub.token)) as file:
            data = file.read(PICTURE_LIMIT + 1)
        if len(data) > PICTURE_LIMIT:
            why = f"more than {PICTURE_LIMIT:,} bytes"
            raise InputError(f"{self.dataset} has a picture that is too large", why, "Pick another dataset")
        return BytesIO(data)


def unopened(hub: Hub, name: str, revision: str, stream: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of a stream of the library, each picture as a `DatasetFile`."""
    from datasets import Image

    pictures = [key for key, feature in (stream.features or {}).items() if isinstance(feature, Image)]
    for row in stream.decode(False) if stream.features else stream:  # without features nothing is decoded
        for key in pictures:
            value = row.get(key)
            if isinstance(value, dict):
                row[key] = DatasetFile(name, revision, value.get("bytes"), str(value.get("path") or ""), hub)
        yield row
