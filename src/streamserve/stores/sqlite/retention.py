"""What is dropped, and when; and how the blocks of ended runs are kept small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamserve.stores.base import Retained

if TYPE_CHECKING:
    from streamserve.stores.sqlite.keeper import Moved
    from streamserve.stores.sqlite.writes import Writes

# Runs dropped in one transaction: others wait as long as it takes.
MAX_DROPPED = 100
# A tombstone is a few hundred bytes; past this many the oldest are forgotten before their time.
MAX_TOMBSTONES = 100_000
# A signal to a worker that does not take it by then is of no use any more, in seconds.
SIGNAL_LIFE = 60.0
# Free pages given back to the file system in one transaction.
VACUUM_PAGES = 256
# One statement for all rows: the event loop would want its turn after each, and writers would wait for all of that.
MOVE = """
WITH parts AS MATERIALIZED (
    SELECT json_extract(value, '$[0]') AS run, json_extract(value, '$[1]') AS first_seq,
        json_extract(value, '$[2]') AS count, json_extract(value, '$[3]') AS kind,
        json_extract(value, '$[4]') + 1 AS sizes_at, json_extract(value, '$[5]') + 1 AS data_at,
        json_extract(value, '$[6]') AS length
    FROM json_each(?1)
)
INSERT INTO blocks
SELECT run, first_seq, count, kind, CASE WHEN count > 1 THEN substr(?2, sizes_at, 4 * count) END,
    substr(?3, data_at, length)
FROM parts WHERE EXISTS (SELECT 1 FROM runs WHERE number = run AND forget_at IS NULL AND sealed = 0)
"""


def keep_bounds(writes: Writes, runs: int, size: int) -> None:
    """Drops the oldest ended runs while there are too many or they are too large.

    Args:
        writes: the session.
        runs: ended and kept.
        size: of their blocks.
    """
    bounds = writes.bounds
    while runs > bounds.max_runs or (size > bounds.max_bytes and runs > 1):
        oldest = writes.connection.execute(
            "SELECT number, run_id, size FROM runs WHERE end_number IS NOT NULL AND forget_at IS NULL"
            " ORDER BY end_number LIMIT 1"
        ).fetchone()
        if oldest is None:
            return
        _drop(writes, *oldest)
        runs, size = runs - 1, size - oldest[2]


def reap(writes: Writes, now: float) -> tuple[bool, Retained]:
    """Drops some of what is past its time; whether there may be more, and what is left."""
    connection = writes.connection
    expired = connection.execute(
        "SELECT number, run_id, size FROM runs WHERE end_number IS NOT NULL AND forget_at IS NULL AND expires_at <= ?"
        " ORDER BY end_number LIMIT ?",
        (now, MAX_DROPPED),
    ).fetchall()
    for run in expired:
        _drop(writes, *run)
    connection.execute("DELETE FROM runs WHERE forget_at <= ?", (now,))
    connection.execute(
        "DELETE FROM runs WHERE number IN (SELECT number FROM runs WHERE forget_at IS NOT NULL"
        " ORDER BY forget_at DESC LIMIT -1 OFFSET ?)",
        (MAX_TOMBSTONES,),
    )
    connection.execute("DELETE FROM signals WHERE at < ?", (now - SIGNAL_LIFE,))
    left = connection.execute("SELECT runs, bytes FROM totals").fetchone()
    return len(expired) == MAX_DROPPED, Retained(*left)


def purge(writes: Writes, run_id: str) -> None:
    """As RunStore.purge."""
    row = writes.connection.execute(
        "SELECT number, run_id, size FROM runs WHERE run_id = ? AND end_number IS NOT NULL AND forget_at IS NULL",
        (run_id,),
    ).fetchone()
    if row is not None:
        _drop(writes, *row)


def _drop(writes: Writes, number: int, run_id: str, size: int) -> None:
    connection, forget_at = writes.connection, writes.identity.clock() + writes.bounds.tombstone
    connection.execute("DELETE FROM blocks WHERE run = ?", (number,))
    connection.execute("UPDATE runs SET output = NULL, forget_at = ? WHERE number = ?", (forget_at, number))
    connection.execute("UPDATE totals SET runs = runs - 1, bytes = bytes - ?", (size,))
    writes.dropped.append(run_id)


def move(writes: Writes, moved: Moved) -> None:
    """Moves a part of the journal into `blocks`, unless another process did; what was dropped or sealed is left out."""
    connection = writes.connection
    if connection.execute("SELECT min(id) FROM journal").fetchone() != (moved.first_id,):
        return
    connection.execute(MOVE, (moved.rows, moved.sizes, moved.data))
    if connection.execute("SELECT max(id) FROM journal").fetchone() == (moved.last_id,):
        connection.execute("INSERT INTO journal (head, data) VALUES (x'', x'')")  # from which ids count on
    connection.execute("DELETE FROM journal WHERE id <= ?", (moved.last_id,))


def seal(writes: Writes, run: int, pieces: Sequence[tuple[object, ...]]) -> None:
    """Replaces the blocks of an ended run by compressed pieces, unless it was dropped or sealed meanwhile."""
    changed = writes.connection.execute(
        "UPDATE runs SET sealed = 1 WHERE number = ? AND sealed = 0 AND forget_at IS NULL", (run,)
    ).rowcount
    if changed:
        writes.connection.execute("DELETE FROM blocks WHERE run = ?", (run,))
        writes.connection.executemany(
            "INSERT INTO blocks (run, first_seq, count, kind, sizes, data) VALUES (?, ?, ?, ?, ?, ?)",
            [(run, *piece) for piece in pieces],
        )


def vacuum(writes: Writes) -> None:
    """Gives free pages back to the file system."""
    writes.connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
