"""Restore LangChain's events of version 3 from the compact form of `compact_form`."""

from typing import Any, Literal, NamedTuple, cast

from streamserve_sdk.errors import ProtocolError
from streamserve_sdk.events.compact_form import KINDS, VERSION, unpack

Kind = Literal["message", "run"]
Event = dict[str, Any]


class Head(NamedTuple):
    """The head of a stream of events: the kind of stream, and its start in milliseconds since the epoch."""

    kind: Kind
    timestamp: int


def head(value: Any) -> Head:
    """Return the head in the first value of a stream.

    Args:
        value: the first value.

    Raises:
        NotImplementedError: the server has no events of version 3.
    """
    if isinstance(value, dict) and value.get("version") == VERSION and value.get("kind") in KINDS:
        return Head(value["kind"], value["timestamp"])
    raise NotImplementedError(f"the server has no events of version {VERSION!r}")


class Expander:
    """Restore the events of one stream.

    Args:
        began: the time of the head, in milliseconds since the epoch.
    """

    def __init__(self, began: int) -> None:
        self.timestamp = began
        self._streams: dict[int, tuple[list[str], Event]] = {}

    def message_event(self, value: Any) -> Event:
        """Return the event of a chat model's message.

        Args:
            value: the event in its compact form.

        Raises:
            ProtocolError: the value is not such an event.
        """
        return _expanded(value, lambda: unpack(value))

    def run_event(self, value: Any) -> Event:
        """Return an event of a graph or chain, with method, namespace, data and, if there are any, interrupts.

        Args:
            value: the event in its compact form.

        Raises:
            ProtocolError: the value is not such an event.
        """
        return _expanded(value, lambda: self._run_event(value))

    def _run_event(self, value: Any) -> Event:
        if isinstance(value, list):
            self.timestamp += value[0]
            namespace, metadata = self._streams[value[1]]
            return {"method": "messages", "namespace": list(namespace), "data": (unpack(value), {**metadata})}
        self.timestamp += value.get("after", 0)
        if "stream" in value:
            self._streams[value["stream"]] = value["namespace"], value["data"][1]
        more = {"interrupts": value["interrupts"]} if "interrupts" in value else {}
        return {**{name: value[name] for name in ("method", "namespace", "data")}, **more}


def _expanded(value: Any, expand: Any) -> Event:
    try:
        return cast("Event", expand())
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"not an event of version 3: {str(value)[:200]}") from error
