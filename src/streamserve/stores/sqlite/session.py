"""The writer's session: one transaction after another, each as a registered worker."""

import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from streamserve.stores.base import RunRecord
from streamserve.stores.bounds import Bounds
from streamserve.stores.sqlite.rows import find_record, pack
from streamserve.stores.sqlite.schema import connect

# Many rows are stored with one statement: each one hands the interpreter lock to a busy event loop and waits for it.
INSERT_BLOCKS = "INSERT INTO blocks (run, first_seq, last_seq, sizes, data) VALUES (?, ?, ?, ?, ?)"


@dataclass
class Worker:
    """This process as the others see it: a worker with a lease. It outlives the connections to the file.

    Args:
        lease: seconds without a heartbeat after which the worker's runs are lost.
        clock: returns the seconds since the epoch.
        name: key of the worker in the file; a new one after another worker found this one dead.
        reading: ids of the runs that have readers here.
        failed_at: time of the last failure of the file, in seconds since the epoch.
    """

    lease: float
    clock: Callable[[], float]
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    reading: set[str] = field(default_factory=set)
    failed_at: float = 0.0


@dataclass(slots=True)
class OwnRun:
    """A live run of this worker. Nobody else writes to it while the worker is registered.

    Args:
        number: key of the run in the file.
        attempt: fencing token of the worker.
        last_id: sequence number of the last block; 0: there is none.
        size: bytes of the blocks.
    """

    number: int
    attempt: int
    last_id: int = 0
    size: int = 0


class WriteSession:
    """A connection that writes, and a cache of the worker's own runs.

    Each transaction first looks for this worker's row in `workers`. If another worker found this one dead, it removed
    the row and took the runs over: this worker then forgets them and registers under a new name. That is the fence.

    Args:
        path: path of the file.
        worker: this worker.
        bounds: bounds of the ended runs.
        on_dropped: called after a transaction with the ids of the runs that it dropped.
    """

    def __init__(self, path: Path, worker: Worker, bounds: Bounds, on_dropped: Callable[[list[str]], None]) -> None:
        self._connection = connect(path)
        self.worker = worker
        self.bounds = bounds
        self.own_runs: dict[str, OwnRun] = {}
        self.dropped: list[str] = []
        self._on_dropped = on_dropped
        self._rows: list[tuple[object, ...]] = []

    def begin(self) -> None:
        """Begin a transaction as a registered worker."""
        self._connection.execute("BEGIN IMMEDIATE")
        if not self.one("SELECT 1 FROM workers WHERE worker = ?", self.worker.name):
            self._register()

    def _register(self) -> None:
        worker = self.worker
        self.own_runs.clear()
        worker.name = uuid.uuid4().hex
        self.do("INSERT INTO workers VALUES (?, ?)", worker.name, worker.clock() + worker.lease)
        for run_id in worker.reading:
            self.do("INSERT INTO readers VALUES (?, ?)", run_id, worker.name)

    def commit(self) -> None:
        """Store the blocks that were added, and end the transaction."""
        self._store_rows()
        self._connection.execute("COMMIT")
        if self.dropped:
            self._on_dropped(self.dropped)
            self.dropped = []

    def close(self) -> None:
        """Close the connection, which rolls an open transaction back."""
        self.worker.failed_at = self.worker.clock()
        self._connection.close()

    def add(self, run: OwnRun, blocks: Sequence[bytes]) -> None:
        """Add the next blocks of a run. They are stored together with other runs', before the next statement."""
        first_seq = run.last_id + 1
        run.last_id += len(blocks)
        sizes, data = pack(blocks)
        run.size += len(data)
        self._rows.append((run.number, first_seq, run.last_id, sizes, data))

    def _store_rows(self) -> None:
        rows, self._rows = self._rows, []
        while rows:
            # Powers of two: a dozen statements serve all numbers of rows, and stay in the connection's cache.
            count = 1 << (len(rows).bit_length() - 1)
            self._connection.execute(INSERT_BLOCKS + ", (?, ?, ?, ?, ?)" * (count - 1), [*chain(*rows[:count])])
            rows = rows[count:]

    def do(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Execute a statement in the transaction."""
        self._store_rows()
        return self._connection.execute(statement, values)

    def one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """Return the first row of a statement's result."""
        row: tuple[Any, ...] | None = self.do(statement, *values).fetchone()
        return row

    def record(self, where: str, value: object) -> RunRecord | None:
        """Return the record of a run; see find_record."""
        self._store_rows()
        return find_record(self._connection, where, value)

    def own(self, run_id: str, number: int, attempt: int) -> OwnRun:
        """Return a live run of this worker, read from the file."""
        row = self.one(
            "SELECT coalesce(max(last_seq), 0), coalesce(sum(length(data)), 0) FROM blocks WHERE run = ?", number
        )
        assert row is not None
        run = self.own_runs[run_id] = OwnRun(number, attempt, *row)
        return run

    def renew(self) -> set[str]:
        """Renew this worker's lease; return the ids of its live runs."""
        worker = self.worker
        self.do("UPDATE workers SET until = ? WHERE worker = ?", worker.clock() + worker.lease, worker.name)
        found = self.do("SELECT run_id FROM runs WHERE worker = ? AND end_number IS NULL", worker.name)
        return {run_id for (run_id,) in found}

    def signal(self, run_id: str, kind: str) -> bool:
        """Send a signal to a live run's owner. Return True, and send nothing, if that is this worker."""
        (owner,) = self.one("SELECT worker FROM runs WHERE run_id = ? AND end_number IS NULL", run_id) or (None,)
        if owner not in (None, self.worker.name):
            signal = (owner, kind, run_id, self.worker.clock())
            self.do("INSERT INTO signals (worker, kind, run_id, at) VALUES (?, ?, ?, ?)", *signal)
        return bool(owner == self.worker.name)
