"""What tests of more than one floor share.

The first lines come before any import that reads them: huggingface_hub takes its switches once, at import.
Tests of what follows the environment only (HF_ENDPOINT, Xet) start a process of their own.
"""

import gc
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-home-")
os.environ.update(
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_IMPLICIT_TOKEN="1",
    NO_PROXY="127.0.0.1,localhost",
)

from demo.loopback_hub import LoopbackHub


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imported modules stay: searching their million objects for garbage, time and again, took a tenth of a run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """One address for all Hubs: to start and end a server costs more than most tests."""
    with LoopbackHub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def hub(_server: LoopbackHub, tmp_path: Path) -> LoopbackHub:
    """A Hub of this test's own, without users yet."""
    _server.move_to(tmp_path / "hub")
    return _server
