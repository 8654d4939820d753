"""The keyword arguments of a request for a graph: those of `CompiledStateGraph.astream` that make sense over HTTP.

No argument is ignored: an argument that the graph does not take is refused by its name.
"""

from collections.abc import Collection, Mapping, Sequence
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
    (
        "stream_mode",
        "subgraphs",
        "output_keys",
        "interrupt_before",
        "interrupt_after",
        "durability",
        "context",
        "version",
    )
)
# In `astream_events`, `version` is the version of the events.
OF_EVENTS = NAMES - {"version"}


def read_arguments(kwargs: Mapping[str, Any], chain: Chain, graph: Graph) -> dict[str, Any]:
    """Return the validated arguments for a graph; null selects the default, as None does in process.

    Names outside `NAMES` are not validated.

    Raises:
        InvalidInput: An argument does not fit; the error names its place.
    """
    return {
        name: _parse(("body", "kwargs", name), value, chain, graph) if name in NAMES else value
        for name, value in kwargs.items()
        if value is not None
    }


def _parse(place: Place, value: Any, chain: Chain, graph: Graph) -> Any:
    match place[-1]:
        case "stream_mode":
            return _some_of(place, value, chain.stream_modes)
        case "output_keys":
            return _some_of(place, value, visible_keys(chain, graph))
        case "interrupt_before" | "interrupt_after":
            return _breakpoints(place, value, graph)
        case "durability":
            return _one_of(place, value, get_args(Durability))
        case "version":
            return _one_of(place, value, ("v1", "v2"))
        case "context":
            return _context(place, value, graph.context_schema)
    if not isinstance(value, bool):
        raise invalid(place, "Input should be a valid boolean", "bool_type")
    return value


def _breakpoints(place: Place, value: Any, graph: Graph) -> Any:
    nodes = [name for name in graph.nodes if name != START]
    if value == "*" or (isinstance(value, list) and all(node in nodes for node in value)):
        return value
    raise _no_option(place, ["*", *nodes])


def _context(place: Place, value: Any, schema: Any) -> Any:
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
