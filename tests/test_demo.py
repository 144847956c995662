"""The demo as somebody at a terminal meets it."""

import fcntl
import signal
import threading
from pathlib import Path

import pytest

import demo.__main__ as demo


def test_one_demo_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second demo in the same folder is refused, before it touches what the first one works on."""
    monkeypatch.setattr(demo, "HOME", tmp_path)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match=r"A demo is running in .* already\. End it with Ctrl-C"):
            demo.run_demo(once=True)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.slow
def test_ctrl_c_at_any_time_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in the first minutes, while models are made: no traceback, and no process is left."""
    monkeypatch.setattr(demo, "HOME", tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
    stop = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    stop.start()
    try:
        assert demo.run_demo(once=True) == 0
    finally:
        stop.cancel()
        signal.signal(signal.SIGINT, before)
    assert f"Ended. What is finished stays in {tmp_path}" in capsys.readouterr().err
