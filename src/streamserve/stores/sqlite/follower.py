"""Follow what other processes store: an OS thread polls `PRAGMA data_version` and reads new rows after a change."""

import asyncio
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from streamserve.stores.sqlite.rows import unpack
from streamserve.stores.sqlite.schema import connect

logger = logging.getLogger(__name__)

# Seconds between two polls while runs of other processes are read here: a block waits half of that on average.
FOLLOW_PAUSE = 0.001
# The same while there are only runs of this process: signals to them may wait longer.
SIGNAL_PAUSE = 0.05
# Seconds of pause after a failure.
FAILURE_PAUSE = 0.25

# Columns of a piece. A live run has no last_id, so that NULL stands for False.
PIECE = "run, first_seq, sizes, data, last_seq = (SELECT last_id FROM runs WHERE number = run)"


class Piece(NamedTuple):
    """Consecutive blocks of a run: one or more, or none if only the run's end is new."""

    run_id: str
    first_seq: int
    blocks: Sequence[bytes]
    at_end: bool


# Called with the new pieces of followed runs, and with the signals to this worker: kinds and runs' ids.
OnNews = Callable[[Sequence[Piece], Sequence[tuple[str, str]]], None]


class Follower:
    """The OS thread that follows other processes. Its methods are called in the event loop.

    Args:
        path: path of the file.
        worker: returns this worker's name.
        on_news: called in the event loop.
    """

    def __init__(self, path: Path, worker: Callable[[], str], on_news: OnNews) -> None:
        self._path = path
        self._worker = worker
        self._on_news = on_news
        self._loop = asyncio.get_running_loop()
        self._wanted: frozenset[str] = frozenset()
        self._listening = False
        self._stopping = False
        self._changed = threading.Event()
        self._last_id = self._last_signal = 0
        self._connection: sqlite3.Connection | None = None
        self._stopped = asyncio.Event()
        self._begin()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="store follower", daemon=True)
        self._thread.start()

    def follow(self, run_ids: frozenset[str], *, listening: bool) -> None:
        """Set the runs to follow.

        Args:
            run_ids: ids of runs of other processes.
            listening: whether to poll for signals: this process has live runs.
        """
        self._wanted, self._listening = run_ids, listening
        self._changed.set()

    async def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._changed.set()
        await self._stopped.wait()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._changed.wait(self._step())
            self._changed.clear()
        self._disconnect()
        self._loop.call_soon_threadsafe(self._stopped.set)

    def _step(self) -> float | None:
        """Poll once; return the seconds until the next poll; None: until something changes."""
        try:
            self._connection = self._connection or self._connected()
            self._poll(self._connection)
        except Exception:
            logger.warning("the store's news cannot be read", exc_info=True)
            self._disconnect()
            return FAILURE_PAUSE
        if not self._wanted and not self._listening:
            return None
        return FOLLOW_PAUSE if self._wanted else SIGNAL_PAUSE

    def _connected(self) -> sqlite3.Connection:
        connection = connect(self._path)
        self._runs: dict[int, str] = {}
        self._followed: frozenset[str] = frozenset()
        self._drops = 0
        self._version: int | None = None
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _poll(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        wanted = self._wanted
        if version == self._version and wanted == self._followed:
            return
        connection.execute("BEGIN")
        signals = self._new_signals(connection) + self._new_drops(connection, wanted)
        pieces = self._new_pieces(connection, wanted)
        connection.execute("COMMIT")
        self._version = version
        if pieces or signals:
            self._loop.call_soon_threadsafe(self._on_news, pieces, signals)

    def _new_signals(self, connection: sqlite3.Connection) -> list[tuple[str, str]]:
        signals = connection.execute(
            "SELECT id, kind, run_id FROM signals WHERE id > ? AND worker = ? ORDER BY id",
            (self._last_signal, self._worker()),
        ).fetchall()
        if signals:
            self._last_signal = signals[-1][0]
        return [(kind, run_id) for _, kind, run_id in signals]

    def _new_drops(self, connection: sqlite3.Connection, wanted: frozenset[str]) -> list[tuple[str, str]]:
        # Readers here may not have seen the end of a dropped run yet, and now never will.
        (drops,) = connection.execute("SELECT ends - runs FROM totals").fetchone()
        if not wanted or (drops == self._drops and wanted == self._followed):
            return []
        self._drops = drops
        kept = connection.execute(
            "SELECT run_id FROM runs WHERE run_id IN (SELECT value FROM json_each(?)) AND forget_at IS NULL",
            (json.dumps(list(wanted)),),
        )
        return [("dropped", run_id) for run_id in wanted.difference(run_id for (run_id,) in kept)]

    def _new_pieces(self, connection: sqlite3.Connection, wanted: frozenset[str]) -> list[Piece]:
        """Return new pieces of the runs followed so far, and the newest piece of each run followed from now on."""
        pieces: list[Piece] = []
        if self._runs:
            rows = connection.execute(
                f"SELECT {PIECE} FROM blocks WHERE id > ? AND run IN (SELECT value FROM json_each(?)) ORDER BY id",  # noqa: S608
                (self._last_id, json.dumps(list(self._runs))),
            )
            pieces = [self._piece(*row) for row in rows]
        if wanted:
            (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM blocks").fetchone()
            self._last_id = max(self._last_id, newest)
        if wanted != self._followed:
            pieces += self._start(connection, wanted)
        return pieces

    def _start(self, connection: sqlite3.Connection, wanted: frozenset[str]) -> list[Piece]:
        # Readers that came too late for a run's newest piece look again because of it.
        self._runs = {number: run_id for number, run_id in self._runs.items() if run_id in wanted}
        started = []
        for run_id in wanted - self._followed:
            found = connection.execute(
                "SELECT number FROM runs WHERE run_id = ? AND forget_at IS NULL", (run_id,)
            ).fetchone()
            if found is None:
                continue
            self._runs[found[0]] = run_id
            newest = connection.execute(
                f"SELECT {PIECE} FROM blocks WHERE run = ? ORDER BY first_seq DESC LIMIT 1",  # noqa: S608 - constants
                found,
            ).fetchone()
            if newest is not None:
                started.append(self._piece(*newest))
        self._followed = wanted
        return started

    def _piece(self, run: int, first_seq: int, sizes: bytes | None, data: bytes, at_end: int) -> Piece:
        return Piece(self._runs[run], first_seq, unpack(sizes, data), bool(at_end))
