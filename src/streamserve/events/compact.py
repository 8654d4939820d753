"""Events of version 3 in the compact form of `compact_form`."""

import time
from collections.abc import AsyncGenerator
from typing import Any

from streamserve.events.compact_form import VERSION, pack
from streamserve.events.protocol import Event, EventSource
from streamserve.wire.serializer import Envelope


async def compact_events(source: EventSource) -> AsyncGenerator[Envelope]:
    """Yield the events in their compact form. The source is closed when this generator is."""
    began = int(time.time() * 1000)
    compactor = Compactor(began)
    encode = compactor.run_event if source.kind == "run" else compactor.message_event
    yield Envelope({"version": VERSION, "kind": source.kind, "timestamp": began})
    try:
        async for event in source.events:
            yield Envelope(encode(event))
    finally:
        await source.events.aclose()


class Compactor:
    """An encoder that leaves out fields that the receiver already knows.

    The head `began` at a time in milliseconds since the epoch.
    """

    def __init__(self, began: int) -> None:
        self._last = began
        self._next_stream = 0
        self._streams: dict[Any, tuple[int, list[str], dict[str, Any]]] = {}

    def message_event(self, event: Event) -> Any:
        """Return an event of a chat model's message in its compact form."""
        return pack(0, 0, event)

    def run_event(self, event: Event) -> Any:
        """Return an event of a graph or chain in its compact form."""
        params = event["params"]
        after, self._last = params["timestamp"] - self._last, params["timestamp"]
        if event["method"] == "messages" and isinstance(params["data"][0], dict):
            return self._of_message(after, params["namespace"], *params["data"])
        return _whole(after, event["method"], params)

    def _of_message(self, after: int, namespace: list[str], event: Event, metadata: dict[str, Any]) -> Any:
        run_id = metadata.get("run_id")
        known = self._streams.get(run_id)
        if known is not None and known[1:] == (namespace, metadata):
            if event["event"] in ("message-finish", "error"):
                del self._streams[run_id]
            return pack(after, known[0], event)
        number, self._next_stream = self._next_stream, self._next_stream + 1
        self._streams[run_id] = number, namespace, dict(metadata)
        params = {"namespace": namespace, "data": (event, _without_marks(metadata))}
        return {**_whole(after, "messages", params), "stream": number}


def _whole(after: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    value = {"method": method, "namespace": params["namespace"], "data": params["data"]}
    if params.get("interrupts"):
        value["interrupts"] = params["interrupts"]
    if after:
        value["after"] = after
    return value


def _without_marks(metadata: dict[str, Any]) -> dict[str, Any]:
    # LangServe adds such keys, for example with the caller's user agent.
    return {key: value for key, value in metadata.items() if not key.startswith("__")}
