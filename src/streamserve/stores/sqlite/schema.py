"""The file: its tables, and how a connection to it is made."""

from __future__ import annotations

import sqlite3
from pathlib import Path

VERSION = 2
# How long a connection waits for another process's transaction, in seconds; those take milliseconds.
BUSY_TIMEOUT = 5.0
# A commit writes whole pages, and three others whenever it begins a page: what it adds are 2 kB for ten runs, so that
# with 4096 nearly each one does, which takes twice the time. A file that is there keeps its own.
PAGE_BYTES = 8192
# Written pages that SQLite may keep in memory per connection, in KiB.
CACHE_KIB = 8192

# `journal` takes what is appended; other processes read what is new there with one query, whatever the run.
TABLES = """
CREATE TABLE IF NOT EXISTS workers (worker TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE, worker TEXT NOT NULL,
    chain TEXT NOT NULL, endpoint TEXT NOT NULL, principal TEXT NOT NULL, created_at REAL NOT NULL,
    key TEXT, fingerprint TEXT NOT NULL, attempt INTEGER NOT NULL, status TEXT, last_id INTEGER,
    ended_at REAL, expires_at REAL, error TEXT, output BLOB, end_number INTEGER, size INTEGER NOT NULL DEFAULT 0,
    sealed INTEGER NOT NULL DEFAULT 0, forget_at REAL, thread TEXT, request BLOB
);
CREATE UNIQUE INDEX IF NOT EXISTS runs_by_key ON runs (key) WHERE key IS NOT NULL AND forget_at IS NULL;
CREATE INDEX IF NOT EXISTS live_runs ON runs (worker) WHERE end_number IS NULL;
CREATE INDEX IF NOT EXISTS live_threads ON runs (thread) WHERE end_number IS NULL AND thread IS NOT NULL;
CREATE INDEX IF NOT EXISTS ended_runs ON runs (end_number) WHERE end_number IS NOT NULL AND forget_at IS NULL;
CREATE INDEX IF NOT EXISTS unsealed_runs ON runs (end_number)
    WHERE end_number IS NOT NULL AND forget_at IS NULL AND sealed = 0;
CREATE INDEX IF NOT EXISTS tombstones ON runs (forget_at) WHERE forget_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS journal (id INTEGER PRIMARY KEY, head BLOB NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    run INTEGER NOT NULL, first_seq INTEGER NOT NULL, count INTEGER NOT NULL, kind INTEGER NOT NULL, sizes BLOB,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS blocks_of_run ON blocks (run, first_seq);
CREATE TABLE IF NOT EXISTS totals (one INTEGER PRIMARY KEY, ends INTEGER, runs INTEGER, bytes INTEGER);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0);
CREATE TABLE IF NOT EXISTS readers (run_id TEXT, worker TEXT, PRIMARY KEY (run_id, worker)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signals (
    id INTEGER PRIMARY KEY AUTOINCREMENT, worker TEXT NOT NULL, kind TEXT NOT NULL, run_id TEXT NOT NULL, at REAL
);
CREATE TABLE IF NOT EXISTS probe (data BLOB);
"""


class OtherVersion(sqlite3.OperationalError):
    """The file was made by another version of StreamServe."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection without transactions of its own accord; a new file gets its tables.

    `synchronous=NORMAL`: a commit is with the operating system, so it survives the process (kill -9). A power failure
    may take the last moment's commits, and leaves the file whole; a sync per commit would cost every token 1-10 ms.

    Args:
        path: of the file; its folder is made.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Each connection is used by one thread, and closed by another.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise OtherVersion(f"the file has version {version}, this is {VERSION}")
