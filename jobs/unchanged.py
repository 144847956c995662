"""What an earlier start has made is kept as long as it is of the same: folders and files of this machine may change.

Models and data of the Hub are pinned, or read once; what a person trains or edits between two starts is not.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from hub.datasets import local_path
from jobs.job import read_json, write_atomically

MARK = "of.json"  # in a folder: what is in it was made of


def keep_if_of(folder: Path, of: Any) -> None:
    """Empty a folder unless all that is in it was made of the same, which is plain data."""
    mark, text = folder / MARK, json.dumps(of)
    if read_json(mark) != json.loads(text):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_atomically(mark, text)


def dated(data: str) -> list[int]:
    """What changes with a file of this machine; [] for data of the Hub, and for what was handed over."""
    path = local_path(data)
    if path is None or not path.exists():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
