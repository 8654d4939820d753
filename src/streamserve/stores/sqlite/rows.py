"""Convert records and blocks to rows, and back."""

import json
import sqlite3
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise

from streamserve.stores.base import RunRecord

# Columns of `runs`, in the order of a RunRecord's fields. Only an ended run has its status and last_id here.
RECORD = (
    "run_id, chain, endpoint, principal, created_at, key, fingerprint, status, attempt, coalesce(last_id,"
    " (SELECT last_seq FROM blocks WHERE run = number ORDER BY first_seq DESC LIMIT 1), 0),"
    " ended_at, expires_at, error, output, forget_at IS NOT NULL, thread"
)

# The condition on the run that a key names.
NAMED = "key = ? AND forget_at IS NULL"


def find_record(connection: sqlite3.Connection, where: str, value: object) -> RunRecord | None:
    """Return the record of a run, without its request.

    Args:
        connection: connection in a transaction.
        where: condition on `runs` with one parameter.
        value: value of the parameter.
    """
    query = f"SELECT {RECORD} FROM runs WHERE {where}"  # noqa: S608 - constants
    row = connection.execute(query, (value,)).fetchone()
    if row is None:
        return None
    record = RunRecord(*row)
    record.status = row[7] or ("running" if record.last_id else "queued")
    record.error = json.loads(row[12]) if row[12] else None
    record.purged = bool(record.purged)
    return record


def pack(blocks: Sequence[bytes]) -> tuple[bytes | None, bytes]:
    """Return the columns `sizes` and `data`; a single block has no sizes."""
    if len(blocks) == 1:
        return None, blocks[0]
    return array("I", map(len, blocks)).tobytes(), b"".join(blocks)


def unpack(sizes: bytes | None, data: bytes) -> Sequence[bytes]:
    """Return the blocks of a row."""
    if sizes is None:
        return (data,)
    return [data[start:end] for start, end in pairwise(accumulate(array("I", sizes), initial=0))]
