"""What a worker writes. Blocks of one transaction are collected and stored with few statements.

What this worker knows of its live runs is true as long as its row in `workers` stands: nobody else writes to them
before that row is gone, and each transaction looks at it first. That is the fence.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streamserve.stores.base import Fenced, Gap, Outcome, RunRecord, ThreadBusy, UnknownRun
from streamserve.stores.bounds import Bounds
from streamserve.stores.sqlite import retention, takeover
from streamserve.stores.sqlite.identity import Held, Identity
from streamserve.stores.sqlite.journal import Journal, Page, find_record
from streamserve.stores.sqlite.posted import Append, Posted
from streamserve.stores.sqlite.rows import PLAIN, TERMINAL
from streamserve.stores.sqlite.schema import connect
from streamserve.stores.sqlite.threads import Again

# A file that takes little may still take no more pages.
PROBE_BYTES = 32 * 2**10


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
        self._held = identity.held
        self._page = Page()
        self.journal = Journal(self._connection)

    @property
    def connection(self) -> sqlite3.Connection:
        """In a transaction, as a registered worker."""
        if not self._begun:
            self._connection.execute("BEGIN IMMEDIATE")
            self._begun = True
            if not self.one("SELECT 1 FROM workers WHERE worker = ?", self.identity.worker):
                if self._page:  # collected by one who was found dead
                    raise self._from_the_start()
                self._register()
        return self._connection

    @property
    def worker(self) -> str:
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
            raise self._from_the_start()
        if self.dropped:
            self._on_dropped(self.dropped)
            self.dropped = []

    def _from_the_start(self) -> Again:
        """Gives up the transaction and all that is held: this worker was found dead."""
        if self._begun:
            self._connection.execute("ROLLBACK")
            self._begun = False
        self._page.clear()
        self._rename()
        return Again()

    def close(self) -> None:
        """Rolls back what is not committed."""
        self._held.clear()
        self.identity.well_since = self.identity.clock()
        self._connection.close()

    def _register(self) -> None:
        identity = self.identity
        self._rename()
        self.do("INSERT INTO workers VALUES (?, ?)", identity.worker, identity.clock() + identity.lease)
        for run_id in identity.reading:
            self.do("INSERT INTO readers VALUES (?, ?)", run_id, identity.worker)

    def _rename(self) -> None:
        # What was found dead stays dead.
        self._held.clear()
        self.identity.worker = uuid.uuid4().hex

    def renew(self) -> None:
        """Renews this worker's lease."""
        until = self.identity.clock() + self.identity.lease
        self.do("UPDATE workers SET until = ? WHERE worker = ?", until, self.worker)

    def check(self) -> None:
        """Fails if the file takes nothing more."""
        self.renew()
        self.do("INSERT INTO probe VALUES (zeroblob(?))", PROBE_BYTES)
        self.do("DELETE FROM probe")

    def leave(self) -> None:
        """Gives up this worker's lease."""
        takeover.bury(self, self.worker)

    def acquire(self, run: RunRecord, alone: bool) -> tuple[RunRecord, bool]:
        """As RunStore.acquire."""
        if run.key is not None:
            self._page.store(self.connection)
            found = find_record(self.journal, "key = ? AND forget_at IS NULL", run.key)
            if found:
                return found, False
        if alone and run.thread is not None:
            holder = self.one(
                "SELECT run_id FROM runs WHERE thread = ? AND end_number IS NULL ORDER BY number LIMIT 1", run.thread
            )
            if holder:
                raise ThreadBusy(holder[0])
        self._insert(run)
        return run, True

    def restore(self, run: RunRecord) -> None:
        """As RunStore.restore."""
        if not self.one("SELECT 1 FROM runs WHERE run_id = ?", run.run_id):
            self._insert(run)

    def _insert(self, run: RunRecord) -> None:
        cursor = self.do(
            "INSERT INTO runs (run_id, worker, chain, endpoint, principal, created_at, key, fingerprint, attempt,"
            " thread) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(run.run_id, self.worker, run.chain, run.endpoint, run.principal, run.created_at),
            *(run.key, run.fingerprint, run.attempt, run.thread),
        )
        assert cursor.lastrowid is not None
        if run.request is not None:
            self.do("UPDATE runs SET request = ? WHERE number = ?", run.request, cursor.lastrowid)
        self._held[run.run_id] = Held(cursor.lastrowid, run.attempt, 0, 0)

    def store(self, posted: Posted) -> list[int | Exception] | None:
        """Stores what the event loop put together: None, or what became of each append if they are to be looked at."""
        if posted.worker == self.identity.worker:
            self._page.add_page(posted)
            return None
        return [self._tried(append) for append in posted.appends]

    def _tried(self, append: Append) -> int | Exception:
        try:
            return self.append(append.run_id, append.attempt, append.first_seq, append.blocks, None)
        except (Fenced, Gap) as refusal:
            return refusal

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

    def _load(self, run_id: str, attempt: int) -> Held | int:
        """What is not known of a run; of an ended one the number after its last block."""
        self._page.store(self.connection)
        row = self.one(
            "SELECT number, attempt, worker, last_id, forget_at, end_number FROM runs WHERE run_id = ?", run_id
        )
        if row is None:
            raise UnknownRun(run_id)
        number, stored_attempt, worker, last_id, forget_at, end_number = row
        if stored_attempt != attempt or forget_at is not None:
            raise Fenced(run_id)
        if end_number is not None:
            return int(last_id) + 1
        if worker != self.worker:
            raise Fenced(run_id)
        last_id, size = self.extent(number)
        held = self._held[run_id] = Held(number, attempt, last_id, size)
        return held

    def extent(self, number: int) -> tuple[int, int]:
        """Number of a run's last block, or 0, and the size of all."""
        row = self.one(
            "SELECT coalesce(max(first_seq + count - 1), 0), coalesce(sum(length(data)), 0) FROM blocks WHERE run = ?",
            number,
        )
        assert row is not None
        self.journal.refresh()
        last_id, size = self.journal.extent(number)
        return max(row[0], last_id), row[1] + size

    def _end(self, run_id: str, held: Held, outcome: Outcome) -> None:
        del self._held[run_id]
        now = self.identity.clock()
        total = self.one(
            "UPDATE totals SET ends = ends + 1, runs = runs + 1, bytes = bytes + ? RETURNING ends, runs, bytes",
            held.size,
        )
        assert total is not None
        error = json.dumps(outcome.error) if outcome.error is not None else None
        self.do(
            "UPDATE runs SET status = ?, error = ?, output = ?, ended_at = ?, expires_at = ?, last_id = ?, size = ?,"
            " end_number = ?, request = NULL WHERE number = ?",
            *(outcome.status, error, outcome.output, now, now + self.bounds.retention, held.last_id, held.size),
            *(total[0], held.number),
        )
        retention.keep_bounds(self, total[1], total[2])

    def request_cancel(self, run_id: str) -> bool:
        """True if this worker owns the live run; its owner elsewhere gets a signal. If it dies, nobody goes on."""
        self.do("UPDATE runs SET request = NULL WHERE run_id = ? AND request IS NOT NULL", run_id)
        return self.signal(run_id, "cancel")

    def set_reading(self, run_id: str, reading: bool) -> None:
        """As RunStore.set_reading."""
        worker = self.worker
        if reading:
            self.identity.reading.add(run_id)
            self.do("INSERT OR IGNORE INTO readers VALUES (?, ?)", run_id, worker)
        else:
            self.identity.reading.discard(run_id)
            self.do("DELETE FROM readers WHERE run_id = ? AND worker = ?", run_id, worker)
        self.signal(run_id, "readers")

    def signal(self, run_id: str, kind: str) -> bool:
        """Tells a live run's owner something; True, and nothing is told, if that is this worker."""
        row = self.one("SELECT worker FROM runs WHERE run_id = ? AND end_number IS NULL", run_id)
        if row is None:
            return False
        if row[0] == self.worker:
            return True
        signal = (row[0], kind, run_id, self.identity.clock())
        self.do("INSERT INTO signals (worker, kind, run_id, at) VALUES (?, ?, ?, ?)", *signal)
        return False

    def do(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Carries out a statement in the transaction."""
        return self.connection.execute(statement, values)

    def one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """The first row that a statement gives."""
        row: tuple[Any, ...] | None = self.do(statement, *values).fetchone()
        return row
