"""An update of a thread's state: values from JSON, applied by the graph's own reducers, refused with their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.channels.base import BaseChannel
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import InvalidUpdateError
from langgraph.pregel import Pregel
from langgraph.types import Command
from langgraph.types import StateUpdate as GraphUpdate
from pydantic import ValidationError

from streamserve.api.threads.requests import StateUpdate, Update
from streamserve.errors import InvalidInput
from streamserve.errors.places import Place, entry, invalid
from streamserve.graphs.commands import Commands, is_command
from streamserve.graphs.graph import Graph
from streamserve.graphs.state_values import StateValues

Steps = list[list[GraphUpdate]]

# What a reducer, or an edge's condition, raises when a value is not of the kind that it takes.
_NO_FIT = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError, ArithmeticError)


class Updates:
    """Applies updates to the threads of one graph, and to those of its subgraphs."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._readers = {"": _Reader(graph)}

    async def apply(self, asked: StateUpdate, thread_id: str) -> RunnableConfig:
        """Applies the updates of a request.

        Args:
            asked: the body.
            thread_id: the thread; begins here if there is none.

        Returns:
            The config of the new checkpoint.

        Raises:
            InvalidInput: the graph does not take an update, with its place.
        """
        places = _places(asked)
        reader = self._reader(asked.place.checkpoint_ns or "")
        steps = [
            [reader.read(update, place) for update, place in zip(step.updates, row, strict=True)]
            for step, row in zip(asked.steps, places, strict=True)
        ]
        config = asked.place.config(thread_id)
        # LangGraph stores the writes before the reducers see them: a wrong one would stay with the thread.
        reader.try_out(steps, places, await _stored(self._graph, config))
        try:
            return await self._graph.abulk_update_state(config, steps)
        except InvalidUpdateError as error:
            raise _refusal(error, asked) from error
        except _NO_FIT as error:
            raise _misfit(error, _whole(asked)) from error

    def _reader(self, namespace: str) -> _Reader:
        # As LangGraph finds a subgraph: by the names of the nodes, without the ids of their tasks.
        path = "|".join(part.partition(":")[0] for part in namespace.split("|") if not part.isdecimal())
        if path not in self._readers:
            found = next((graph for _, graph in self._graph.get_subgraphs(namespace=path, recurse=True)), None)
            if not isinstance(found, Pregel):
                raise invalid(("body", "checkpoint", "checkpoint_ns"), "The graph has no such subgraph", "value_error")
            self._readers[path] = _Reader(found)
        return self._readers[path]


class _Reader:
    """Reads the updates of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._values = StateValues(graph)
        self._commands = Commands(graph, self._values)

    def read(self, update: Update, place: Place) -> GraphUpdate:
        """The update as LangGraph takes it.

        Raises:
            InvalidInput: its values do not fit, with the place.
        """
        try:
            values = self._read_values(update.values, (*place, "values"))
        except ValidationError as error:
            raise InvalidInput(
                [entry((*place, "values", *at["loc"]), at["msg"], at["type"]) for at in error.errors()]
            ) from error
        return GraphUpdate(values, update.as_node, update.task_id)

    def try_out(self, steps: Steps, places: list[list[Place]], stored: Mapping[str, Any]) -> None:
        """Applies the updates to a copy of the state.

        Raises:
            InvalidInput: the reducer of a key does not take a value, with the place.
        """
        channels: dict[str, BaseChannel[Any, Any, Any]] = {}
        for step, row in zip(steps, places, strict=True):
            writes: dict[str, list[tuple[Place, Any]]] = {}
            for update, place in zip(step, row, strict=True):
                for key, value, at in _written(update.values, (*place, "values")):
                    writes.setdefault(key, []).append((at, value))
            for key, made in writes.items():
                channel = self._graph.channels.get(key)
                if isinstance(channel, BaseChannel) and not isinstance(channel, DeltaChannel):
                    if key not in channels:
                        channels[key] = channel.from_checkpoint(stored[key]) if key in stored else channel.copy()
                    channels[key] = _updated(channels[key], made)

    def _read_values(self, values: Any, place: Place) -> Any:
        if not isinstance(values, dict):
            return values
        if is_command(values, self._graph):
            return self._commands.read(values)
        for key in values:
            # LangGraph drops what is no key of the state; over HTTP nobody would see the slip.
            if key not in self._graph.channels:
                raise invalid((*place, key), "The graph's state has no such key", "extra_forbidden")
        return self._values.read(values)


async def _stored(graph: Graph, config: RunnableConfig) -> Mapping[str, Any]:
    saver = graph.checkpointer
    assert isinstance(saver, BaseCheckpointSaver)
    found = await saver.aget_tuple(config)
    return found.checkpoint["channel_values"] if found else {}


def _written(values: Any, place: Place) -> Iterator[tuple[str, Any, Place]]:
    if isinstance(values, Command):
        values, place = values.update, (*place, "update")
    for key, value in values.items() if isinstance(values, dict) else ():
        yield key, value, (*place, key)


def _updated(channel: BaseChannel[Any, Any, Any], writes: list[tuple[Place, Any]]) -> BaseChannel[Any, Any, Any]:
    for count in range(1, len(writes) + 1):  # one more at a time, so that the first misfit is found
        made = channel.copy()
        try:
            made.update([value for _, value in writes[:count]])
        except (InvalidUpdateError, *_NO_FIT) as error:
            raise _misfit(error, writes[count - 1][0]) from error
    return made


def _misfit(error: Exception, place: Place) -> InvalidInput:
    return invalid(place, f"The graph does not take this value: {type(error).__name__}", "invalid_update")


def _places(asked: StateUpdate) -> list[list[Place]]:
    if asked.supersteps is None:
        return [[("body",)]]
    return [
        [("body", "supersteps", step, "updates", item) for item in range(len(superstep.updates))]
        for step, superstep in enumerate(asked.supersteps)
    ]


def _whole(asked: StateUpdate) -> Place:
    return ("body", "values" if asked.supersteps is None else "supersteps")


def _refusal(error: InvalidUpdateError, asked: StateUpdate) -> InvalidInput:
    text = str(error).splitlines()[0]
    about_node = asked.supersteps is None and text.startswith(("Node ", "Ambiguous", "as_node"))
    return invalid(("body", "as_node") if about_node else _whole(asked), text, "invalid_update")
