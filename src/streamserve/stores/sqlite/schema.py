"""The tables of the file, and how to connect to it."""

import sqlite3
from pathlib import Path

from streamserve.stores.pragmas import set_in_file
from streamserve.stores.private_file import make_private

VERSION = 3
# Seconds that a connection waits for another process's transaction, which takes milliseconds.
BUSY_TIMEOUT = 5.0
# KiB of written pages that SQLite may keep in memory per connection.
CACHE_KIB = 8192

# A row of `blocks` holds what one append stored. Its id only ever grows, so that other processes find what is new with
# one query. An append goes to the table's last page and to one page of the index: clustering the table by run would
# write a page of its own for each run of a transaction, twice as much CPU and three times as many bytes.
TABLES = """
CREATE TABLE IF NOT EXISTS workers (worker TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE, worker TEXT NOT NULL,
    chain TEXT NOT NULL, endpoint TEXT NOT NULL, principal TEXT NOT NULL, created_at REAL NOT NULL,
    key TEXT, fingerprint TEXT NOT NULL, attempt INTEGER NOT NULL, status TEXT, last_id INTEGER,
    ended_at REAL, expires_at REAL, error TEXT, output BLOB, end_number INTEGER, size INTEGER NOT NULL DEFAULT 0,
    forget_at REAL, thread TEXT, request BLOB
);
CREATE UNIQUE INDEX IF NOT EXISTS runs_by_key ON runs (key) WHERE key IS NOT NULL AND forget_at IS NULL;
CREATE INDEX IF NOT EXISTS live_runs ON runs (worker) WHERE end_number IS NULL;
CREATE INDEX IF NOT EXISTS live_threads ON runs (thread) WHERE end_number IS NULL AND thread IS NOT NULL;
CREATE INDEX IF NOT EXISTS ended_runs ON runs (end_number) WHERE end_number IS NOT NULL AND forget_at IS NULL;
CREATE INDEX IF NOT EXISTS tombstones ON runs (forget_at) WHERE forget_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    sizes BLOB, data BLOB NOT NULL
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
    """Another version of StreamServe made the file."""


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection that begins no transaction by itself; give a new file its tables.

    With `synchronous=NORMAL` a commit is with the operating system, so it survives the process (kill -9). A power
    failure may take the last moment's commits, and leaves the file whole. A sync per commit costs each token 1-10 ms.

    Args:
        path: path of the file; its folder is made.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    make_private(path)
    # One OS thread uses a connection, and another one may close it.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        # Both are kept in the file. To set them again would be a transaction that other writers wait for.
        set_in_file(connection, "auto_vacuum = INCREMENTAL", "journal_mode = WAL")
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise OtherVersion(f"{path} has version {version}, not {VERSION}: move the file away, or name another")
