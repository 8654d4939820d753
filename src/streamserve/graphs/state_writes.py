"""Writes of a caller to a graph's state: a value that a channel, with its reducer, refuses is the caller's error."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from traceback import walk_tb
from typing import Any

from langchain_core.messages import RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import BinaryOperatorAggregate
from langgraph.channels.base import BaseChannel
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import InvalidUpdateError
from langgraph.types import Command

from streamserve.errors import InvalidInput
from streamserve.errors.places import Place, invalid
from streamserve.graphs.graph import Graph

# A key of the state, a value for it, and the value's place in the request.
Write = tuple[str, Any, Place]
Channel = BaseChannel[Any, Any, Any]

# The exceptions of a reducer or of an edge's condition for a value of the wrong kind.
WRONG_KIND = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError, ArithmeticError)


async def stored_values(graph: Graph, config: RunnableConfig) -> Mapping[str, Any]:
    """Return the values of a state; empty without a checkpointer, and for a thread that has not begun."""
    saver = graph.checkpointer
    found = await saver.aget_tuple(config) if isinstance(saver, BaseCheckpointSaver) else None
    return found.checkpoint["channel_values"] if found else {}


def writes_of(given: Any, place: Place) -> list[Write]:
    """Return the writes of a state's update or of a command, in which a key may occur more than once."""
    if isinstance(given, Command):
        given, place = given.update, (*place, "update")
    if isinstance(given, dict):
        return [(key, value, (*place, key)) for key, value in given.items()]
    pairs = given if isinstance(given, list) else []
    return [(key, value, (*place, index, key)) for index, (key, value) in enumerate(pairs)]


def try_out(graph: Graph, steps: Iterable[Iterable[Write]], stored: Mapping[str, Any]) -> None:
    """Apply writes to copies of a graph's channels.

    LangGraph stores the writes of a command or an update before the reducers see them, so an invalid one would stay
    with the thread.

    Raises:
        InvalidInput: a channel refuses a value; the error names its place.
    """
    channels: dict[str, Channel] = {}
    for step in steps:
        writes: dict[str, list[tuple[Place, Any]]] = {}
        for key, value, place in step:
            writes.setdefault(key, []).append((place, value))
        for key, made in writes.items():
            channel = graph.channels.get(key)
            if isinstance(channel, BaseChannel) and not isinstance(channel, DeltaChannel):
                if key not in channels:
                    channels[key] = channel.from_checkpoint(stored[key]) if key in stored else _copied(channel)
                channels[key] = _updated(channels[key], made)


def is_doubtful(graph: Graph, writes: Sequence[Write]) -> bool:
    """Return True if a channel may refuse writes that fit the state's types: these must be tried out."""
    keys = {key for key, _, _ in writes}
    return len(keys) < len(writes) or not all(_is_certain(graph.channels.get(key), value) for key, value, _ in writes)


def misfit(error: Exception, place: Place) -> InvalidInput:
    """Return the error for a value that a channel refused; it has the text of LangGraph's own reducers."""
    *_, (raising, _) = walk_tb(error.__traceback__)
    is_own = str(raising.f_globals.get("__name__")).startswith("langgraph.") and str(error)
    reason = str(error).splitlines()[0] if is_own else type(error).__name__
    return invalid(place, f"The graph does not take this value: {reason}", "invalid_update")


def _copied(channel: Channel) -> Channel:
    # A reducer may change the value that it gets, and this one is of all threads.
    return channel.from_checkpoint(deepcopy(channel.get())) if channel.is_available() else channel.copy()


def _updated(channel: Channel, writes: list[tuple[Place, Any]]) -> Channel:
    made = _attempt(channel, writes)
    if isinstance(made, BaseChannel):
        return made
    # A longer part of the writes fails if a shorter one does. Each try takes time.
    parts = range(1, len(writes))
    first = bisect_left(parts, True, key=lambda count: isinstance(_attempt(channel, writes[:count]), Exception))
    error = _attempt(channel, writes[: first + 1])
    assert isinstance(error, Exception)
    raise misfit(error, writes[first][0]) from error


def _attempt(channel: Channel, writes: list[tuple[Place, Any]]) -> Channel | Exception:
    """Return a copy of the channel after writes, or the error with which it refuses them."""
    made = channel.copy()
    try:
        made.update([value for _, value in writes])
    except (InvalidUpdateError, *WRONG_KIND) as error:
        return error
    return made


def _is_certain(channel: Any, value: Any) -> bool:
    if not isinstance(channel, BinaryOperatorAggregate):
        return True  # it takes any single value
    if not channel.is_available() or not isinstance(value, type(channel.get())):
        return False  # only its reducer knows
    return not isinstance(value, list) or not any(isinstance(item, RemoveMessage) for item in value)
