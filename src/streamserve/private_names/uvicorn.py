"""uvicorn: its HTTP protocol, the transport behind a request's `receive`, and the server behind its signal handler.

Without the protocol, the head of a request has no bound of ours; without its cycle, data after a request's body may cut
the response. Without the transport, a connection that was dropped stays until the client closes it. Without the server,
a signal ends the process as uvicorn's own handler does.
"""

from typing import Any

from streamserve.private_names import find

_protocol: Any = find("uvicorn.protocols.http.httptools_impl", "HttpToolsProtocol")
_METHODS = ("on_headers_complete", "on_message_complete", "data_received", "send_400_response")

CAN_BOUND_HEADS = all(hasattr(_protocol, name) for name in _METHODS)
# The base of our protocol, which is used only if it can bound heads.
HttpToolsProtocol: Any = _protocol or object


def abort(receive: Any) -> None:
    """Close a request's connection without sending what its buffer still has; `receive` is the server's own."""
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if callable(close := getattr(transport, "abort", None)):
        close()


def is_answering(protocol: Any) -> bool:
    """Return whether a response is under way on an HTTP protocol's connection."""
    return getattr(getattr(protocol, "cycle", None), "response_complete", True) is False


def stop_server(handler: Any) -> bool:
    """Let the server whose signal handler this is stop in order; return whether the handler is a server's."""
    server: Any = getattr(handler, "__self__", None)
    if getattr(server, "should_exit", None) is not False:
        return False
    server.should_exit = True
    return True
