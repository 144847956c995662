"""What strangers hand in at random is taken, or refused by short sentences; a few of each kind (`make fuzz`: many)."""

import pytest

from tests.security.fuzz import run
from tests.security.targets import TARGETS


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_bad_input_is_refused_by_a_sentence(name: str) -> None:
    """Or taken; the same inputs each time."""
    counts = run(name, 40, None)
    assert counts["inputs"] >= 10
