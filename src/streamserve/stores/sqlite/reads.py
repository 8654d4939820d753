"""What is read on a connection that waits for no writer."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from streamserve.stores.base import RunRecord, Slice
from streamserve.stores.sqlite.journal import Journal, find_record
from streamserve.stores.sqlite.rows import SEALED, Piece, pieces_after, to_piece
from streamserve.stores.sqlite.schema import connect

# Unpacked pieces kept: a reader asks for a piece's blocks several times in a row.
KEPT_PIECES = 8
# Past any run's number.
MAX_NUMBER = 2**63 - 1


class Reads:
    """The readers' session.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.connection = connect(path)
        self._journal = Journal(self.connection)
        self._unpacked: OrderedDict[tuple[int, int], Piece] = OrderedDict()

    def begin(self) -> None:
        """Everything of one group is read from one state."""
        self.connection.execute("BEGIN")

    def commit(self) -> None:
        """Ends the group."""
        self.connection.execute("COMMIT")

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()

    def get(self, run_id: str) -> RunRecord | None:
        """As RunStore.get."""
        return find_record(self._journal, "run_id = ?", run_id)

    def ahead(self, run: RunRecord) -> list[str]:
        """As RunStore.ahead."""
        rows = self.connection.execute(
            "SELECT run_id FROM runs WHERE thread = ?1 AND end_number IS NULL"
            " AND number < coalesce((SELECT number FROM runs WHERE run_id = ?2), ?3) ORDER BY number",
            (run.thread, run.run_id, MAX_NUMBER),
        )
        return [run_id for (run_id,) in rows]

    def read(self, run_id: str, after: int, limit: int) -> tuple[Slice, bool]:
        """As RunStore.read, and whether that is all there is by now."""
        row = self.connection.execute(
            "SELECT number, end_number IS NOT NULL, last_id, forget_at FROM runs WHERE run_id = ?", (run_id,)
        ).fetchone()
        if row is None or row[3] is not None:
            return Slice((), True), False
        number, ended, last_id, _ = row
        blocks = self._blocks(number, after, limit)
        at_end = bool(ended) and after + len(blocks) >= last_id
        return Slice(blocks, at_end), at_end or (not ended and len(blocks) < limit)

    def _blocks(self, number: int, after: int, limit: int) -> list[bytes]:
        blocks: list[bytes] = []
        for piece in self._pieces(number, after):
            # A run may be sealed while the journal still has it.
            skipped = max(0, after + len(blocks) + 1 - piece.first_seq)
            blocks += piece.blocks[skipped : skipped + limit - len(blocks)]
            if len(blocks) >= limit:
                break
        return blocks

    def _pieces(self, number: int, after: int) -> Iterator[Piece]:
        for row in pieces_after(self.connection, number, after):
            yield self._piece(number, row)
        self._journal.refresh()
        yield from self._journal.pieces(number, after)

    def _piece(self, number: int, row: Sequence[Any]) -> Piece:
        if row[2] != SEALED:
            return to_piece(row)
        place = (number, row[0])
        piece = self._unpacked.get(place)
        if piece is None:
            piece = self._unpacked[place] = to_piece(row)
            if len(self._unpacked) > KEPT_PIECES:
                self._unpacked.popitem(last=False)
        return piece

    def is_read_elsewhere(self, run_id: str, worker: str, now: float) -> bool:
        """As RunStore.is_read_elsewhere."""
        return bool(
            self.connection.execute(
                "SELECT 1 FROM readers JOIN workers USING (worker) WHERE run_id = ? AND worker <> ? AND until >= ?",
                (run_id, worker, now),
            ).fetchone()
        )


def last_piece(connection: sqlite3.Connection, number: int) -> Piece | None:
    """A run's newest piece in `blocks`; None if there is none."""
    row = connection.execute(
        "SELECT end_number, first_seq, count, kind, sizes, data FROM runs"
        " JOIN blocks ON run = number WHERE number = ? ORDER BY first_seq DESC LIMIT 1",
        (number,),
    ).fetchone()
    if row is None:
        return None
    return to_piece(row[1:])._replace(at_end=row[0] is not None)
