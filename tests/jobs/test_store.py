"""The database: encrypted JSON, no pickles, one writer at a time."""

import base64
import logging
import pickle
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from dbos._serialization import deserialize_value

from jobs.job import JobFailed
from jobs.store import Store, a_worker_lives
from merging.errors import InputError, Problem
from settings import Settings


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    return Store(Settings(home=tmp_path))


def test_values_and_errors_come_back_from_ciphertext(store: Store) -> None:
    """Plain data as it was, a failure with its parts, any other exception as its text."""
    for value in (None, {"a": [1, "x"]}, "text"):
        assert store.serializer.deserialize(store.serializer.serialize(value)) == value
    failure = JobFailed(Problem("It failed", "so", "mend it"), "merge", True)
    stored = store.serializer.serialize(failure)
    assert "failed" not in stored
    back = store.serializer.deserialize(stored)
    assert (str(back), back.stage, back.kept) == ("It failed: so. mend it.", "merge", True)
    other = store.serializer.deserialize(store.serializer.serialize(ValueError("odd")))
    assert str(other) == "ValueError: odd."


def test_a_pickle_in_the_database_is_not_read(store: Store) -> None:
    """Who can write to the database cannot run code: DBOS would read a row that calls itself a pickle."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, ("1/0",)

    planted = base64.b64encode(pickle.dumps(Evil())).decode()
    with pytest.raises(InputError, match="The job store holds a pickle"):
        deserialize_value(planted, "py_pickle", store.serializer)


def test_sqlite_waits_for_its_turn_from_the_begin(store: Store) -> None:
    """WAL, and a transaction that only reads has the write lock too: queue limits depend on it."""
    with store.engine.begin() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        other = sa.create_engine(store.url, connect_args={"timeout": 0, "isolation_level": None})
        with other.connect() as second, pytest.raises(sa.exc.OperationalError, match="locked"):
            second.exec_driver_sql("BEGIN IMMEDIATE")


def test_an_executor_lock_has_one_holder(store: Store) -> None:
    """It is free again when its holder lets go, and somebody alive can be seen."""
    first, second = store.executor_lock("host:0"), store.executor_lock("host:0")
    assert not a_worker_lives(store)
    assert first.acquire()
    assert not second.acquire()
    assert a_worker_lives(store)
    first.release()
    assert second.acquire()
    second.release()


def test_an_unusable_database_is_one_sentence(tmp_path: Path) -> None:
    """Not a traceback of SQLAlchemy."""
    with pytest.raises(InputError, match="The job database cannot be used"):
        Store(Settings(home=tmp_path, database_url=f"sqlite:///{tmp_path}/no/such/folder.sqlite"))


NOWHERE = "postgresql://nobody:secret@127.0.0.1:9/jobs"


def test_a_postgres_that_does_not_answer_is_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without the library's own words before it, and without the password."""
    with caplog.at_level(logging.WARNING, "dbos"), pytest.raises(InputError) as caught:
        Store(Settings(home=tmp_path, database_url=NOWHERE))
    assert str(caught.value).startswith("The job database cannot be used: connection failed")
    assert "secret" not in str(caught.value)
    assert caplog.text == ""


def test_a_missing_postgres_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    sentence = r"psycopg cannot be loaded: .*psycopg.*\. Install psycopg\[binary\] to use Postgres\."
    with pytest.raises(InputError, match=sentence):
        Store(Settings(home=tmp_path, database_url=NOWHERE))
