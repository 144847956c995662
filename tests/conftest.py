"""What tests of more than one floor share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A Hub of this test's own, without users yet."""
    with LoopbackHub(tmp_path / "hub") as running:
        yield running
