"""A real Postgres for the tests: Debian's package, an unprivileged user, a loopback port, a temporary folder.

Where it cannot be had the tests are skipped with the reason; with POSTGRES_REQUIRED set (as CI does) they fail.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

USER = "merge"
OPTIONS = (
    "-c fsync=off -c full_page_writes=off -c synchronous_commit=off "
    "-c shared_buffers=16MB -c max_connections=60 -c log_min_messages=error"
)


class Postgres:
    """A server of one's own. `stop` and `start` as an operator would; each test has a database of its own."""

    def __init__(self, binaries: Path, root: Path, account: str | None) -> None:
        self._binaries, self._root, self._account = binaries, root, account
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._run("initdb", "-D", str(root / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        self._databases = 0

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"{OPTIONS} -p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._root}"
        self._run("pg_ctl", "-D", str(self._root / "data"), "-l", str(self._root / "log"), "-w", "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once: every session ends."""
        self._run("pg_ctl", "-D", str(self._root / "data"), "-m", "immediate", "-w", "stop")

    def database(self) -> str:
        """The address of a new, empty database."""
        self._databases += 1
        name = f"jobs{self._databases}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._binaries / program), *arguments],
            check=True,
            cwd=self._root,
            user=self._account,
            group=None if self._account is None else pwd.getpwnam(self._account).pw_gid,
            extra_groups=None if self._account is None else [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


def _binaries() -> Path | None:
    """Where Debian puts the server, or wherever the PATH has it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server for as long as it is needed; the reason why there is none skips or fails the test."""
    binaries = _binaries()
    if binaries is None:
        reason = "Postgres is not installed (Debian: apt-get install postgresql)"
        if os.environ.get("POSTGRES_REQUIRED"):
            pytest.fail(reason)
        pytest.skip(reason)
    account = None
    root = Path(tempfile.mkdtemp(prefix="postgres-"))
    if os.getuid() == 0:  # it refuses to be root
        account = next(name for name in ("postgres", "nobody") if name in {one.pw_name for one in pwd.getpwall()})
        os.chown(root, pwd.getpwnam(account).pw_uid, -1)
    server = Postgres(binaries, root, account)
    try:
        server.start()
        yield server
    finally:
        _end(root / "data" / "postmaster.pid")
        shutil.rmtree(root, ignore_errors=True)


def _end(pid_file: Path) -> None:
    """SIGQUIT, its immediate stop, also where pg_ctl has failed."""
    with suppress(OSError, ValueError, IndexError):
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
