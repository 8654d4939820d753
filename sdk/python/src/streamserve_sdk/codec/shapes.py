"""Shape the chunks and outputs of each endpoint, and the arguments of its calls."""

from collections.abc import Callable
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, cast

from langchain_core.runnables.utils import AddableDict
from langchain_core.tracers.log_stream import RunLog, RunLogPatch, RunState

from streamserve_sdk.codec.json_text import parse
from streamserve_sdk.codec.merge import merge
from streamserve_sdk.errors import ProtocolError

# The filters of astream_events and astream_log, which are fields of their own in the body.
FILTERS = tuple(f"{verb}_{what}" for verb in ("include", "exclude") for what in ("names", "types", "tags"))
# With one of these arguments, a graph's chunks are snapshots, updates or tuples.
_GRAPH_FORMS = {"stream_mode", "subgraphs", "version"}
# Arguments of the client itself; a server would give them to the chain, which ignores what it does not know.
_OWN = ("detach", "on_attempt", "on_run", "recover", "return_exceptions")


def check_names(kwargs: dict[str, Any]) -> None:
    """Refuse the arguments for the chain that are meant for the client.

    Raises:
        TypeError: a name is one of the client's arguments that this call does not take, or is misspelt.
    """
    for name in kwargs:
        if near := get_close_matches(name, _OWN, 1, cutoff=0.9):
            hint = "" if near[0] == name else f"; did you mean {near[0]!r}?"
            raise TypeError(f"{name!r} is no argument of this call{hint}")


def filtered(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the body's fields for the arguments of a call: its filters, and `kwargs` with the rest."""
    return {
        "kwargs": {name: value for name, value in kwargs.items() if name not in FILTERS},
        **{name: kwargs.get(name) for name in FILTERS},
    }


def as_is(chunk: Any) -> Any:
    """Return the chunk."""
    return chunk


def addable(chunk: Any) -> Any:
    """Return a dict as an AddableDict, and any other chunk unchanged."""
    return AddableDict(chunk) if type(chunk) is dict else chunk


def with_types(shape: Callable[[Any], Any], types: bytes | None) -> Callable[[Any], Any]:
    """Return the function for a chunk with these types beside it: a snapshot stays as it is."""
    if not types or b'"snapshot"' not in types:
        return shape
    try:
        return as_is if parse(types).get("") == "snapshot" else shape
    except (ValueError, AttributeError):  # no types
        return shape


def has_graph_form(kwargs: dict[str, Any]) -> bool:
    """Return True if an argument decides the form of a graph's output or chunks."""
    return bool(_GRAPH_FORMS & kwargs.keys())


def chunk_shape(kwargs: dict[str, Any]) -> Callable[[Any], Any]:
    """Return the function that shapes a call's chunks; those of graph modes stay unchanged."""
    return as_is if has_graph_form(kwargs) else addable


def merging(kwargs: dict[str, Any]) -> Callable[[list[Any]], Any]:
    """Return the function that makes one output of a call's chunks; those of graph modes are not added up."""
    return last if has_graph_form(kwargs) else merge


def last(chunks: list[Any]) -> Any:
    """Return the last chunk, or None."""
    return chunks[-1] if chunks else None


def log_patch(chunk: Any) -> RunLogPatch:
    """Return the patch in a block of `/stream_log`."""
    if not isinstance(chunk, dict) or not isinstance(chunk.get("ops"), list):
        raise ProtocolError("a block of the log has no ops")
    # jsonpatch changes its arguments in place.
    return RunLogPatch(*deepcopy(chunk["ops"]))


def growing_log() -> Callable[[Any], RunLog]:
    """Return a function that adds the patch in each block of `/stream_log` to the log, and returns the log."""
    log = RunLog(state=cast("RunState", None))

    def add(chunk: Any) -> RunLog:
        nonlocal log
        log = log + log_patch(chunk)
        return log

    return add


def whole_log(patches: list[RunLogPatch]) -> RunLogPatch:
    """Return one patch with the operations of all patches."""
    return RunLogPatch(*(operation for patch in patches for operation in patch.ops))


def last_state(values: list[Any]) -> Any:
    """Return the last state in events of version 3, or None."""
    states = (value for value in reversed(values) if isinstance(value, dict) and value.get("method") == "values")
    return next((state["data"] for state in states if not state["namespace"]), None)


def all_events(events: list[Any]) -> list[Any]:
    """Return the events, which are not added up."""
    return events
