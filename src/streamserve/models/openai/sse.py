"""Decoder of event streams for the `openai` package.

Divergences from that package's decoder: an event without data is ignored, as the specification requires
(https://html.spec.whatwg.org/multipage/server-sent-events.html#dispatchMessage); the package raises an error. A body
that is a JSON object with an error instead of events is one event, because servers send errors so with status 200.
"""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

EVENT_END = b"\n\n"
JSON_START = b"{"


@dataclass(slots=True)
class SSEEvent:
    """One event of a stream: its data lines, joined by line feeds, and its type."""

    data: str
    event: str | None = None

    def json(self) -> Any:
        """Return the data parsed as JSON.

        Raises:
            json.JSONDecodeError: the data is not JSON.
        """
        try:
            return orjson.loads(self.data)
        except orjson.JSONDecodeError:
            # The standard library's parser accepts NaN and lone surrogates, and callers expect its errors.
            return json.loads(self.data)


class SSEDecoder:
    """A decoder of events from bytes in pieces of any size, in time linear to the number of bytes."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._after_cr = False

    def feed(self, data: bytes) -> Iterator[SSEEvent]:
        """Return the events that these bytes complete."""
        if b"\r" in data or self._after_cr:
            data = self._with_lf_only(data)
        if not self._pending and data.endswith(EVENT_END):
            return _events(data)
        return self._completed(data)

    def iter_bytes(self, iterator: Iterator[bytes]) -> Iterator[SSEEvent]:
        """Yield the events of a stream; an incomplete last event is ignored."""
        for data in iterator:
            yield from self.feed(data)
        yield from self._end()

    async def aiter_bytes(self, iterator: AsyncIterator[bytes]) -> AsyncIterator[SSEEvent]:
        """Yield the events of a stream; an incomplete last event is ignored."""
        async for data in iterator:
            for event in self.feed(data):
                yield event
        for event in self._end():
            yield event

    def _end(self) -> Iterator[SSEEvent]:
        return self.feed(EVENT_END) if self._pending.startswith(JSON_START) else iter(())

    def _with_lf_only(self, data: bytes) -> bytes:
        after_cr, self._after_cr = self._after_cr, data.endswith(b"\r") if data else self._after_cr
        rest = data[1:] if after_cr and data.startswith(b"\n") else data
        return rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _completed(self, data: bytes) -> Iterator[SSEEvent]:
        searched = max(0, len(self._pending) - 1)
        self._pending += data
        end = self._pending.rfind(EVENT_END, searched)
        if end < 0:
            return iter(())
        complete = bytes(self._pending[:end])
        del self._pending[: end + len(EVENT_END)]
        return _events(complete)


def _events(complete: bytes) -> Iterator[SSEEvent]:
    # Lazily, so that the events before one that is not UTF-8 are still delivered.
    return filter(None, map(_event, complete.split(EVENT_END)))


def _event(block: bytes) -> SSEEvent | None:
    # Fast path: nearly every event is one line of data.
    if block.startswith(b"data: ") and b"\n" not in block:
        return SSEEvent(block.decode()[6:])
    if block.startswith(JSON_START):
        return _error(block)
    lines, kind = [], ""
    for line in block.decode().split("\n"):
        field, _, value = line.partition(":")
        if field == "data":
            lines.append(value.removeprefix(" "))
        elif field == "event":
            kind = value.removeprefix(" ")
    return SSEEvent("\n".join(lines), kind or None) if lines else None


def _error(block: bytes) -> SSEEvent | None:
    event = SSEEvent(block.decode())
    try:
        found = event.json()
    except json.JSONDecodeError:
        return None
    return event if isinstance(found, dict) and found.get("error") else None
