"""The compact form of events of version 3 -> LangChain's protocol events, as the server's compact_events.py writes it.

{"version": "v3", "kind": "run", "timestamp": 1700000000000}        the first: what follows, and when it began
{"method": "values", "namespace": [], "data": ..., "after": 3}      an event, 3 ms after the one before it
{"method": "messages", ..., "data": [event, metadata], "stream": 0} a message begins: stream 0 of this run
[12, 0, 0, " word"]                                                 12 ms later, in stream 0, block 0: more text
[12, 0, 0, "...", "reasoning-delta"]                                likewise, a delta of another type
[12, 0, {"event": "message-finish", ...}]                           likewise, any other event of the message
"""

from typing import Any, Literal, NamedTuple, cast

from streamserve_sdk.errors import ProtocolError

Kind = Literal["message", "run"]
Event = dict[str, Any]

# The field of each type of delta that has just one.
DELTAS = {"text-delta": "text", "reasoning-delta": "reasoning", "tool-call-delta": "args"}


class Head(NamedTuple):
    """What a stream of events begins with: the kind of what follows, and its time in milliseconds since the epoch."""

    kind: Kind
    timestamp: int


def head(value: Any) -> Head:
    """Return the head in the first value of a stream.

    Args:
        value: the first value.

    Raises:
        NotImplementedError: the server has no events of version 3.
    """
    if isinstance(value, dict) and value.get("version") == "v3" and value.get("kind") in ("message", "run"):
        return Head(value["kind"], value["timestamp"])
    raise NotImplementedError("the server has no events of version 'v3'")


class Expander:
    """Puts back what was said before.

    Args:
        began: the time of the head.
    """

    def __init__(self, began: int) -> None:
        self.timestamp = began
        self._streams: dict[int, tuple[list[str], Event]] = {}

    def message_event(self, value: Any) -> Event:
        """Return the event of a chat model's message.

        Args:
            value: as it came.

        Raises:
            ProtocolError: it is no such event.
        """
        return _expanded(value, lambda: _event(value))

    def run_event(self, value: Any) -> Event:
        """Return an event of a graph or chain, with method, namespace, data and perhaps interrupts.

        Args:
            value: as it came.

        Raises:
            ProtocolError: it is no such event.
        """
        return _expanded(value, lambda: self._run_event(value))

    def _run_event(self, value: Any) -> Event:
        if isinstance(value, list):
            self.timestamp += value[0]
            namespace, metadata = self._streams[value[1]]
            return {"method": "messages", "namespace": list(namespace), "data": (_event(value), {**metadata})}
        self.timestamp += value.get("after", 0)
        if "stream" in value:
            self._streams[value["stream"]] = value["namespace"], value["data"][1]
        more = {"interrupts": value["interrupts"]} if "interrupts" in value else {}
        return {**{name: value[name] for name in ("method", "namespace", "data")}, **more}


def _expanded(value: Any, expand: Any) -> Event:
    try:
        return cast("Event", expand())
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ProtocolError(f"not an event of version 3: {str(value)[:200]}") from error


def _event(value: list[Any]) -> Event:
    if len(value) == 3:
        return cast("Event", value[2])
    _, _, index, content, *kind = value
    name = kind[0] if kind else "text-delta"
    return {"event": "content-block-delta", "index": index, "delta": {"type": name, DELTAS[name]: content}}
