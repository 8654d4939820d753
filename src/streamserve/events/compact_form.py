"""The compact form of events of version 3, in which repeated fields are sent once.

    {"version": "v3", "kind": "run", "timestamp": 1700000000000}        the head: the kind of stream and its start
    {"method": "values", "namespace": [], "data": ..., "after": 3}      an event, 3 ms after the one before it
    {"method": "messages", ..., "data": [event, metadata], "stream": 0} a message begins: stream 0 of this run
    [12, 0, 0, " word"]                                                 12 ms later, stream 0, content block 0: text
    [12, 0, 0, "...", "reasoning-delta"]                                the same for a delta of another type
    [12, 0, {"event": "message-finish", ...}]                           the same for any other event of the message

`after` is absent if it is 0, `interrupts` if there are none. Streams are numbered as they begin. A stream of the kind
"message" (a chat model) has stream 0 only, which begins with the head.

The server and the Python client each have a copy of this file, because neither depends on the other. A test compares
the copies byte by byte.
"""

from typing import Any

VERSION = "v3"
KINDS = ("message", "run")
# The one field of each type of delta that has only one.
DELTAS = {"text-delta": "text", "reasoning-delta": "reasoning", "tool-call-delta": "args"}


def pack(after: int, stream: int, event: dict[str, Any]) -> list[Any]:
    """Return an event of a message in its compact form.

    Args:
        after: milliseconds since the event before it.
        stream: the number of the message's stream.
        event: the event.
    """
    delta = event.get("delta", {})
    field = DELTAS.get(delta.get("type"))
    if field is None or len(delta) != 2 or len(event) != 3:
        return [after, stream, event]
    kind = [] if field == "text" else [delta["type"]]
    return [after, stream, event["index"], delta[field], *kind]


def unpack(value: list[Any]) -> dict[str, Any]:
    """Return the event of a message from its compact form.

    Args:
        value: the result of `pack`.

    Raises:
        IndexError, KeyError, TypeError, ValueError: the value is not such a result.
    """
    if len(value) == 3:
        event: dict[str, Any] = value[2]
        return event
    _, _, index, content, *kind = value
    name = kind[0] if kind else "text-delta"
    return {"event": "content-block-delta", "index": index, "delta": {"type": name, DELTAS[name]: content}}
