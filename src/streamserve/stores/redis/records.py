"""Records, blocks and messages as bytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import orjson

from streamserve.stores.base import RunRecord, Status

# Raw bytes of one compressed piece: large enough to compress well, small enough not to hold the event loop.
PIECE_BYTES = 256 * 2**10
# Most of what there is to win; higher levels cost several times as much CPU.
ZLIB_LEVEL = 1

Value = str | int | float | bytes


def fields_of(run: RunRecord, worker: str) -> list[Value]:
    """The fields and values of a run without blocks."""
    fields: dict[str, Value] = {
        "run_id": run.run_id,
        "chain": run.chain,
        "endpoint": run.endpoint,
        "principal": run.principal,
        "created_at": repr(run.created_at),
        "fingerprint": run.fingerprint,
        "status": "queued",
        "attempt": run.attempt,
        "last_id": 0,
        "purged": 0,
        "worker": worker,
    }
    if run.key is not None:
        fields["key"] = run.key
    if run.thread is not None:
        fields["thread"] = run.thread
    return [part for pair in fields.items() for part in pair]


def record_of(flat: Sequence[bytes]) -> RunRecord | None:
    """The record of what HGETALL gave."""
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
        ended_at=_number(text.get("ended_at")),
        expires_at=_number(text.get("expires_at")),
        error=cast("dict[str, Any] | None", orjson.loads(text["error"]) if "error" in text else None),
        output=found.get(b"output"),
        purged=text["purged"] == "1",
        thread=text.get("thread"),
    )


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def message_of(data: bytes) -> tuple[int, bool, list[bytes]]:
    """Number of the first block, whether the last is the terminal one, and the blocks that were published."""
    head, _, body = data.partition(b"\n")
    first, terminal, lengths = head.split(b" ")
    return int(first), terminal == b"1", list(_split(body, lengths))


def _split(body: bytes, lengths: bytes) -> Iterator[bytes]:
    start = 0
    for length in map(int, lengths.split(b",")):
        yield body[start : start + length]
        start += length


def pack(blocks: Sequence[bytes]) -> bytes:
    """Blocks as one compressed piece."""
    lengths = b",".join(b"%d" % len(block) for block in blocks)
    return zlib.compress(lengths + b"\n" + b"".join(blocks), ZLIB_LEVEL)


def unpack(piece: bytes) -> list[bytes]:
    """The blocks of a piece."""
    lengths, _, body = zlib.decompress(piece).partition(b"\n")
    return list(_split(body, lengths))
