"""Works beside writers and readers, on a connection of its own: the checkpoint, and sealing what has ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from streamserve.stores.sqlite.journal import Journal, entries
from streamserve.stores.sqlite.rows import Piece, pieces_after, sealed, to_piece, to_row
from streamserve.stores.sqlite.schema import connect

# Rows of the journal moved at once: writers wait some milliseconds meanwhile.
PAGE_ROWS = 256
# Ended runs sealed in one round.
MAX_SEALED = 50
# Ended runs are left as they are for so long, in seconds: their readers are just reading them.
SEAL_AFTER = 5.0
# Bytes of the log past which writers wait for a checkpoint: one that never waits cannot make it start over.
MAX_LOG = 32 * 2**20
# Bytes of the log worth a checkpoint.
MIN_LOG = 2**20
# Free pages that are worth giving back.
MIN_FREE = 1000


class Moved(NamedTuple):
    """A part of the journal.

    Args:
        first_id: of its rows.
        last_id: likewise.
        rows: for `blocks`.
    """

    first_id: int
    last_id: int
    rows: Sequence[tuple[object, ...]]


class SealedRun(NamedTuple):
    """An ended run's number, and its blocks as compressed rows."""

    number: int
    pieces: Sequence[tuple[int, int, int, bytes, bytes]]


class Keeper:
    """The session.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.connection = connect(path)
        self._journal = Journal(self.connection)
        self._last_id = 0
        self._log = path.with_name(path.name + "-wal")

    def begin(self) -> None:
        """Each statement stands for itself: a checkpoint cannot be in a transaction."""

    def commit(self) -> None:
        """As `begin`."""

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()

    def checkpoint(self) -> None:
        """Moves the log into the file. Writers go on meanwhile, unless the log has become too long."""
        if self._size() > MIN_LOG:
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if self._size() > MAX_LOG:
            # Most of the work is done by now, so writers wait for the short rest only.
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def page(self) -> Moved | None:
        """The oldest part of the journal in the order of its runs: as soon as it is worth it, or nothing is added."""
        rows = self.connection.execute(
            "SELECT id, head, data FROM journal ORDER BY id LIMIT ?", (PAGE_ROWS,)
        ).fetchall()
        last_id, self._last_id = self._last_id, rows[-1][0] if rows else 0
        growing = len(rows) < PAGE_ROWS and self._last_id != last_id
        if growing or not any(head for _, head, _ in rows):
            return None
        pieces: dict[int, Piece] = {}
        for _, head, data in rows:
            for entry in entries(head):
                new, known = entry.piece(data), pieces.get(entry.run)
                blocks = [*known.blocks, *new.blocks] if known else new.blocks
                pieces[entry.run] = Piece(known.first_seq if known else new.first_seq, blocks, new.at_end)
        return Moved(rows[0][0], rows[-1][0], [to_row(run, piece) for run, piece in pieces.items()])

    def seal_some(self, worker: str, now: float) -> list[SealedRun]:
        """Compresses runs that this worker or a dead one has ended."""
        numbers = self.connection.execute(
            "SELECT number FROM runs WHERE end_number IS NOT NULL AND forget_at IS NULL AND sealed = 0"
            " AND ended_at <= ? AND (worker = ? OR worker NOT IN (SELECT worker FROM workers))"
            " ORDER BY end_number LIMIT ?",
            (now - SEAL_AFTER, worker, MAX_SEALED),
        ).fetchall()
        return [self._sealed(number) for (number,) in numbers]

    def _sealed(self, number: int) -> SealedRun:
        self.connection.execute("BEGIN")
        try:
            stored = [to_piece(row) for row in pieces_after(self.connection, number, 0)]
            self._journal.refresh()
            pieces = [*stored, *self._journal.pieces(number, 0)]
        finally:
            self.connection.execute("COMMIT")
        return SealedRun(number, sealed([block for piece in pieces for block in piece.blocks]))

    def has_free_pages(self) -> bool:
        """Whether the file could be smaller."""
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        return bool(free > MIN_FREE)
