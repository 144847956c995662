"""What tests of more than one floor share.

The first lines come before any import that reads them: huggingface_hub takes its switches once, at import.
Tests of what follows the environment only (HF_ENDPOINT, Xet) start a process of their own.
"""

import os
import tempfile
from collections.abc import Iterator
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


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A Hub of this test's own, without users yet."""
    with LoopbackHub(tmp_path / "hub") as running:
        yield running
