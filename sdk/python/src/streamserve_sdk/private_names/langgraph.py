"""langgraph: `stream._mux.StreamMux`. Without it, graphs and chains have no events of version 3."""

from importlib import import_module
from typing import Any


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
