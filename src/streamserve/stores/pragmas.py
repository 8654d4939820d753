"""Pragmas that a SQLite file keeps."""

import sqlite3
from time import monotonic, sleep

# Seconds between two tries: another process's change takes milliseconds.
RETRY_INTERVAL = 0.01


def set_in_file(connection: sqlite3.Connection, *pragmas: str, limit: float = 15.0) -> None:
    """Set pragmas that a SQLite file keeps, while other processes may do the same with a new file.

    SQLite's own timeout does not cover a change of the journal's mode: two processes that both want to change it would
    wait for each other, so one of them fails at once and must try again.

    Args:
        connection: a connection outside a transaction.
        pragmas: each as `name = value`, in their order.
        limit: seconds to try; default: 15.

    Raises:
        sqlite3.OperationalError: the file is locked for `limit` seconds, or something else is wrong with it.
    """
    end = monotonic() + limit
    for pragma in pragmas:
        while True:
            last_try = monotonic() > end
            try:
                connection.execute(f"PRAGMA {pragma}")
                break
            except sqlite3.OperationalError as error:
                if last_try or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            sleep(RETRY_INTERVAL)
