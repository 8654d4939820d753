"""Pragmas of a new SQLite file, while another process holds it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from streamserve.stores import pragmas


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new.sqlite"


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection, in a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("BEGIN EXCLUSIVE")
        yield connection


def test_a_locked_file_is_tried_again_until_it_is_free(
    path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        other.execute("COMMIT")

    monkeypatch.setattr(pragmas, "sleep", wait)
    with closing(sqlite3.connect(path, timeout=0)) as connection:
        pragmas.set_in_file(connection, "journal_mode = WAL")
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert waits == [pragmas.RETRY_INTERVAL]


def test_a_file_that_stays_locked_is_an_error(path: Path, other: sqlite3.Connection) -> None:
    assert other.in_transaction
    with closing(sqlite3.connect(path, timeout=0)) as connection, pytest.raises(sqlite3.OperationalError):
        pragmas.set_in_file(connection, "journal_mode = WAL", limit=0.0)


def test_another_error_is_not_tried_again(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.OperationalError, match="syntax"):
        pragmas.set_in_file(connection, "journal_mode = =")


def test_a_locked_file_is_tried_until_the_limit(
    path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(pragmas, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        assert (seconds, other.in_transaction) == (pragmas.RETRY_INTERVAL, True)
        now[0] += 1

    monkeypatch.setattr(pragmas, "sleep", wait)
    with closing(sqlite3.connect(path, timeout=0)) as connection, pytest.raises(sqlite3.OperationalError):
        pragmas.set_in_file(connection, "user_version = 5", "journal_mode = WAL", limit=2.0)
    assert now == [103.0]  # at the limit itself it is tried again


def test_all_pragmas_are_set_in_their_order(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        said: list[str] = []
        connection.set_trace_callback(said.append)
        pragmas.set_in_file(connection, "auto_vacuum = INCREMENTAL", "journal_mode = WAL")
    assert said == ["PRAGMA auto_vacuum = INCREMENTAL", "PRAGMA journal_mode = WAL"]
