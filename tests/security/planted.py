"""Where a secret could be left lying: files, and the command lines and environments of processes."""

import base64
import functools
import threading
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote


def forms(secret: str) -> tuple[bytes, ...]:
    """A secret as it may stand somewhere: plain, in hex, quoted, and in base64 at each of the three offsets."""
    raw = secret.encode()
    shifted = (base64.b64encode(bytes(shift) + raw)[4 if shift else 0 : -4] for shift in range(3))
    return (raw, raw.hex().encode(), quote(secret, safe="").encode(), *(text for text in shifted))


def found_in(text: bytes, secrets: Iterable[str]) -> bool:
    """Whether any of the secrets stands in a text in any form."""
    return any(form in text for form in all_forms(tuple(secrets)))


@functools.cache
def all_forms(secrets: tuple[str, ...]) -> tuple[bytes, ...]:
    """Of several secrets."""
    return tuple(form for secret in secrets for form in forms(secret))


def files_with(folder: Path, secrets: Iterable[str]) -> tuple[list[Path], int]:
    """(files below a folder that hold a secret in their name or body, files looked at)."""
    secrets, looked, hits = tuple(secrets), 0, []
    for path in folder.rglob("*"):
        try:
            body = path.read_bytes() if path.is_file() else b""
        except OSError:
            continue  # it was deleted meanwhile
        looked += 1
        if found_in(str(path).encode() + b"\0" + body, secrets):
            hits.append(path)
    return hits, looked


class ProcessWatch:
    """Looks at all processes of this machine, again and again: who shows a secret in its arguments or environment."""

    def __init__(self, everywhere: Iterable[str], children: Iterable[str] = (), worker: Iterable[str] = ()) -> None:
        """`everywhere` may stand in no process; `children` in no argument, and in the environment of no stage.

        Those of `children` that a `worker` may not have either are named again.
        """
        self._everywhere, self._children, self._worker = tuple(everywhere), tuple(children), tuple(worker)
        self.hits: list[str] = []
        self.stages: set[str] = set()  # command lines of stages that were seen
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ProcessWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for process in Path("/proc").iterdir():
                if process.name.isdigit():
                    self._look(process)

    def _look(self, process: Path) -> None:
        try:
            arguments = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
        except OSError:
            return  # it has ended, or is not ours
        stage = b"jobs.begin" in arguments or b"merging.check" in arguments or b"fake_stages" in arguments
        if stage:
            self.stages.add(arguments.replace(b"\0", b" ").decode(errors="replace"))
        worker = not stage and b"cli.py\0worker" in arguments
        wanted = (*self._everywhere, *(self._children if stage else self._worker if worker else ()))
        if found_in(environment, wanted) or found_in(arguments, (*self._everywhere, *self._children)):
            self.hits.append(arguments.replace(b"\0", b" ").decode(errors="replace")[:200])
