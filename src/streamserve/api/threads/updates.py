"""Updates of a thread's state: values from JSON, applied by the graph's own reducers or refused with their place."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import InvalidUpdateError
from langgraph.pregel import Pregel
from langgraph.types import StateUpdate as GraphUpdate
from pydantic import ValidationError

from streamserve.api.threads.requests import StateUpdate, Superstep, Update
from streamserve.call import current_call
from streamserve.errors import InvalidInput
from streamserve.errors.places import Place, entry, invalid
from streamserve.graphs.commands import Commands, is_command
from streamserve.graphs.graph import Graph
from streamserve.graphs.state_parser import StateParser
from streamserve.graphs.state_writes import WRONG_KIND, misfit, stored_values, try_out, writes_of
from streamserve.http.body import ChainRequest
from streamserve.user import as_user

Steps = list[list[GraphUpdate]]


class Updates:
    """The updates of one graph's threads and of its subgraphs."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parsers = {"": _Parser(graph)}

    async def apply(self, request: ChainRequest, body: StateUpdate, thread_id: str) -> RunnableConfig:
        """Apply the updates of a request, and return the config of the new checkpoint; an unknown thread starts here.

        Args:
            request: the request.
            body: its body.
            thread_id: the thread.

        Raises:
            InvalidInput: The graph refuses an update; the error names its place.
        """
        places = _places(body)
        parser = self._parser(body.place.checkpoint_ns or "")
        steps = await request.aside(parser.parse_all, body.steps, places)
        call = current_call.get()
        config = as_user(body.place.config(thread_id), call.user if call else None)
        await request.aside(parser.try_out, steps, places, await stored_values(self._graph, config))
        try:
            return await self._graph.abulk_update_state(config, steps)
        except InvalidUpdateError as error:
            raise _refusal(error, body) from error
        except WRONG_KIND as error:
            raise misfit(error, _values_place(body)) from error

    def _parser(self, namespace: str) -> "_Parser":
        # Like LangGraph, by the names of the nodes, without the ids of their tasks.
        path = "|".join(part.partition(":")[0] for part in namespace.split("|") if not part.isdecimal())
        if path not in self._parsers:
            found = next((graph for _, graph in self._graph.get_subgraphs(namespace=path, recurse=True)), None)
            if not isinstance(found, Pregel):
                raise invalid(("body", "checkpoint", "checkpoint_ns"), "The graph has no such subgraph", "value_error")
            self._parsers[path] = _Parser(found)
        return self._parsers[path]


class _Parser:
    """The parser of one graph's updates."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._values = StateParser(graph)
        self._commands = Commands(graph, self._values)

    def parse_all(self, steps: list[Superstep], places: list[list[Place]]) -> Steps:
        return [
            [self._parse(update, place) for update, place in zip(step.updates, row, strict=True)]
            for step, row in zip(steps, places, strict=True)
        ]

    def _parse(self, update: Update, place: Place) -> GraphUpdate:
        try:
            values = self._parse_values(update.values)
        except ValidationError as error:
            raise InvalidInput(
                [entry((*place, "values", *at["loc"]), at["msg"], at["type"]) for at in error.errors()]
            ) from error
        return GraphUpdate(values, update.as_node, update.task_id)

    def try_out(self, steps: Steps, places: list[list[Place]], stored: Mapping[str, Any]) -> None:
        writes = []
        for step, row in zip(steps, places, strict=True):
            of_updates = (writes_of(one.values, (*at, "values")) for one, at in zip(step, row, strict=True))
            writes.append(list(chain.from_iterable(of_updates)))
        try_out(self._graph, writes, stored)

    def _parse_values(self, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if is_command(values, self._graph):
            return self._commands.read(values)
        return dict(self._values.read_update(values.items()))


def _places(body: StateUpdate) -> list[list[Place]]:
    if body.supersteps is None:
        return [[("body",)]]
    return [
        [("body", "supersteps", step, "updates", item) for item in range(len(superstep.updates))]
        for step, superstep in enumerate(body.supersteps)
    ]


def _values_place(body: StateUpdate) -> Place:
    return ("body", "values" if body.supersteps is None else "supersteps")


def _refusal(error: InvalidUpdateError, body: StateUpdate) -> InvalidInput:
    text = str(error).splitlines()[0]
    about_node = body.supersteps is None and text.startswith(("Node ", "Ambiguous", "as_node"))
    return invalid(("body", "as_node") if about_node else _values_place(body), text, "invalid_update")
