"""The compact form of events of version 3: what repeats is said once.

    {"version": "v3", "kind": "run", "timestamp": 1700000000000}        the first: what follows, and when it began
    {"method": "values", "namespace": [], "data": ..., "after": 3}      an event, 3 ms after the one before it
    {"method": "messages", ..., "data": [event, metadata], "stream": 0} a message begins: stream 0 of this run
    [12, 0, 0, " word"]                                                 12 ms later, in stream 0, block 0: more text
    [12, 0, 0, "...", "reasoning-delta"]                                likewise, a delta of another type
    [12, 0, {"event": "message-finish", ...}]                           likewise, any other event of the message

`after` and `interrupts` are left out where they say nothing. Events are numbered as they come. Of kind "message"
(a chat model) there is one stream, 0, which needs no beginning.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from streamserve.events.protocol import Event, EventSource
from streamserve.wire.serializer import Enveloped

# The field of each type of delta that has just one.
DELTAS = {"text-delta": "text", "reasoning-delta": "reasoning", "tool-call-delta": "args"}


async def compacted(source: EventSource) -> AsyncGenerator[Enveloped]:
    """The events in their compact form.

    Args:
        source: closed with this one.
    """
    began = int(time.time() * 1000)
    compactor = Compactor(began)
    encode = compactor.run_event if source.kind == "run" else compactor.message_event
    yield Enveloped({"version": "v3", "kind": source.kind, "timestamp": began})
    try:
        async for event in source.events:
            yield Enveloped(encode(event))
    finally:
        await source.events.aclose()


class Compactor:
    """Knows what was said before.

    Args:
        began: the time of the first value, in milliseconds since the epoch.
    """

    def __init__(self, began: int) -> None:
        self._last = began
        self._begun = 0
        self._streams: dict[Any, tuple[int, list[str], dict[str, Any]]] = {}

    def message_event(self, event: Event) -> Any:
        """An event of a chat model's message."""
        return _part(0, 0, event)

    def run_event(self, event: Event) -> Any:
        """An event of a graph or chain."""
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
            return _part(after, known[0], event)
        number, self._begun = self._begun, self._begun + 1
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


def _part(after: int, stream: int, event: Event) -> list[Any]:
    delta = event.get("delta", {})
    field = DELTAS.get(delta.get("type"))
    if field is None or len(delta) != 2 or len(event) != 3:
        return [after, stream, event]
    kind = [] if field == "text" else [delta["type"]]
    return [after, stream, event["index"], delta[field], *kind]


def _without_marks(metadata: dict[str, Any]) -> dict[str, Any]:
    # LangServe's own, such as the caller's user agent.
    return {key: value for key, value in metadata.items() if not key.startswith("__")}
