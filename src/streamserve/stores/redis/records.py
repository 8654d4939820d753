"""Records, blocks and messages as bytes."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import orjson

from streamserve.stores.base import RunRecord, Slice, Status

# Raw bytes of one compressed piece: large enough to compress well, small enough not to hold up the event loop.
PIECE_BYTES = 256 * 2**10
# Unpacked pieces in memory: a reader takes a piece in several reads.
KEPT_PIECES = 16
# Gives most of the compression; higher levels take several times the CPU.
ZLIB_LEVEL = 1

Value = str | int | float | bytes


def fields_of(run: RunRecord, worker: str) -> list[Value]:
    """Return the fields and values of a run without blocks."""
    names = ("run_id", "chain", "endpoint", "principal", "key", "fingerprint", "thread", "attempt")
    fields: dict[str, Value | None] = {name: getattr(run, name) for name in names}
    fields |= {"created_at": repr(run.created_at), "status": "queued", "last_id": 0, "purged": 0, "worker": worker}
    return [part for name, value in fields.items() if value is not None for part in (name, value)]


def record_of(flat: Sequence[bytes]) -> RunRecord | None:
    """Return the record that a script gave as fields and values; None if it gave nothing."""
    found = dict(zip(flat[::2], flat[1::2], strict=True))
    if b"run_id" not in found:
        return None
    text = {name.decode(): value.decode() for name, value in found.items() if name != b"output"}
    return RunRecord(
        run_id=text["run_id"],
        chain=text["chain"],
        endpoint=text["endpoint"],
        principal=text["principal"],
        created_at=float(text["created_at"]),
        key=text.get("key"),
        fingerprint=text["fingerprint"],
        status=cast(Status, text["status"]),
        attempt=int(text["attempt"]),
        last_id=int(text["last_id"]),
        ended_at=float(text["ended_at"]) if "ended_at" in text else None,
        expires_at=float(text["expires_at"]) if "expires_at" in text else None,
        error=cast("dict[str, Any] | None", orjson.loads(text["error"]) if "error" in text else None),
        output=found.get(b"output"),
        purged=text["purged"] == "1",
        thread=text.get("thread"),
    )


def message_of(data: bytes) -> tuple[int, bool, list[bytes]]:
    """Return the number of the first published block, whether the last one is the terminal block, and the blocks."""
    head, _, body = data.partition(b"\n")
    first, terminal, lengths = head.split(b" ")
    return int(first), terminal == b"1", list(_split(body, lengths))


def _split(body: bytes, lengths: bytes) -> Iterator[bytes]:
    start = 0
    for length in map(int, lengths.split(b",")):
        yield body[start : start + length]
        start += length


def pack(blocks: Sequence[bytes]) -> bytes:
    """Return blocks as one compressed piece."""
    lengths = b",".join(b"%d" % len(block) for block in blocks)
    return zlib.compress(lengths + b"\n" + b"".join(blocks), ZLIB_LEVEL)


def unpack(piece: bytes) -> list[bytes]:
    """Return the blocks of a piece."""
    lengths, _, body = zlib.decompress(piece).partition(b"\n")
    return list(_split(body, lengths))


class Pieces:
    """The pieces of ended runs that were unpacked last."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, int, list[bytes]]] = {}

    def put(self, run_id: str, last_id: int, first: int, piece: bytes) -> None:
        """Keep a piece, given the numbers of the run's last block and of the piece's first one."""
        self.drop(run_id)
        self._kept[run_id] = last_id, first, unpack(piece)
        if len(self._kept) > KEPT_PIECES:
            self.drop(next(iter(self._kept)))

    def read(self, run_id: str, after: int, limit: int) -> Slice | None:
        """Return blocks after a cursor; None if they are not here."""
        if run_id not in self._kept:
            return None
        last_id, first, blocks = self._kept[run_id]
        start = after + 1 - first
        if not 0 <= start < len(blocks):
            return None
        found = blocks[start : start + limit]
        return Slice(found, after + len(found) >= last_id)

    def drop(self, run_id: str) -> None:
        """Forget a run."""
        self._kept.pop(run_id, None)
