"""What a worker writes. Blocks of one transaction are collected and stored with few statements.

What this worker knows of its live runs is true as long as its row in `workers` stands: nobody else writes to them
before that row is gone, and each transaction looks at it first. That is the fence.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from streamserve.stores.base import Fenced, Gap, Outcome, RunRecord, ThreadBusy, UnknownRun
from streamserve.stores.bounds import Bounds
from streamserve.stores.sqlite import retention
from streamserve.stores.sqlite.journal import Journal, Page, find_record
from streamserve.stores.sqlite.rows import PLAIN, TERMINAL
from streamserve.stores.sqlite.schema import connect
from streamserve.stores.sqlite.threads import Again

# Runs taken over in one transaction.
MAX_TAKEN = 100
# A file that takes little may still take no more pages.
PROBE_BYTES = 32 * 2**10


@dataclass
class Identity:
    """Who this worker is: a new one after it was found dead. It outlives the connection.

    Args:
        lease: seconds without a sign of life after which its runs are lost.
        clock: seconds since the epoch.
    """

    lease: float
    clock: Callable[[], float]
    worker: str = field(default_factory=lambda: uuid.uuid4().hex)
    reading: set[str] = field(default_factory=set)
    well_since: float = 0.0


class Taken(NamedTuple):
    """Runs taken over, and runs of this worker whose readers died."""

    runs: list[RunRecord]
    left_by_readers: list[str]


@dataclass(slots=True)
class _Held:
    number: int
    attempt: int
    last_id: int
    size: int


class Writes:
    """The writer's session.

    Args:
        path: of the file.
        identity: of this worker.
        bounds: what is kept.
        on_dropped: called after a transaction with the ids of the runs whose blocks it dropped.
    """

    def __init__(self, path: Path, identity: Identity, bounds: Bounds, on_dropped: Callable[[list[str]], None]) -> None:
        self._connection = connect(path)
        self._begun = False
        self.bounds = bounds
        self.dropped: list[str] = []
        self._on_dropped = on_dropped
        self.identity = identity
        self._held: dict[str, _Held] = {}
        self._page = Page()
        self._journal = Journal(self._connection)

    @property
    def connection(self) -> sqlite3.Connection:
        """In a transaction, as a registered worker."""
        if not self._begun:
            self._connection.execute("BEGIN IMMEDIATE")
            self._begun = True
            if not self._one("SELECT 1 FROM workers WHERE worker = ?", self.identity.worker):
                self._register()
        return self._connection

    @property
    def _worker(self) -> str:
        """This worker as it is registered."""
        _ = self.connection
        return self.identity.worker

    def begin(self) -> None:
        """Leaves it to the first job that needs the file: most transactions only append, which takes one statement."""

    def commit(self) -> None:
        """Stores what was collected.

        Raises:
            Again: this worker was found dead, and nothing is stored.
        """
        if self._begun:
            self._page.store(self._connection)
            self._connection.execute("COMMIT")
            self._begun = False
        elif not self._page.store_as(self.identity.worker, self._connection):
            self._held.clear()
            raise Again
        if self.dropped:
            self._on_dropped(self.dropped)
            self.dropped = []

    def close(self) -> None:
        """Rolls back what is not committed."""
        self.identity.well_since = self.identity.clock()
        self._connection.close()

    def _register(self) -> None:
        # A new name each time: what was found dead stays dead.
        identity = self.identity
        identity.worker = uuid.uuid4().hex
        self._held.clear()
        self._do("INSERT INTO workers VALUES (?, ?)", identity.worker, identity.clock() + identity.lease)
        for run_id in identity.reading:
            self._do("INSERT INTO readers VALUES (?, ?)", run_id, identity.worker)

    def renew(self) -> None:
        """Renews this worker's lease."""
        until = self.identity.clock() + self.identity.lease
        self._do("UPDATE workers SET until = ? WHERE worker = ?", until, self._worker)

    def check(self) -> None:
        """Fails if the file takes nothing more."""
        self.renew()
        self._do("INSERT INTO probe VALUES (zeroblob(?))", PROBE_BYTES)
        self._do("DELETE FROM probe")

    def leave(self) -> None:
        """Gives up this worker's lease."""
        self.bury(self._worker)

    def acquire(self, run: RunRecord, alone: bool) -> tuple[RunRecord, bool]:
        """As RunStore.acquire."""
        if run.key is not None:
            self._page.store(self.connection)
            found = find_record(self._journal, "key = ? AND forget_at IS NULL", run.key)
            if found:
                return found, False
        if alone and run.thread is not None:
            holder = self._one(
                "SELECT run_id FROM runs WHERE thread = ? AND end_number IS NULL ORDER BY number LIMIT 1", run.thread
            )
            if holder:
                raise ThreadBusy(holder[0])
        self._insert(run)
        return run, True

    def restore(self, run: RunRecord) -> None:
        """As RunStore.restore."""
        if not self._one("SELECT 1 FROM runs WHERE run_id = ?", run.run_id):
            self._insert(run)

    def _insert(self, run: RunRecord) -> None:
        cursor = self._do(
            "INSERT INTO runs (run_id, worker, chain, endpoint, principal, created_at, key, fingerprint, attempt,"
            " thread) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(run.run_id, self._worker, run.chain, run.endpoint, run.principal, run.created_at),
            *(run.key, run.fingerprint, run.attempt, run.thread),
        )
        assert cursor.lastrowid is not None
        if run.request is not None:
            self._do("UPDATE runs SET request = ? WHERE number = ?", run.request, cursor.lastrowid)
        self._held[run.run_id] = _Held(cursor.lastrowid, run.attempt, 0, 0)

    def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None
    ) -> int:
        """As RunStore.append."""
        held = self._held.get(run_id) or self._load(run_id, attempt)
        if isinstance(held, int):
            if first_seq + len(blocks) <= held:
                return held
            raise Fenced(run_id)
        if held.attempt != attempt:
            raise Fenced(run_id)
        expected = held.last_id + 1
        if first_seq > expected:
            raise Gap(expected)
        fresh = blocks[expected - first_seq :]
        if fresh or outcome is not None:
            kind = TERMINAL if outcome is not None else PLAIN
            self._page.add(held.number, expected, kind, fresh)
        held.last_id += len(fresh)
        held.size += sum(map(len, fresh))
        if outcome is not None:
            self._end(run_id, held, outcome)
        return held.last_id + 1

    def _load(self, run_id: str, attempt: int) -> _Held | int:
        """What is not known of a run; of an ended one the number after its last block."""
        self._page.store(self.connection)
        row = self._one(
            "SELECT number, attempt, worker, last_id, forget_at, end_number FROM runs WHERE run_id = ?", run_id
        )
        if row is None:
            raise UnknownRun(run_id)
        number, stored_attempt, worker, last_id, forget_at, end_number = row
        if stored_attempt != attempt or forget_at is not None:
            raise Fenced(run_id)
        if end_number is not None:
            return int(last_id) + 1
        if worker != self._worker:
            raise Fenced(run_id)
        last_id, size = self._extent(number)
        held = self._held[run_id] = _Held(number, attempt, last_id, size)
        return held

    def _extent(self, number: int) -> tuple[int, int]:
        row = self._one(
            "SELECT coalesce(max(first_seq + count - 1), 0), coalesce(sum(length(data)), 0) FROM blocks WHERE run = ?",
            number,
        )
        assert row is not None
        self._journal.refresh()
        last_id, size = self._journal.extent(number)
        return max(row[0], last_id), row[1] + size

    def _end(self, run_id: str, held: _Held, outcome: Outcome) -> None:
        del self._held[run_id]
        now = self.identity.clock()
        total = self._one(
            "UPDATE totals SET ends = ends + 1, runs = runs + 1, bytes = bytes + ? RETURNING ends, runs, bytes",
            held.size,
        )
        assert total is not None
        error = json.dumps(outcome.error) if outcome.error is not None else None
        self._do(
            "UPDATE runs SET status = ?, error = ?, output = ?, ended_at = ?, expires_at = ?, last_id = ?, size = ?,"
            " end_number = ?, request = NULL WHERE number = ?",
            *(outcome.status, error, outcome.output, now, now + self.bounds.retention, held.last_id, held.size),
            *(total[0], held.number),
        )
        retention.keep_bounds(self, total[1], total[2])

    def request_cancel(self, run_id: str) -> bool:
        """True if this worker owns the live run; its owner elsewhere gets a signal. If it dies, nobody goes on."""
        self._do("UPDATE runs SET request = NULL WHERE run_id = ? AND request IS NOT NULL", run_id)
        return self.signal(run_id, "cancel")

    def set_reading(self, run_id: str, reading: bool) -> None:
        """As RunStore.set_reading."""
        worker = self._worker
        if reading:
            self.identity.reading.add(run_id)
            self._do("INSERT OR IGNORE INTO readers VALUES (?, ?)", run_id, worker)
        else:
            self.identity.reading.discard(run_id)
            self._do("DELETE FROM readers WHERE run_id = ? AND worker = ?", run_id, worker)
        self.signal(run_id, "readers")

    def signal(self, run_id: str, kind: str) -> bool:
        """Tells a live run's owner something; True, and nothing is told, if that is this worker."""
        row = self._one("SELECT worker FROM runs WHERE run_id = ? AND end_number IS NULL", run_id)
        if row is None:
            return False
        if row[0] == self._worker:
            return True
        signal = (row[0], kind, run_id, self.identity.clock())
        self._do("INSERT INTO signals (worker, kind, run_id, at) VALUES (?, ?, ?, ?)", *signal)
        return False

    def take_over_lost(self, given_up: Sequence[str]) -> Taken:
        """As RunStore.take_over_lost.

        Args:
            given_up: runs of this worker that nobody writes any more.
        """
        self.renew()
        now, lost = self.identity.clock(), self._still_own(given_up)
        # After a time when nobody could write, the others need a moment to renew their leases.
        if now < self.identity.well_since + self.identity.lease / 2:
            return Taken([self._take_over(*run) for run in lost], [])
        dead = self.connection.execute("SELECT worker FROM workers WHERE until < ?", (now,)).fetchall()
        left = [run_id for (worker,) in dead for run_id in self.bury(worker)]
        lost += self.connection.execute(
            "SELECT number, run_id FROM runs WHERE end_number IS NULL"
            " AND worker NOT IN (SELECT worker FROM workers) LIMIT ?",
            (MAX_TAKEN,),
        ).fetchall()
        return Taken([self._take_over(*run) for run in lost], left)

    def _still_own(self, run_ids: Sequence[str]) -> list[tuple[int, str]]:
        query = "SELECT number, run_id FROM runs WHERE run_id = ? AND worker = ? AND end_number IS NULL"
        found = (self._one(query, run_id, self._worker) for run_id in run_ids)
        return [(row[0], row[1]) for row in found if row]

    def bury(self, worker: str) -> list[str]:
        """Removes a worker and its readers; their runs' owners are told. Returns those that this worker owns."""
        read = self.connection.execute("DELETE FROM readers WHERE worker = ? RETURNING run_id", (worker,)).fetchall()
        self._do("DELETE FROM workers WHERE worker = ?", worker)
        return [run_id for (run_id,) in read if self.signal(run_id, "readers")]

    def _take_over(self, number: int, run_id: str) -> RunRecord:
        taker = self._worker
        self._do("UPDATE runs SET attempt = attempt + 1, worker = ? WHERE number = ?", taker, number)
        record = find_record(self._journal, "number = ?", number)
        assert record is not None
        (record.request,) = self._one("SELECT request FROM runs WHERE number = ?", number) or (None,)
        self._held[run_id] = _Held(number, record.attempt, *self._extent(number))
        return record

    def _do(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self.connection.execute(statement, values)

    def _one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._do(statement, *values).fetchone()
        return row
