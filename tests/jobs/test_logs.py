"""Logs: an object a line for machines, with the job and its stage; no token in either form."""

import json
import logging
import subprocess
import sys

import pytest

from jobs.logs import JsonLines, TextLines
from tests.jobs.processes import ROOT

TOKEN = "hf_plantedtokenplantedtoken"


def record(message: str, *values: object, **more: object) -> logging.LogRecord:
    """A record as a logger makes it."""
    made = logging.LogRecord("jobs.workflow", logging.WARNING, "x.py", 1, message, values, None)
    vars(made).update(more)
    return made


def test_a_line_of_json_has_the_job_and_the_stage() -> None:
    """Time in UTC to the millisecond, level, logger, message; a traceback is one field."""
    line = json.loads(JsonLines().format(record("job %s: %s", "m1", "merge done", job="m1", stage="merge")))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "jobs.workflow",
        "message": "job m1: merge done",
        "job": "m1",
        "stage": "merge",
    }
    try:
        raise ValueError(f"bad {TOKEN}")
    except ValueError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    written = JsonLines().format(failed)
    assert "\n" not in written
    assert "ValueError: bad ***" in json.loads(written)["error"]


def test_no_token_is_written_in_either_form() -> None:
    """Wherever it came from: the message, its values, the header of a request."""
    for form in (JsonLines(), TextLines()):
        for one in (record(f"with {TOKEN}"), record("with %s", TOKEN), record("Authorization: Bearer abcdef.ghijkl")):
            written = form.format(one)
            assert TOKEN not in written
            assert "abcdef" not in written
            assert "***" in written


@pytest.mark.slow
def test_a_process_writes_only_such_lines() -> None:
    """Also what the job engine says; requests are logged one by one in JSON alone."""
    program = (
        "import logging, sys\n"
        "from jobs.logs import set_up_logs\n"
        "set_up_logs(sys.argv[1])\n"
        "import dbos\n"
        "logging.getLogger('dbos').warning('of the engine')\n"
        "logging.getLogger('request').info('GET / 200')\n"
        "logging.getLogger('httpx2').info('GET https://hub')\n"
    )
    for style, expected in {"json": ["of the engine", "GET / 200"], "text": ["of the engine"]}.items():
        command = [sys.executable, "-c", program, style]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr.splitlines()
        found = [json.loads(line)["message"] if style == "json" else line.rpartition(": ")[2] for line in said]
        assert found == expected
