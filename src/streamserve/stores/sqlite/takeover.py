"""The runs and readers of workers that died."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from streamserve.stores.base import RunRecord
from streamserve.stores.sqlite.identity import Held
from streamserve.stores.sqlite.journal import find_record

if TYPE_CHECKING:
    from streamserve.stores.sqlite.writes import Writes

# Runs taken over in one transaction.
MAX_TAKEN = 100


class Taken(NamedTuple):
    """Runs taken over, and runs of this worker whose readers died."""

    runs: list[RunRecord]
    left_by_readers: list[str]


def take_over_lost(writes: Writes, given_up: Sequence[str]) -> Taken:
    """As RunStore.take_over_lost.

    Args:
        writes: the session.
        given_up: runs of this worker that nobody writes any more.
    """
    writes.renew()
    now, lost = writes.identity.clock(), _still_own(writes, given_up)
    # After a time when nobody could write, the others need a moment to renew their leases.
    if now < writes.identity.well_since + writes.identity.lease / 2:
        return Taken([_take_over(writes, *run) for run in lost], [])
    dead = writes.connection.execute("SELECT worker FROM workers WHERE until < ?", (now,)).fetchall()
    left = [run_id for (worker,) in dead for run_id in bury(writes, worker)]
    lost += writes.connection.execute(
        "SELECT number, run_id FROM runs WHERE end_number IS NULL"
        " AND worker NOT IN (SELECT worker FROM workers) LIMIT ?",
        (MAX_TAKEN,),
    ).fetchall()
    return Taken([_take_over(writes, *run) for run in lost], left)


def _still_own(writes: Writes, run_ids: Sequence[str]) -> list[tuple[int, str]]:
    query = "SELECT number, run_id FROM runs WHERE run_id = ? AND worker = ? AND end_number IS NULL"
    found = (writes.one(query, run_id, writes.worker) for run_id in run_ids)
    return [(row[0], row[1]) for row in found if row]


def bury(writes: Writes, worker: str) -> list[str]:
    """Removes a worker and its readers; their runs' owners are told. Returns those that this worker owns."""
    read = writes.connection.execute("DELETE FROM readers WHERE worker = ? RETURNING run_id", (worker,)).fetchall()
    writes.do("DELETE FROM workers WHERE worker = ?", worker)
    return [run_id for (run_id,) in read if writes.signal(run_id, "readers")]


def _take_over(writes: Writes, number: int, run_id: str) -> RunRecord:
    taker = writes.worker
    writes.do("UPDATE runs SET attempt = attempt + 1, worker = ? WHERE number = ?", taker, number)
    record = find_record(writes.journal, "number = ?", number)
    assert record is not None
    (record.request,) = writes.one("SELECT request FROM runs WHERE number = ?", number) or (None,)
    writes.identity.held[run_id] = Held(number, record.attempt, *writes.extent(number))
    return record
