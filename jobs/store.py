"""The job database: one engine, one serializer, one set of names for the page, the command line and the workers.

DBOS would by itself store pickles, count queues wrongly on SQLite, and read any pickle that somebody wrote into
its tables. Here SQLite gets WAL and BEGIN IMMEDIATE, values are JSON encrypted with the key outside the database,
and pickles are refused.
"""

import fcntl
import json
import logging
import os
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, Serializer, _sys_db
from dbos._serialization import DefaultSerializer
from sqlalchemy.exc import SQLAlchemyError

from jobs.job import JobFailed
from jobs.tokens import METADATA, Cipher, TokenStore, load_cipher
from merging.errors import InputError, MergeError, Problem
from settings import Settings

Call = TypeVar("Call", bound=Callable[..., Any])

APPLICATION = "merge-my-models"
VERSION = "1"  # of the stored jobs, not of the code; steps change through DBOS.patch
QUEUE = "merges"
WORKFLOW = "merge"
ACTIVE = ["ENQUEUED", "PENDING", "DELAYED"]
ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
LOCK_CLASS = 0x4D4D4D  # first half of the key of our advisory locks on Postgres
SUBMIT_CLASS = 0x4D4D4E  # the same of the lock under which jobs are submitted
SUBMIT_WAIT = 20  # seconds that it is waited for, and after which it is taken from a machine that went without a word
BUSY = 30.0  # seconds that a process waits for SQLite's write lock
BUSY_ASKING = 4.0  # seconds that somebody who looks at a page waits for it
POSTGRES = {  # a server that went without a word is noticed in half a minute, not after hours
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

log = logging.getLogger(__name__)


class StoreAway(MergeError):
    """The job database does not answer now: nothing is lost, ask again."""

    def __init__(self, why: str) -> None:
        super().__init__("The job database does not answer", why, "Nothing is lost: this page asks again by itself")


class EncryptedJson(Serializer):
    """JSON, encrypted. A JobFailed keeps its parts, any other exception only its text."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher

    def name(self) -> str:
        """As stored beside each value."""
        return "merge_json_fernet"

    def serialize(self, data: Any) -> str:
        """Ciphertext of plain data or of an exception."""
        if isinstance(data, JobFailed):
            data = {"$failed": data.as_dict()}
        elif isinstance(data, BaseException):
            data = {"$failed": JobFailed(Problem(type(data).__name__, str(data)[:2000])).as_dict()}
        return self._cipher.encrypt(json.dumps(data))

    def deserialize(self, serialized_data: str) -> Any:
        """What was serialized. Raises InputError for another key."""
        data = json.loads(self._cipher.decrypt(serialized_data))
        if isinstance(data, dict) and "$failed" in data:
            return JobFailed.from_dict(data["$failed"])
        return data


def _refuse_pickle(self: DefaultSerializer, serialized_data: str) -> Any:
    """Rows marked as pickles are read as such by DBOS whatever serializer it was given: never here."""
    raise InputError("The job store holds a pickle", "nothing of ours writes one", "Look who wrote to the database")


setattr(DefaultSerializer, "deserialize", _refuse_pickle)  # noqa: B010


def _may_be_tried_again(error: Exception) -> bool:
    """A full disk is waited for like a lock: DBOS would lose the job, and the worker is about to make room."""
    reason = str(getattr(error, "orig", None) or error)
    return "database is locked" in reason or "database or disk is full" in reason


setattr(_sys_db, "retriable_sqlite_exception", _may_be_tried_again)  # noqa: B010


class Store:
    """The database of a home folder (or the one that `MERGE_DATABASE_URL` names), ready to use."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home.expanduser().resolve()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.url = settings.database_url or f"sqlite:///{self.home / 'jobs.sqlite'}"
        self.cipher = load_cipher(self.home, settings.secret_key)
        self.serializer = EncryptedJson(self.cipher)
        self.engine = _engine(self.url)
        self._asking = (
            sa.create_engine(self.engine.url, connect_args={"isolation_level": None, "timeout": BUSY_ASKING})
            if self.is_sqlite
            else self.engine
        )
        self._migrate()
        self.tokens = TokenStore(self.engine, self.cipher)
        self.tokens.check_key()

    @property
    def is_sqlite(self) -> bool:
        """True for the database of one machine."""
        return self.engine.dialect.name == "sqlite"

    def _migrate(self) -> None:
        """Create or update the tables, one process at a time."""
        try:
            with (self.home / "migrate.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with _only_our_words():
                    DBOS.migrate(system_database_url=self.url)
                METADATA.create_all(self.engine)
        except SQLAlchemyError as error:
            raise InputError(
                "The job database cannot be used", reason_of(error), "Check MERGE_DATABASE_URL and MERGE_HOME"
            ) from None

    def config(self, executor_id: str) -> DBOSConfig:
        """How a worker starts DBOS."""
        for name in ("DBOS__CLOUD", "DBOS__VMID", "DBOS__APPVERSION"):
            os.environ.pop(name, None)
        return DBOSConfig(
            name=APPLICATION,
            system_database_url=self.url,
            system_database_engine=self.engine,
            application_version=VERSION,
            executor_id=executor_id,
            serializer=self.serializer,
            run_migrations=False,
            log_level="WARNING",
        )

    def client(self) -> DBOSClient:
        """How we ask the database what DBOS itself does not. An error when it is away, not a wait without end."""
        return DBOSClient(
            system_database_engine=self.engine,
            application_name=APPLICATION,
            serializer=self.serializer,
            retry_connection_errors=False,
        )

    def raise_if_away(self) -> None:
        """Raises StoreAway while another process holds SQLite's write lock: calls of DBOS would wait for it."""
        if not self.is_sqlite:
            return  # its errors come by themselves
        try:
            with self._asking.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql("ROLLBACK")
        except SQLAlchemyError as error:
            raise away(error) from None

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """One submission at a time, also where several machines share the database: so that a limit holds."""
        with (self.home / "submit.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # so that of this machine one connection at a time waits for the others
            if self.is_sqlite:
                yield
                return
            with self.engine.begin() as connection:
                connection.execute(sa.text(f"SET LOCAL lock_timeout = '{SUBMIT_WAIT}s'"))
                connection.execute(sa.text(f"SET LOCAL idle_in_transaction_session_timeout = '{SUBMIT_WAIT}s'"))
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:c, 0)"), {"c": SUBMIT_CLASS})
                yield

    def executor_lock(self, executor_id: str) -> "ExecutorLock":
        """The lock that says that this executor lives."""
        return ExecutorLock(self, executor_id)


@contextmanager
def _only_our_words() -> Iterator[None]:
    """Without the library's warning of what is about to fail, and then is said in one sentence."""
    logger = logging.getLogger("dbos")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _engine(url: str) -> sa.Engine:
    """SQLite: WAL, and every transaction begins with the write lock (else queue limits leak). Postgres: as it is."""
    parsed = sa.make_url(url)
    if not parsed.get_backend_name().startswith("sqlite"):
        try:
            server = parsed.set(drivername="postgresql+psycopg")
            return sa.create_engine(server, pool_pre_ping=True, pool_size=10, connect_args=POSTGRES)
        except ImportError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise InputError("psycopg cannot be loaded", reason, "Install psycopg[binary] to use Postgres") from None
    engine = sa.create_engine(parsed, connect_args={"isolation_level": None, "timeout": BUSY})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        for pragma in (f"busy_timeout={BUSY * 1000:.0f}", "journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def reason_of(error: SQLAlchemyError) -> str:
    """The first line of what the database's library says."""
    return str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0]


def away(error: SQLAlchemyError) -> StoreAway:
    """What to tell of a database that does not answer; the address and the whole reason are for the log alone."""
    reason = reason_of(error)
    log.warning("the job database does not answer: %s", reason)
    return StoreAway("another process holds its lock" if "locked" in reason else "it cannot be reached")


def answers(call: Call) -> Call:
    """A method of somebody with a `_store`, which raises StoreAway while the database is away."""

    @wraps(call)
    def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            self._store.raise_if_away()
            return call(self, *args, **kwargs)
        except SQLAlchemyError as error:
            raise away(error) from None

    return cast(Call, asked)


def executor_id(slot: int) -> str:
    """The name of a worker: the same after a restart, another one for each slot of a machine."""
    return f"{socket.gethostname()}:{slot}"


class ExecutorLock:
    """Held while a worker lives: a file lock beside SQLite, a session's advisory lock on Postgres."""

    def __init__(self, store: Store, executor: str) -> None:
        self._store = store
        self._executor = executor
        self._file: IO[str] | None = None
        self._connection: sa.Connection | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody has it."""
        return self._acquire_file() if self._store.is_sqlite else self._acquire_session()

    def is_held(self) -> bool:
        """Whether it is still ours: a session of Postgres, and the lock with it, ends when the server does."""
        if self._connection is None:
            return self._file is not None
        try:
            self._connection.execute(sa.text("SELECT 1"))
        except SQLAlchemyError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._connection is not None:
            self._connection.invalidate()  # the session ends, and the lock with it
            self._connection.close()
            self._connection = None

    def _acquire_file(self) -> bool:
        folder = self._store.home / "workers"
        folder.mkdir(exist_ok=True)
        file = (folder / f"{zlib.crc32(self._executor.encode()):08x}.lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def _acquire_session(self) -> bool:
        key = zlib.crc32(self._executor.encode()) - (1 << 31)
        connection = self._store.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if connection.execute(sa.text("SELECT pg_try_advisory_lock(:c, :k)"), {"c": LOCK_CLASS, "k": key}).scalar():
            self._connection = connection
            return True
        connection.close()
        return False


def a_worker_lives(store: Store) -> bool:
    """True when some process holds the lock of an executor."""
    if not store.is_sqlite:
        query = sa.text(  # of this database: the table shows the locks of the whole server
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :c AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        with store.engine.connect() as connection:
            return bool(connection.execute(query, {"c": LOCK_CLASS}).scalar())
    return any(_is_locked(path) for path in (store.home / "workers").glob("*.lock"))


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
