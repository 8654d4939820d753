"""The keyword arguments that a request may give a graph: those of `CompiledStateGraph.astream` that mean something over
HTTP. Never ignored: what a graph does not take is refused by its name."""

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

# Not here: print_mode and debug print where the server runs, control is an object of its process, and
# checkpoint_during is a deprecated name of durability.
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
# `version` of `astream_events` is that of the events.
OF_EVENTS = NAMES - {"version"}


def read_arguments(kwargs: Mapping[str, Any], chain: Chain, graph: Graph) -> dict[str, Any]:
    """The arguments for a graph, all of them checked; null stands for the default, as None does in process.

    Args:
        kwargs: by name; names that are not in `NAMES` pass unchecked.
        chain: says which stream modes are allowed.
        graph: says which keys, nodes and context it has.

    Raises:
        InvalidInput: one does not fit, with the place.
    """
    reader = _Reader(chain, graph)
    return {
        name: reader.read(name, value) if name in NAMES else value
        for name, value in kwargs.items()
        if value is not None
    }


class _Reader:
    def __init__(self, chain: Chain, graph: Graph) -> None:
        self._chain = chain
        self._graph = graph

    def read(self, name: str, value: Any) -> Any:
        place = ("body", "kwargs", name)
        read: Callable[[Place, Any], Any] = getattr(self, f"_{name}")
        return read(place, value)

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
    """The keys of the state that a caller may name: those of its output, and all where it may stream them anyway."""
    state = graph.stream_channels_list if "values" in chain.stream_modes else ()
    return list(dict.fromkeys([*_listed(graph.output_channels), *state]))


@lru_cache
def _adapter(schema: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(schema)
    except PydanticUserError:  # such as a connection: the server's own, which no request can bring
        return None


def _listed(keys: str | Sequence[str]) -> Sequence[str]:
    return [keys] if isinstance(keys, str) else keys


def _some_of(place: Place, value: Any, options: Sequence[str]) -> Any:
    for item in value if isinstance(value, list) and value else [value]:
        _one_of(place, item, options)
    return value


def _one_of(place: Place, value: Any, options: Collection[str]) -> Any:
    # Not `value in options`: a list is not hashable, and a set would raise.
    if not any(value == option for option in options):
        raise _no_option(place, options)
    return value


def _no_option(place: Place, options: Collection[str]) -> InvalidInput:
    return invalid(place, f"Input should be one of: {', '.join(options)}", "literal_error")
