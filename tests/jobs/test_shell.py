"""What a command of the shell says when something goes wrong."""

import errno

import pytest
import typer
from typer.testing import CliRunner

from jobs.shell import command_of


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_in_a_sentence(number: int) -> None:
    """Not as the name of an exception; what was added to the error on its way is said, too."""
    app = typer.Typer()

    @command_of(app)
    def merge() -> None:
        error = OSError(number, "No space left on device")
        error.add_note("What was done is kept")
        raise error

    result = CliRunner().invoke(app)
    assert result.exit_code == 1
    assert result.stderr == "error: The disk is full. Free some space, then start again.\nWhat was done is kept\n"
