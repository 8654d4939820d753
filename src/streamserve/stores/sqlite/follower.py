"""Hears what other processes store: a thread that asks `PRAGMA data_version` and reads the log when it has moved."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from streamserve.stores.sqlite.journal import Journal, entries
from streamserve.stores.sqlite.reads import last_piece
from streamserve.stores.sqlite.rows import Piece
from streamserve.stores.sqlite.schema import connect

logger = logging.getLogger(__name__)

# Pause between looks while runs of other processes are read here, in seconds: a block waits half of it on average.
FOLLOW_PAUSE = 0.001
# The same while there are only runs of this process: signals to them may wait longer.
SIGNAL_PAUSE = 0.05
# Pause after a failure.
FAILURE_PAUSE = 0.25


class News(NamedTuple):
    """What was heard in one look.

    Args:
        pieces: of followed runs, by id.
        signals: kind and run's id.
        started: followed from now on: their readers look again.
    """

    pieces: Sequence[tuple[str, Piece]]
    signals: Sequence[tuple[str, str]]
    started: Sequence[str]


class Follower:
    """The thread; all its methods are called from the event loop.

    Args:
        path: of the file.
        worker: gives this worker's name.
        on_news: called in the event loop.
    """

    def __init__(self, path: Path, worker: Callable[[], str], on_news: Callable[[News], None]) -> None:
        self._path = path
        self._worker = worker
        self._on_news = on_news
        self._loop = asyncio.get_running_loop()
        self._wanted: frozenset[str] = frozenset()
        self._listening = False
        self._stopping = False
        self._changed = threading.Event()
        self._runs: dict[int, str] = {}
        self._followed: set[str] = set()
        self._last_id = self._last_signal = 0
        self._version = -1
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="store follower", daemon=True)
        self._thread.start()

    def follow(self, run_ids: frozenset[str], *, listening: bool) -> None:
        """Says what to hear of from now on.

        Args:
            run_ids: runs of other processes.
            listening: whether there may be signals: this process has live runs.
        """
        self._wanted, self._listening = run_ids, listening
        self._changed.set()

    async def stop(self) -> None:
        """Ends the thread."""
        self._stopping = True
        self._changed.set()
        await self._stopped.wait()
        self._thread.join()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while not self._stopping:
            try:
                connection = connection or self._connected()
                self._look(connection)
                self._rest()
            except Exception:
                logger.warning("the store's news cannot be read", exc_info=True)
                if connection is not None:
                    connection.close()
                connection = None
                self._changed.wait(FAILURE_PAUSE)
        if connection is not None:
            connection.close()
        self._loop.call_soon_threadsafe(self._stopped.set)

    def _connected(self) -> sqlite3.Connection:
        connection = connect(self._path)
        self._journal = Journal(connection)
        self._runs, self._followed, self._version, self._last_id = {}, set(), -1, 0
        return connection

    def _rest(self) -> None:
        if not self._wanted and not self._listening:
            self._changed.wait()
        else:
            self._changed.wait(FOLLOW_PAUSE if self._wanted else SIGNAL_PAUSE)
        self._changed.clear()

    def _look(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        wanted = self._wanted
        if version == self._version and wanted == self._followed:
            return
        connection.execute("BEGIN")
        news = self._news(connection, wanted)
        connection.execute("COMMIT")
        self._version = version
        if any(news):
            self._loop.call_soon_threadsafe(self._on_news, news)

    def _news(self, connection: sqlite3.Connection, wanted: frozenset[str]) -> News:
        signals = connection.execute(
            "SELECT id, kind, run_id FROM signals WHERE id > ? AND worker = ? ORDER BY id",
            (self._last_signal, self._worker()),
        ).fetchall()
        if signals:
            self._last_signal = signals[-1][0]
        # Without runs of others to read, the journal is none of its business: here it is this process that fills it.
        pieces = self._new_pieces(connection) if wanted else []
        started = self._start(connection, wanted) if wanted != self._followed else []
        return News([*pieces, *started], [signal[1:] for signal in signals], [run_id for run_id, _ in started])

    def _new_pieces(self, connection: sqlite3.Connection) -> list[tuple[str, Piece]]:
        first_id, last_id = connection.execute(
            "SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM journal"
        ).fetchone()
        pieces: list[tuple[str, Piece]] = []
        if first_id > self._last_id + 1:
            self._followed = set()  # some was moved on before it was seen: all begin anew
        elif self._runs and last_id > self._last_id:
            rows = connection.execute("SELECT head, data FROM journal WHERE id > ? ORDER BY id", (self._last_id,))
            pieces = [
                (self._runs[entry.run], entry.piece(data)) for head, data in rows for entry in entries(head, self._runs)
            ]
        self._last_id = last_id
        return pieces

    def _start(self, connection: sqlite3.Connection, wanted: frozenset[str]) -> list[tuple[str, Piece]]:
        """Follows other runs than before; the newest piece of each new one tells readers that came too late for it."""
        started: list[tuple[str, Piece]] = []
        for known, run_id in list(self._runs.items()):
            if run_id not in wanted:
                del self._runs[known]
        for run_id in wanted - self._followed:
            found = connection.execute(
                "SELECT number FROM runs WHERE run_id = ? AND forget_at IS NULL", (run_id,)
            ).fetchone()
            if found is None:
                continue
            number: int = found[0]
            self._runs[number] = run_id
            self._journal.refresh()
            if newest := self._journal.last_piece(number) or last_piece(connection, number):
                started.append((run_id, newest))
        self._followed = set(wanted)
        return started
