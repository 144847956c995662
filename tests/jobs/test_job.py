"""Job ids, the job's folder, its log."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.job import LOG_LIMIT, JobFolder, job_id, read_json, write_atomically


def test_the_same_submission_has_the_same_id() -> None:
    """User, recipe and nonce decide, and nothing can be shifted between them."""
    assert job_id("ann", "r", "1") == job_id("ann", "r", "1")
    others = {job_id("ann", "r", "1"), job_id("bob", "r", "1"), job_id("ann", "r", "2"), job_id("annr", "", "1")}
    assert len(others) == 4
    assert all(id.isalnum() for id in others)


def test_a_folder_cannot_leave_the_home(tmp_path: Path) -> None:
    """An id is letters and digits."""
    with pytest.raises(ValueError, match="is not the id of a job"):
        JobFolder(tmp_path, "../evil")


def test_freeing_keeps_recipe_report_and_log(tmp_path: Path) -> None:
    """Downloads go, the result only when it is not kept."""
    folder = JobFolder(tmp_path, "m1")
    for path in (folder.parent(0), folder.cache, folder.output, folder.statistics(0, "gram").parent):
        path.mkdir(parents=True)
    write_atomically(folder.report, "{}")
    folder.append_log("pin", "hello")
    folder.free(keep_output=True)
    assert folder.output.exists()
    folder.free()
    assert sorted(path.name for path in folder.path.iterdir()) == ["log.jsonl", "report.json"]


def test_a_log_is_bounded_and_survives_a_cut_line(tmp_path: Path) -> None:
    """Half a line, as a kill leaves it, is left out."""
    folder = JobFolder(tmp_path, "m1")
    folder.append_log("pin", "before the folder is there")
    folder.create()
    folder.append_log("pin", "x" * LOG_LIMIT)
    folder.append_log("pin", "too much")
    with folder.log.open("a") as file:
        file.write('{"time": 1, "sta')
    assert [len(line["message"]) for line in folder.read_log()] == [LOG_LIMIT]


def test_small_files_are_whole_or_absent(tmp_path: Path) -> None:
    """Nothing is left beside them."""
    write_atomically(tmp_path / "a.json", '{"x": 1}')
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert read_json(tmp_path / "b.json") is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_stage_process_begins_without_torch() -> None:
    """It is tied to its worker and answers before it imports what takes a second and a half."""
    look = "import sys, jobs.begin, jobs.stage; print(sorted({'torch', 'transformers', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
