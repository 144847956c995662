"""How a command of the shell speaks: prose and errors on stderr, and what went wrong as an exit code.

Exit 2: the input is at fault. 130: Ctrl-C. 141: whoever read the result, such as `head`, went away before its end.
1: anything else. A traceback is shown only with MERGE_DEBUG=1.
"""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import typer

from merging.errors import InputError, MergeError

Command = Callable[..., None]
STOPPED = 130  # what a shell makes of SIGINT
UNREAD = 141  # and of SIGPIPE
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # which typer does not name


def say(*words: object, sep: str = " ") -> None:
    """Prose goes to stderr."""
    print(*words, sep=sep, file=sys.stderr, flush=True)


def _notes(error: BaseException) -> Iterable[str]:
    """What was added to an error on its way."""
    return getattr(error, "__notes__", ())


def command_of(app: typer.Typer) -> Callable[[Command], Command]:
    """A decorator that makes a function a command of `app`; what it raises becomes a sentence and an exit code."""

    def command(function: Command) -> Command:
        return app.command(name=function.__name__.replace("_", "-"))(_spoken(function))

    return command


def _spoken(function: Command) -> Command:
    """The function, its errors said on stderr and told by the exit code."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except InputError as error:
            say(*(f"error: {problem}" for problem in error.problems), *_notes(error), sep="\n")
            raise typer.Exit(2) from None
        except MergeError as error:
            say(f"error: {error}", *_notes(error), sep="\n")
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            say("Stopped.", *_notes(error))
            raise typer.Exit(STOPPED) from None
        except (typer.Exit, typer.BadParameter):
            raise
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _unread():
                raise typer.Exit(UNREAD) from None
            if os.environ.get("MERGE_DEBUG"):
                raise
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                say("error: The disk is full. Free some space, then start again.", *_notes(error), sep="\n")
                raise typer.Exit(1) from None
            first = (str(error).splitlines() or [""])[0]
            say(f"error: {type(error).__name__}: {first} (set MERGE_DEBUG=1 to see where)", *_notes(error), sep="\n")
            raise typer.Exit(1) from None

    return run


def run(app: typer.Typer) -> None:
    """Run the command that this process was started for, and end it. Unknown words are a sentence, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UsageError as error:
        say(f"error: {_usage(error)}")
        raise SystemExit(2) from None
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _unread() and UNREAD
    raise SystemExit(code or 0)


def _unread() -> bool:
    """Whether nobody reads stdout any more; what is still to be written goes nowhere then."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in watch.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _usage(error: Any) -> str:
    """What was written wrongly, and where the right words stand."""
    words = error.format_message().replace("\n", " ").rstrip(". ")
    asked = f" See `{error.ctx.command_path} --help`." if error.ctx is not None else ""
    return (words if words.endswith("?") else f"{words}.") + asked
