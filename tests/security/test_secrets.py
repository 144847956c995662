"""A token planted in jobs that succeed, fail in each stage, are cancelled and are killed: where it then is."""

import base64
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from app import check_start
from jobs.service import JobService
from jobs.tokens import raise_if_weak
from merging.errors import InputError
from settings import Settings
from tests.jobs.fake_stages import NAMES
from tests.jobs.processes import TOKEN, Workers, ended, queue, wait_for
from tests.security.planted import ProcessWatch, files_with, forms

ROOT = Path(__file__).parents[2]
PRIVATE = """
import ctypes, os, sys, time
from jobs.child import keep_memory_private
if os.geteuid() == 0:
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as it was before the change of the user
if sys.argv[1] == "private":
    keep_memory_private()
print("ready", flush=True)
time.sleep(30)
"""


@pytest.mark.slow
def test_a_planted_token_is_found_nowhere(
    workers: Workers, service: JobService, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in database, log, job folder, command line or environment; its row is gone at the end of its job."""
    caplog.set_level(logging.DEBUG)
    with ProcessWatch([TOKEN]) as watch:
        worker = workers.start()
        failing = [name for name in NAMES if name != "inspect"]
        ids = [queue(service, f"fails{name}", fail_in=name, user=name) for name in failing]
        ids.append(queue(service, "succeeds", user="sue"))
        for id in ids:
            job = ended(service, id, user=id.removeprefix("fails") if id != "succeeds" else "sue")
            assert TOKEN not in str(job.as_dict())
        queue(service, "cancelled", tenths=600, user="can")
        wait_for(lambda: service.get("cancelled", "can").stage == "merge")
        service.cancel("cancelled", "can")
        queue(service, "killed", tenths=20, user="kim")
        wait_for(lambda: service.get("killed", "kim").stage == "merge")
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        hits, looked = files_with(workers.home, [TOKEN])
        assert not hits
        assert looked > 30
        assert not set(service._store.tokens.refs()) & set(ids)
    assert not watch.hits
    assert watch.stages
    assert not files_with(workers.home, [TOKEN])[0]
    assert TOKEN not in caplog.text


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """Plain, in hex, quoted, in base64 wherever it begins, and in a name: or the test above would prove nothing."""
    bodies = [
        TOKEN.encode(),
        TOKEN.encode().hex().encode(),
        *(base64.b64encode(b"x" * n + TOKEN.encode()) for n in range(3)),
    ]
    for number, body in enumerate(bodies):
        (tmp_path / str(number)).write_bytes(b"before " + body + b" behind")
    (tmp_path / TOKEN).touch()
    assert len(files_with(tmp_path, [TOKEN])[0]) == len(bodies) + 1
    assert len(forms(TOKEN)) == 6


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
@pytest.mark.parametrize("mode", ["private", "open"])
def test_another_process_of_the_same_user_reads_no_memory(mode: str) -> None:
    """The environment of page, worker and stage is not shown; without the call it would be."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MERGE_SECRET_KEY": "planted"}
    process = subprocess.Popen(
        [sys.executable, "-c", PRIVATE, mode], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        user = 65534 if os.geteuid() == 0 else None
        place = f"/proc/{process.pid}/environ"
        read = subprocess.run(["cat", place], user=user, capture_output=True)
        assert (b"planted" in read.stdout) == (mode == "open")
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert mode == "open" or core.split()[4] == "0"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "key",
    ["", "short", "0" * 43, "0123456789" * 5, "changeme" * 8, "aab" * 30, "abcabcabcabcabcabcabcabcabcabcabcabcabc"],
)
def test_a_key_that_can_be_guessed_is_refused(key: str) -> None:
    """Too short, of few characters, or a pattern; the old one of `new,old` may be anything."""
    with pytest.raises(InputError, match="MERGE_SECRET_KEY is weak: whoever has the database could guess it"):
        raise_if_weak(key)
    good = base64.urlsafe_b64encode(os.urandom(32)).decode()
    raise_if_weak(f"{good},{key}")
    with pytest.raises(InputError, match="MERGE_SECRET_KEY is weak") as caught:
        check_start(Settings(secret_key=SecretStr(key)), on_space=True, sign_in=True)
    assert not key or key not in str(caught.value)


def test_a_token_row_leaves_nothing_readable(tmp_path: Path) -> None:
    """Not even while it is there: the database and its journal hold ciphertext alone."""
    service = JobService(Settings(home=tmp_path))
    service._store.tokens.put("m1", TOKEN)
    assert not files_with(tmp_path, [TOKEN])[0]
    service._store.tokens.delete("m1")
    service.close()
    assert not files_with(tmp_path, [TOKEN])[0]
