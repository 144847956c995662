"""What a child process is given, and what its words are cleaned of."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.child import LINE_LIMIT, JobProcess, child_environment, scrub
from merging.errors import PART_LIMIT

LONG = 3 * LINE_LIMIT
STAGES = """
import sys
from jobs.stage import main
from merging.errors import InputError

def tells(folder, request):
    yield from ()
    return {"words": "a" * request["length"]}

def fails(folder, request):
    yield from ()
    raise InputError("b" * request["length"])

main(sys.argv[1:], {"tells": tells, "fails": fails})
"""


def asked(folder: Path, stage: str, request: Mapping[str, Any]) -> JobProcess:
    """A child whose stage has ended."""
    root = str(Path(__file__).parents[2])
    process = JobProcess([sys.executable, "-c", STAGES], folder, os.environ | {"PYTHONPATH": root}, lambda *_: None)
    process.begin(stage, request)
    try:
        assert process.wait(60) == 0
    finally:
        process.end()
    return process


def test_a_long_answer_arrives_whole(tmp_path: Path) -> None:
    """What models say to a trial, or an error with a stranger's names in it, may be longer than a line of a log."""
    result = asked(tmp_path, "tells", {"length": LONG}).answers.result
    assert result == {"words": "a" * LONG}
    error = asked(tmp_path, "fails", {"length": LONG}).answers.error
    assert error is not None
    assert error["problem"]["what"] == "b" * PART_LIMIT


def test_tokens_are_scrubbed_from_text() -> None:
    """The job's own, and whatever looks like one."""
    assert scrub("with secret here", "secret") == "with *** here"
    assert scrub("hf_abcdefghij and Bearer abc.def-ghi") == "*** and Bearer ***"
    assert scrub("hf_hub_download of a file") == "hf_hub_download of a file"


def test_a_child_knows_no_secret_of_its_worker(tmp_path: Path) -> None:
    """Keys, database and tokens stay behind; caches are the job's own."""
    parent = {
        "MERGE_SECRET_KEY": "k",
        "MERGE_DATABASE_URL": "d",
        "HF_TOKEN": "t",
        "HF_HUB_CACHE": "/shared",
        "PATH": "p",
    }
    environment = child_environment(tmp_path, "http://hub", parent | {"PATH": "p"})
    assert not {"k", "d", "t", "/shared"} & set(environment.values())
    assert (environment["HF_HOME"], environment["HF_ENDPOINT"], environment["PATH"]) == (
        str(tmp_path),
        "http://hub",
        "p",
    )
