"""langgraph: the class of run streams, and the keys of `configurable` that tell a node about its task.

Without `stream._mux.StreamMux`, graphs and chains have no events of version 3. Without the keys, a remote graph in a
node does not interrupt the local graph: `__interrupt__` stays in its output, and a resumed node starts it again.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

_SCRATCHPAD = "__pregel_scratchpad"
_RESUMING = "__pregel_resuming"
_RESUME_MAP = "__pregel_resume_map"


def stream_mux() -> Any:
    """Return the class that distributes the events of a run stream.

    Raises:
        ModuleNotFoundError: langgraph is not installed.
        NotImplementedError: the installed langgraph does not have the class.
    """
    langgraph_stream = import_module("langgraph.stream")
    try:
        return import_module("._mux", langgraph_stream.__name__).StreamMux
    except (ImportError, AttributeError) as error:
        raise NotImplementedError("this version of langgraph has no run streams that the client can feed") from error


def is_task(configurable: Mapping[str, Any]) -> bool:
    """Return True if a node of a graph runs with this `configurable`."""
    return _SCRATCHPAD in configurable


def is_resuming(configurable: Mapping[str, Any]) -> bool:
    """Return True if the graph resumes, so the node may have begun before."""
    return is_task(configurable) and bool(configurable.get(_RESUMING))


def answers_by_id(configurable: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the answers of a `Command(resume={id: answer})`, or None if the graph did not get such a command."""
    answers: Mapping[str, Any] | None = configurable.get(_RESUME_MAP)
    return answers


def take_answer(configurable: Mapping[str, Any]) -> Any:
    """Return the answer of a `Command(resume=answer)` and use it up, or return None."""
    take = getattr(configurable.get(_SCRATCHPAD), "get_null_resume", None)
    return take(True) if take else None
