"""The block, one event's form on the wire; only this module encodes it.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from typing import Any

from streamserve.wire.serializer import split_types, to_line

# A bare comment line, without a blank line: after an id, LangServe's client dispatches an event at each blank line.
KEEP_ALIVE = b": \n"

_PATCH = b"\nevent: patch\ndata: "
# Bytes of a block within which its event's name stands.
_HEAD = 48

# Milliseconds before a browser's EventSource reconnects.
RETRY = 1000


def data_block(seq: int, data: bytes) -> bytes:
    """Return the block of a chunk; `data` is JSON on one line, with a `types:` line if it needs one."""
    return b"id: %d\nevent: data\ndata: %s\n\n" % (seq, data)


def patch_block(seq: int, data: bytes) -> bytes:
    """Return the block of a chunk that is told by a patch; `data` is as in `data_block`."""
    return b"id: %d\nevent: patch\ndata: %s\n\n" % (seq, data)


def is_patch(block: bytes) -> bool:
    """Return whether a block has a patch."""
    return block.find(_PATCH, 0, _HEAD) > 0


def patch_of(block: bytes) -> bytes:
    """Return the data of a block with a patch."""
    return block.partition(_PATCH)[2][:-2]


def metadata_block(seq: int, run_id: str, attempt: int = 1) -> bytes:
    """Return the first block of an attempt, with the run's id and the time until a client reconnects."""
    later = f',"attempt":{attempt}' if attempt > 1 else ""
    return f'retry: {RETRY}\nid: {seq}\nevent: metadata\ndata: {{"run_id":"{run_id}"{later}}}\n\n'.encode()


def end_block(seq: int) -> bytes:
    """Return the terminal block of a successful run, with empty data so that a browser's EventSource dispatches it."""
    return f"id: {seq}\nevent: end\ndata:\n\n".encode()


def error_block(seq: int | None, error: dict[str, Any]) -> bytes:
    """Return the terminal block of a failed run, or without a number the last block for one reader."""
    head = b"" if seq is None else b"id: %d\n" % seq
    return b"%sevent: error\ndata: %s\n\n" % (head, to_line(error))


def data_of(block: bytes) -> tuple[bytes, bytes] | None:
    """Return the JSON of a chunk and of its types, which may be empty; None for any other block."""
    head, _, rest = block.partition(b"event: data\ndata: ")
    if not rest or not head.startswith(b"id: "):
        return None
    return split_types(rest[:-2])


def fields_of(block: bytes) -> dict[str, str | int]:
    """Return the fields of a block by their names: the id as a number, the others as texts."""
    lines = (line.partition(":") for line in block.decode()[:-2].split("\n"))
    fields: dict[str, str | int] = {name: text.removeprefix(" ") for name, _, text in lines}
    fields["id"] = int(fields["id"])
    return fields
