"""From records and blocks to rows, and back."""

from __future__ import annotations

import json
import sqlite3
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from streamserve.stores.base import RunRecord

# Kinds of a row of blocks.
PLAIN, TERMINAL, SEALED = 0, 1, 2
# Bytes of blocks in one sealed piece: large enough to compress well, small enough to unpack for one reader.
PIECE_BYTES = 256 * 2**10
# The text of tokens is as good as repeated: a higher level saves a tenth, for twice the time.
ZLIB_LEVEL = 1

RECORD = (
    "run_id, chain, endpoint, principal, created_at, key, fingerprint, status, attempt, "
    "coalesce(last_id, (SELECT first_seq + count - 1 FROM blocks WHERE run = number ORDER BY first_seq DESC LIMIT 1),"
    " 0), ended_at, expires_at, error, output, forget_at IS NOT NULL, thread"
)
PIECE = "first_seq, count, kind, sizes, data"


class Piece(NamedTuple):
    """One row of blocks: an append's, or a sealed one."""

    first_seq: int
    blocks: Sequence[bytes]
    at_end: bool


def to_record(row: Sequence[Any]) -> RunRecord:
    """A record from the columns RECORD; what is in the journal is not in it."""
    record = RunRecord(*row)
    record.status = row[7] or "queued"
    record.error = json.loads(row[12]) if row[12] else None
    record.purged = bool(record.purged)
    return record


def to_piece(row: Sequence[Any]) -> Piece:
    """A piece from the columns PIECE; whether a sealed one is at the end only its run can tell."""
    first_seq, count, kind, sizes, data = row
    if kind == SEALED:
        data = zlib.decompress(data)
    if sizes is None:
        return Piece(first_seq, [data] if count else [], kind == TERMINAL)
    return Piece(first_seq, list(_cut(data, sizes)), kind == TERMINAL)


def _cut(data: bytes, sizes: bytes) -> Iterator[bytes]:
    start = 0
    for size in array("I", sizes):
        yield data[start : start + size]
        start += size


def _sizes(blocks: Sequence[bytes]) -> bytes:
    return array("I", map(len, blocks)).tobytes()


def sealed(blocks: Sequence[bytes]) -> list[tuple[int, int, int, bytes, bytes]]:
    """All blocks of a run as few compressed pieces.

    Args:
        blocks: from the first.

    Returns:
        Rows in the order of PIECE.
    """
    pieces = []
    first = size = 0
    for index, block in enumerate(blocks):
        size += len(block)
        if size >= PIECE_BYTES or index == len(blocks) - 1:
            piece = blocks[first : index + 1]
            pieces.append((first + 1, len(piece), SEALED, _sizes(piece), zlib.compress(b"".join(piece), ZLIB_LEVEL)))
            first, size = index + 1, 0
    return pieces


def pieces_after(connection: sqlite3.Connection, run: int, after: int) -> Iterator[Sequence[Any]]:
    """Rows in the order of PIECE, from the one that holds the block after a cursor on."""
    yield from connection.execute(
        f"SELECT {PIECE} FROM blocks WHERE run = ?1 AND first_seq >= coalesce("  # noqa: S608 - constants
        "(SELECT max(first_seq) FROM blocks WHERE run = ?1 AND first_seq <= ?2 + 1), 0) ORDER BY first_seq",
        (run, after),
    )
