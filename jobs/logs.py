"""What a process says of itself on stderr: text for a person, or one JSON object a line for whoever collects logs.

A line about a job carries its id and stage (`extra={"job": ..., "stage": ...}`). Nothing that looks like a token is
written, wherever it came from.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from jobs.child import scrub

FIELDS = ("job", "stage", "method", "path", "status", "seconds")  # that a line may carry beside its message
NOISY = ("httpx", "httpx2", "httpcore", "dbos", "uvicorn", "gradio")


class TextLines(logging.Formatter):
    """`2026-11-21 21:10:09 INFO jobs.worker: message`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record without what looks like a token."""
        return scrub(super().format(record))


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, the fields that it carries, traceback as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record without what looks like a token."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage()}
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return scrub(json.dumps(line, default=str))


def set_up_logs(style: Literal["text", "json"]) -> None:
    """Have this process write its log so. Requests are logged one by one in JSON alone: people would drown in them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    engine = logging.getLogger("dbos")  # has a handler of its own unless it finds one
    engine.handlers, engine.propagate = [handler], False
    logging.getLogger("request").setLevel(logging.INFO if style == "json" else logging.WARNING)
