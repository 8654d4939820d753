"""Take over the runs of dead workers, and remove their readers."""

import json
from collections.abc import Sequence

from streamserve.stores.base import RunRecord
from streamserve.stores.sqlite.session import WriteSession

# Runs taken over in one transaction.
MAX_RUNS = 100


def take_over_lost(session: WriteSession, given_up: Sequence[str]) -> tuple[list[RunRecord], list[str]]:
    """Take over the runs of dead workers, as RunStore.take_over_lost promises.

    Args:
        session: session in a transaction.
        given_up: ids of runs of this worker that nobody writes any more.

    Returns:
        The runs, and the ids of runs of this worker whose readers died.
    """
    session.renew()
    worker = session.worker
    lost = session.do(
        "SELECT number, run_id FROM runs WHERE end_number IS NULL AND worker = ?"
        " AND run_id IN (SELECT value FROM json_each(?))",
        *(worker.name, json.dumps(given_up)),
    ).fetchall()
    now = worker.clock()
    # After a time when nobody could write, the others need a moment to renew their leases.
    if now < worker.failed_at + worker.lease / 2:
        return [_take_over(session, *run) for run in lost], []
    dead = session.do("SELECT worker FROM workers WHERE until < ?", now).fetchall()
    unread = [run_id for (name,) in dead for run_id in remove_worker(session, name)]
    lost += session.do(
        "SELECT number, run_id FROM runs WHERE end_number IS NULL"
        " AND worker NOT IN (SELECT worker FROM workers) LIMIT ?",
        MAX_RUNS,
    ).fetchall()
    return [_take_over(session, *run) for run in lost], unread


def leave(session: WriteSession) -> None:
    """Give up this worker's lease."""
    remove_worker(session, session.worker.name)


def remove_worker(session: WriteSession, name: str) -> list[str]:
    """Remove a worker and its readers, and signal the owners. Return the runs of them that this worker owns."""
    read = session.do("DELETE FROM readers WHERE worker = ? RETURNING run_id", name).fetchall()
    session.do("DELETE FROM workers WHERE worker = ?", name)
    return [run_id for (run_id,) in read if session.signal(run_id, "readers")]


def _take_over(session: WriteSession, number: int, run_id: str) -> RunRecord:
    taken = "UPDATE runs SET attempt = attempt + 1, worker = ? WHERE number = ? RETURNING request"
    ((request,),) = session.do(taken, session.worker.name, number).fetchall()
    session.own_runs.pop(run_id, None)
    record = session.record("number = ?", number)
    assert record is not None
    record.request = request
    return record
