"""The keyword arguments of a request for a graph: those of `CompiledStateGraph.astream` that make sense over HTTP.

No argument is ignored: an argument that the graph does not take is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args

from langgraph.constants import START
from langgraph.types import Durability
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from streamserve.catalog.chain import Chain
from streamserve.errors import InvalidInput
from streamserve.errors.places import Place, entry, invalid
from streamserve.graphs.graph import Graph

# Left out: print_mode and debug print on the server, control is an object of its process, and checkpoint_during is a
# deprecated name of durability.
NAMES = frozenset(
    {
        "stream_mode",
        "subgraphs",
        "output_keys",
        "interrupt_before",
        "interrupt_after",
        "durability",
        "context",
        "version",
    }
)
# In `astream_events`, `version` is the version of the events.
OF_EVENTS = NAMES - {"version"}


def read_arguments(kwargs: Mapping[str, Any], chain: Chain, graph: Graph) -> dict[str, Any]:
    """Return the validated arguments for a graph; null selects the default, as None does in process.

    Args:
        kwargs: The arguments by name; names outside `NAMES` are not validated.
        chain: The chain record, with the allowed stream modes.
        graph: The graph, with its keys, nodes and context.

    Raises:
        InvalidInput: An argument does not fit; the error names its place.
    """
    parser = _Parser(chain, graph)
    return {
        name: parser.parse(name, value) if name in NAMES else value
        for name, value in kwargs.items()
        if value is not None
    }


class _Parser:
    def __init__(self, chain: Chain, graph: Graph) -> None:
        self._chain = chain
        self._graph = graph

    def parse(self, name: str, value: Any) -> Any:
        place = ("body", "kwargs", name)
        parse: Callable[[Place, Any], Any] = getattr(self, f"_{name}")
        return parse(place, value)

    def _stream_mode(self, place: Place, value: Any) -> Any:
        return _some_of(place, value, self._chain.stream_modes)

    def _output_keys(self, place: Place, value: Any) -> Any:
        return _some_of(place, value, visible_keys(self._chain, self._graph))

    def _interrupt_before(self, place: Place, value: Any) -> Any:
        nodes = [name for name in self._graph.nodes if name != START]
        if value == "*" or (isinstance(value, list) and all(node in nodes for node in value)):
            return value
        raise _no_option(place, ["*", *nodes])

    _interrupt_after = _interrupt_before

    def _durability(self, place: Place, value: Any) -> Any:
        return _one_of(place, value, get_args(Durability))

    def _version(self, place: Place, value: Any) -> Any:
        return _one_of(place, value, ("v1", "v2"))

    def _subgraphs(self, place: Place, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        raise invalid(place, "Input should be a valid boolean", "bool_type")

    def _context(self, place: Place, value: Any) -> Any:
        schema: Any = self._graph.context_schema
        adapter = None if schema is None else _adapter(schema)
        if adapter is None:
            raise invalid(place, "This graph takes no context", "extra_forbidden")
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            raise InvalidInput([entry((*place, *at["loc"]), at["msg"], at["type"]) for at in error.errors()]) from error


def visible_keys(chain: Chain, graph: Graph) -> list[str]:
    """Return the state's keys that a caller may name: the output's keys, and all keys if `values` may be streamed."""
    state = graph.stream_channels_list if "values" in chain.stream_modes else ()
    return list(dict.fromkeys([*_listed(graph.output_channels), *state]))


@lru_cache
def _adapter(schema: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(schema)
    except PydanticUserError:  # the class of an object in the server, such as a connection
        return None


def _listed(keys: str | Sequence[str]) -> Sequence[str]:
    return [keys] if isinstance(keys, str) else keys


def _some_of(place: Place, value: Any, options: Sequence[str]) -> Any:
    for item in value if isinstance(value, list) and value else [value]:
        _one_of(place, item, options)
    return value


def _one_of(place: Place, value: Any, options: Collection[str]) -> Any:
    # Not `value in options`: a set raises TypeError for an unhashable value.
    if not any(value == option for option in options):
        raise _no_option(place, options)
    return value


def _no_option(place: Place, options: Collection[str]) -> InvalidInput:
    return invalid(place, f"Input should be one of: {', '.join(options)}", "literal_error")
