"""Works beside writers and readers, on a connection of its own: the checkpoint, and sealing what has ended."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from streamserve.stores.sqlite.journal import FIXED, Journal
from streamserve.stores.sqlite.rows import PLAIN, pieces_after, sealed, to_piece
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
        rows: for `blocks`, as JSON: run, first_seq, count and kind, where sizes and data begin, and the data's length.
        sizes: of all blocks.
        data: of all blocks.
    """

    first_id: int
    last_id: int
    rows: str
    sizes: bytes
    data: bytes


class Part:
    """What a part of the journal has of one run.

    Args:
        first_seq: of its first block.
    """

    __slots__ = ("data", "first_seq", "kind", "sizes")

    def __init__(self, first_seq: int) -> None:
        self.first_seq = first_seq
        self.kind = PLAIN
        self.sizes = array("I")
        self.data: list[bytes] = []


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
        first_id = count = newest = 0
        parts: dict[int, Part] = {}
        query = "SELECT id, head, data FROM journal ORDER BY id LIMIT ?"
        # Not fetched at once: each step lets the other threads go on, which would wait for all of it.
        for row_id, head, data in self.connection.execute(query, (PAGE_ROWS,)):
            first_id, newest, count = first_id or row_id, row_id, count + 1
            _share_out(head, data, parts)
        last_id, self._last_id = self._last_id, newest
        growing = count < PAGE_ROWS and newest != last_id
        return None if growing or not parts else _moved(first_id, newest, parts)

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


def _share_out(head: bytes, data: bytes, parts: dict[int, Part]) -> None:
    """Adds a row of the journal to the parts of its runs; the blocks need not be told apart for that."""
    numbers, at, start = array("I", head), 0, 0
    while at < len(numbers):
        run, first_seq, count, kind = numbers[at : at + FIXED]
        sizes = numbers[at + FIXED : at + FIXED + count]
        end = start + sum(sizes)
        part = parts.get(run)
        if part is None:
            part = parts[run] = Part(first_seq)
        part.kind = kind
        part.sizes += sizes
        part.data.append(data[start:end])
        at += FIXED + count
        start = end


def _moved(first_id: int, last_id: int, parts: dict[int, Part]) -> Moved:
    rows, sizes, data = [], array("I"), []
    size = 0
    for run, part in parts.items():
        count, length = len(part.sizes), sum(part.sizes)
        rows.append((run, part.first_seq, count, part.kind, len(sizes) * sizes.itemsize, size, length))
        sizes += part.sizes
        data += part.data
        size += length
    return Moved(first_id, last_id, orjson.dumps(rows).decode(), sizes.tobytes(), b"".join(data))
