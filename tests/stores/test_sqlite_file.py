"""The connections to a SQLite file: what they set, what they leave, and what a checkpoint does."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamserve.stores.base import Outcome, RunRecord
from streamserve.stores.bounds import DEFAULT_BOUNDS
from streamserve.stores.sqlite import compactor, retention, schema, writes
from streamserve.stores.sqlite.compactor import MAX_LOG, MIN_LOG, Compactor
from streamserve.stores.sqlite.reads import ReadSession
from streamserve.stores.sqlite.schema import OtherVersion, connect
from streamserve.stores.sqlite.session import Worker, WriteSession


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one" / "more" / "runs.sqlite"


def a_writer(path: Path) -> WriteSession:
    return WriteSession(path, Worker(10.0, lambda: 1_000.0), DEFAULT_BOUNDS, lambda _run_ids: None)


@pytest.fixture
def writer(path: Path) -> Iterator[WriteSession]:
    with closing(a_writer(path)) as session:
        yield session


def number(connection: sqlite3.Connection, pragma: str) -> Any:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


def test_a_new_file_has_its_folders_and_settings(path: Path) -> None:
    for _ in range(2):
        with closing(connect(path)) as connection:
            found = [number(connection, name) for name in ("journal_mode", "auto_vacuum", "user_version")]
            assert found == ["wal", 2, schema.VERSION]
            found = [number(connection, name) for name in ("synchronous", "wal_autocheckpoint", "cache_size")]
            assert found == [1, 0, -schema.CACHE_KIB]


@pytest.mark.parametrize("make", [a_writer, ReadSession, Compactor])
def test_a_closed_session_leaves_no_connection(path: Path, make: Callable[[Path], Any]) -> None:
    session = make(path)
    session.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        session._connection.execute("SELECT 1")
    assert path.name not in open_files()


def open_files() -> set[str]:
    """Return the names of the files that this process has open."""
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return {Path(os.readlink(link)).name for link in links if os.path.lexists(link)}


def test_a_refused_file_is_not_kept_open(tmp_path: Path) -> None:
    path = tmp_path / "refused.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(OtherVersion, match="version 99"):
        connect(path)
    assert path.name not in open_files()


@pytest.mark.parametrize(
    ("size", "modes"),
    [
        (None, []),
        (MIN_LOG, []),
        (MIN_LOG + 1, ["PASSIVE"]),
        (MAX_LOG, ["PASSIVE"]),
        (MAX_LOG + 1, ["PASSIVE", "TRUNCATE"]),
    ],
)
def test_a_longer_log_is_moved_into_the_file(path: Path, tmp_path: Path, size: int | None, modes: list[str]) -> None:
    with closing(Compactor(path)) as session:
        session._log = tmp_path / "log"
        if size is not None:
            with session._log.open("wb") as log:
                log.truncate(size)
        said: list[str] = []
        session._connection.set_trace_callback(said.append)
        assert session.compact() is False
    assert said == [*(f"PRAGMA wal_checkpoint({mode})" for mode in modes), "PRAGMA freelist_count"]


def test_no_log_needs_no_checkpoint(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "MIN_LOG", 0)
    with closing(Compactor(path)) as session:
        session._log = tmp_path / "none"
        said: list[str] = []
        session._connection.set_trace_callback(said.append)
        session.compact()
    assert said == ["PRAGMA freelist_count"]


def test_free_pages_are_given_back(path: Path, writer: WriteSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "PROBE_BYTES", 2_000_000)
    writer.begin()
    writes.check(writer)
    assert writer.one("SELECT count(*) FROM probe") == (0,)
    writer.commit()
    with closing(Compactor(path)) as session:
        free = number(session._connection, "freelist_count")
        for bound, worth in ((free, False), (free - 1, True)):
            monkeypatch.setattr(compactor, "MIN_FREE", bound)
            assert session.compact() is worth
        writer.begin()
        retention.vacuum(writer)
        writer.commit()
        assert number(session._connection, "freelist_count") == free - retention.VACUUM_PAGES


def a_run(run_id: str, key: str | None = None) -> RunRecord:
    return RunRecord(run_id, "chain", "stream", "ann", created_at=1.0, key=key)


def test_an_append_asks_nothing_about_an_own_run(writer: WriteSession) -> None:
    for run_id in ("a", "b"):
        writer.begin()
        writes.acquire(writer, a_run(run_id), alone=False)
        writer.commit()
    said: list[str] = []
    writer._connection.set_trace_callback(said.append)
    for first in (1, 2):
        writer.begin()
        for run_id in ("a", "b"):
            writes.append(writer, run_id, 1, first, [b"x"], None)
        writer.commit()
    kinds = [line.split("(")[0].strip() for line in said]
    assert kinds == ["BEGIN IMMEDIATE", *kinds[1:2], "INSERT INTO blocks", "COMMIT"] * 2
    assert "FROM workers" in kinds[1]


def test_a_run_found_by_its_key_has_the_blocks_of_this_moment(writer: WriteSession) -> None:
    writer.begin()
    writes.acquire(writer, a_run("run", "key"), alone=False)
    writes.append(writer, "run", 1, 1, [b"a", b"b"], None)
    found, new = writes.acquire(writer, a_run("again", "key"), alone=False)
    writer.commit()
    assert (found.run_id, found.last_id, new) == ("run", 2, False)


def test_a_run_dropped_in_the_transaction_of_its_end_leaves_none(path: Path) -> None:
    dropped: list[list[str]] = []
    bounds = type(DEFAULT_BOUNDS)(max_runs=0)
    with closing(WriteSession(path, Worker(10.0, lambda: 1_000.0), bounds, dropped.append)) as session:
        session.begin()
        writes.acquire(session, a_run("run"), alone=False)
        writes.append(session, "run", 1, 1, [b"a"], Outcome("done"))
        session.commit()
        assert session._connection.execute("SELECT count(*) FROM blocks").fetchone() == (0,)
        for _ in range(2):
            session.begin()
            session.commit()
    assert dropped == [["run"]]


def test_past_their_maximum_the_oldest_tombstones_go(writer: WriteSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_TOMBSTONES", 2)
    for number, now in enumerate((1_000.0, 1_001.0, 1_002.0)):
        writer.worker.clock = lambda now=now: now  # type: ignore[misc]
        writer.begin()
        writes.acquire(writer, a_run(f"run-{number}"), alone=False)
        writes.append(writer, f"run-{number}", 1, 1, [b"x"], Outcome("done"))
        retention.purge(writer, f"run-{number}")
        more, _ = retention.reap(writer, now)
        writer.commit()
        assert more is False
    left = writer._connection.execute("SELECT run_id FROM runs ORDER BY number").fetchall()
    assert left == [("run-1",), ("run-2",)]


def test_a_signal_that_nobody_takes_is_dropped_in_time(path: Path, writer: WriteSession) -> None:
    with closing(a_writer(path)) as other:
        writer.begin()
        writes.acquire(writer, a_run("run"), alone=False)
        writer.commit()
        other.begin()
        assert writes.request_cancel(other, "run") is False
        assert writes.request_cancel(other, "unknown") is False
        other.commit()
    for later, left in ((0.0, 1), (retention.SIGNAL_LIFE, 1), (retention.SIGNAL_LIFE + 1, 0)):
        writer.begin()
        retention.reap(writer, 1_000.0 + later)
        assert writer.one("SELECT count(*) FROM signals") == (left,)
        writer.commit()


def test_a_run_of_another_worker_is_fenced(path: Path, writer: WriteSession) -> None:
    writer.begin()
    writes.acquire(writer, a_run("run"), alone=False)
    writer.commit()
    with closing(a_writer(path)) as other:
        other.begin()
        with pytest.raises(writes.Fenced):  # although it names the right attempt
            writes.append(other, "run", 1, 1, [b"x"], None)
        other.commit()


def test_a_new_connection_finds_the_runs_of_its_worker(path: Path, writer: WriteSession) -> None:
    writer.begin()
    writes.acquire(writer, a_run("run"), alone=False)
    writes.append(writer, "run", 1, 1, [b"a", b"b"], None)
    writer.commit()
    with closing(WriteSession(path, writer.worker, DEFAULT_BOUNDS, lambda _run_ids: None)) as again:
        again.begin()
        with pytest.raises(writes.Fenced):
            writes.append(again, "run", 2, 3, [b"c"], None)
        with pytest.raises(writes.Gap):
            writes.append(again, "run", 1, 4, [b"d"], None)
        assert writes.append(again, "run", 1, 3, [b"c"], Outcome("done")) == 4
        assert again.one("SELECT runs, bytes FROM totals") == (1, 3)
        again.commit()
