"""Drop ended runs past their time or past the bounds."""

from streamserve.stores.base import Retained
from streamserve.stores.sqlite.session import WriteSession

# Runs dropped in one transaction: others wait as long as it takes.
MAX_DROPPED = 100
# A tombstone is a few hundred bytes. Past this many, the oldest are forgotten before their time.
MAX_TOMBSTONES = 100_000
# Seconds after which a signal that its worker did not take is of no use.
SIGNAL_LIFE = 60.0
# Free pages given back to the file system in one transaction.
VACUUM_PAGES = 256

ENDED = "SELECT number, run_id, size FROM runs WHERE end_number IS NOT NULL AND forget_at IS NULL"


def keep_bounds(session: WriteSession, runs: int, size: int) -> None:
    """Drop the oldest ended runs while there are too many or they are too large.

    Args:
        session: session in a transaction.
        runs: number of ended runs.
        size: bytes of their blocks.
    """
    bounds = session.bounds
    while runs > bounds.max_runs or (size > bounds.max_bytes and runs > 1):
        oldest = session.one(f"{ENDED} ORDER BY end_number LIMIT 1")
        if oldest is None:
            return
        _drop(session, *oldest)
        runs, size = runs - 1, size - oldest[2]


def reap(session: WriteSession, now: float) -> tuple[bool, Retained]:
    """Drop some of the runs past their time. Return whether there may be more, and what is left."""
    expired = session.do(f"{ENDED} AND expires_at <= ? ORDER BY end_number LIMIT ?", now, MAX_DROPPED).fetchall()
    for run in expired:
        _drop(session, *run)
    session.do("DELETE FROM runs WHERE forget_at <= ?", now)
    session.do(
        "DELETE FROM runs WHERE number IN (SELECT number FROM runs WHERE forget_at IS NOT NULL"
        " ORDER BY forget_at DESC LIMIT -1 OFFSET ?)",
        MAX_TOMBSTONES,
    )
    session.do("DELETE FROM signals WHERE at < ?", now - SIGNAL_LIFE)
    left = session.one("SELECT runs, bytes FROM totals")
    assert left is not None
    return len(expired) == MAX_DROPPED, Retained(*left)


def purge(session: WriteSession, run_id: str) -> None:
    """Drop an ended run, as RunStore.purge promises."""
    run = session.one(f"{ENDED} AND run_id = ?", run_id)
    if run is not None:
        _drop(session, *run)


def _drop(session: WriteSession, number: int, run_id: str, size: int) -> None:
    now = session.worker.clock()
    session.do("DELETE FROM blocks WHERE run = ?", number)
    session.do("UPDATE runs SET output = NULL, forget_at = ? WHERE number = ?", now + session.bounds.tombstone, number)
    session.do("UPDATE totals SET runs = runs - 1, bytes = bytes - ?", size)
    session.dropped.append(run_id)


def vacuum(session: WriteSession) -> None:
    """Give free pages back to the file system."""
    for _ in range(VACUUM_PAGES):
        session.do("PRAGMA incremental_vacuum(1)")  # Python gives back one page whatever the number
