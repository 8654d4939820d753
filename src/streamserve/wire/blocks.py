"""The block: what one event is on the wire. Encoded once, here and nowhere else.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import Any

from streamserve.wire.serializer import split_types, to_line

# A bare comment line. No blank line behind it: once an id was seen, LangServe's client dispatches an event at each.
KEEP_ALIVE = b": \n"

# How long a browser's EventSource waits before it reconnects, in milliseconds.
RETRY = 1000


def data_block(seq: int, data: str) -> bytes:
    """A chunk; `data` is JSON on one line, perhaps with a `types:` line behind it."""
    return f"id: {seq}\nevent: data\ndata: {data}\n\n".encode()


def metadata_block(seq: int, run_id: str, attempt: int = 1) -> bytes:
    """The first block of /stream: the run's id, and when to reconnect. A later attempt begins with one, too."""
    later = f',"attempt":{attempt}' if attempt > 1 else ""
    return f'retry: {RETRY}\nid: {seq}\nevent: metadata\ndata: {{"run_id":"{run_id}"{later}}}\n\n'.encode()


def end_block(seq: int) -> bytes:
    """The terminal block of a run that is done. Its empty data has a browser's EventSource dispatch it."""
    return f"id: {seq}\nevent: end\ndata:\n\n".encode()


def error_block(seq: int | None, error: dict[str, Any]) -> bytes:
    """The terminal block of a run that is not; without a number, the end of one reader only."""
    head = b"" if seq is None else b"id: %d\n" % seq
    return b"%sevent: error\ndata: %s\n\n" % (head, to_line(error))


def data_of(block: bytes) -> tuple[bytes, bytes] | None:
    """The JSON of a chunk and that of its types (perhaps empty); None for any other block."""
    head, _, rest = block.partition(b"event: data\ndata: ")
    if not rest or not head.startswith(b"id: "):
        return None
    return split_types(rest[:-2])
