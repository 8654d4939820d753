"""Write to the runs of this worker, and signal the owners of others."""

import json
from collections.abc import Sequence

from streamserve.stores.base import Fenced, Gap, Outcome, RunRecord, ThreadLocked, UnknownRun
from streamserve.stores.sqlite.retention import keep_bounds
from streamserve.stores.sqlite.rows import NAMED
from streamserve.stores.sqlite.session import OwnRun, WriteSession

# A file with room for a row may have none for one more page.
PROBE_BYTES = 32 * 2**10


def check(session: WriteSession) -> None:
    """Fail if the file takes nothing more."""
    session.do("INSERT INTO probe VALUES (zeroblob(?))", PROBE_BYTES)
    session.do("DELETE FROM probe")


def acquire(session: WriteSession, run: RunRecord, alone: bool) -> tuple[RunRecord, bool]:
    """Store a new run or find the one with its key, as RunStore.acquire promises."""
    if run.key is not None:
        found = session.record(NAMED, run.key)
        if found:
            return found, False
    if alone:
        holder = session.one(
            "SELECT run_id FROM runs WHERE thread = ? AND end_number IS NULL ORDER BY number LIMIT 1", run.thread
        )
        if holder:
            raise ThreadLocked(holder[0])
    _insert(session, run)
    return run, True


def restore(session: WriteSession, run: RunRecord) -> None:
    """Store the record of a lost run, as RunStore.restore promises."""
    if not session.one("SELECT 1 FROM runs WHERE run_id = ?", run.run_id):
        _insert(session, run)


def _insert(session: WriteSession, run: RunRecord) -> None:
    cursor = session.do(
        "INSERT INTO runs (run_id, worker, chain, endpoint, principal, created_at, key, fingerprint, attempt,"
        " thread, request) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *(run.run_id, session.worker.name, run.chain, run.endpoint, run.principal, run.created_at),
        *(run.key, run.fingerprint, run.attempt, run.thread, run.request),
    )
    assert cursor.lastrowid is not None
    session.own_runs[run.run_id] = OwnRun(cursor.lastrowid, run.attempt)


def append(
    session: WriteSession,
    run_id: str,
    attempt: int,
    first_seq: int,
    blocks: Sequence[bytes],
    outcome: Outcome | None,
) -> int:
    """Store blocks of a run, as RunStore.append promises."""
    run = session.own_runs.get(run_id) or _find(session, run_id, attempt)
    if isinstance(run, int):  # it has ended
        if first_seq + len(blocks) > run + 1:
            raise Fenced(run_id)
        return run + 1
    if run.attempt != attempt:
        raise Fenced(run_id)
    expected = run.last_id + 1
    if first_seq > expected:
        raise Gap(expected)
    fresh = blocks[expected - first_seq :]
    if fresh or outcome is not None:
        session.add(run, fresh)
    if outcome is not None:
        _end(session, run_id, run, outcome)
    return run.last_id + 1


def _find(session: WriteSession, run_id: str, attempt: int) -> OwnRun | int:
    """Return a run that this connection does not know yet; of an ended run only the number of its last block."""
    row = session.one(
        "SELECT number, attempt, worker, end_number, last_id, forget_at FROM runs WHERE run_id = ?", run_id
    )
    if row is None:
        raise UnknownRun(run_id)
    number, stored_attempt, owner, end_number, last_id, forget_at = row
    if stored_attempt != attempt or forget_at is not None:
        raise Fenced(run_id)
    if end_number is not None:
        return int(last_id)
    if owner != session.worker.name:
        raise Fenced(run_id)
    return session.own(run_id, number, attempt)


def _end(session: WriteSession, run_id: str, run: OwnRun, outcome: Outcome) -> None:
    del session.own_runs[run_id]
    now = session.worker.clock()
    size = run.size + len(outcome.output or b"")
    total = session.one(
        "UPDATE totals SET ends = ends + 1, runs = runs + 1, bytes = bytes + ? RETURNING ends, runs, bytes", size
    )
    assert total is not None
    error = json.dumps(outcome.error) if outcome.error is not None else None
    session.do(
        "UPDATE runs SET status = ?, error = ?, output = ?, ended_at = ?, expires_at = ?, last_id = ?, size = ?,"
        " end_number = ?, request = NULL WHERE number = ?",
        *(outcome.status, error, outcome.output, now, now + session.bounds.retention, run.last_id, size),
        *(total[0], run.number),
    )
    keep_bounds(session, total[1], total[2])


def request_cancel(session: WriteSession, run_id: str) -> bool:
    """Signal a live run's owner; return True if that is this worker. A cancelled run is not recovered."""
    session.do("UPDATE runs SET request = NULL WHERE run_id = ? AND request IS NOT NULL", run_id)
    return session.signal(run_id, "cancel")


def set_reading(session: WriteSession, run_id: str, reading: bool) -> None:
    """Set whether this worker has readers of a run, and signal the run's owner."""
    worker = session.worker
    if reading:
        worker.reading.add(run_id)
        session.do("INSERT OR IGNORE INTO readers VALUES (?, ?)", run_id, worker.name)
    else:
        worker.reading.discard(run_id)
        session.do("DELETE FROM readers WHERE run_id = ? AND worker = ?", run_id, worker.name)
    session.signal(run_id, "readers")
