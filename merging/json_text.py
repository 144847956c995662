"""JSON of strangers: nothing in it is nested so deeply that whoever walks it later falls over."""

import json
import re
from typing import Any

HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character outside the first plane, written as a number
DEPTH_LIMIT = 60  # lists and tables inside each other


def plain_json(raw: bytes | str) -> Any:
    """The data in a JSON text. Raises ValueError for anything else, and for what is nested beyond the limit."""
    try:
        data = json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if HALF.search(raw if isinstance(raw, str) else raw.decode("latin-1")):
        json.dumps(data, ensure_ascii=False).encode()  # UnicodeEncodeError, a ValueError, for one without the other
    level = [data]
    for _ in range(DEPTH_LIMIT):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return data
    raise ValueError("it is nested too deeply")
