"""One request and its whole answer."""

from typing import Any

import httpx

from streamserve_sdk.transport.clients import HttpClients
from streamserve_sdk.transport.failures import from_transport
from streamserve_sdk.transport.wire import Reply, Request

# Failures of the connection; the rest of httpx's errors are mistakes of the caller.
TRANSPORT_ERRORS = (httpx.TransportError, httpx.DecodingError)


def send(clients: HttpClients, request: Request) -> Reply:
    """Send a request and read its whole answer.

    Args:
        clients: the source of the connection.
        request: the request.

    Raises:
        ConnectionFailed: the answer did not arrive whole.
    """
    try:
        return reply_of(clients.sync().request(**arguments(request)))
    except TRANSPORT_ERRORS as error:
        raise from_transport(error, request.url) from error


async def asend(clients: HttpClients, request: Request) -> Reply:
    """Send a request and read its whole answer; arguments and errors are those of `send`."""
    try:
        return reply_of(await (await clients.current()).request(**arguments(request)))
    except TRANSPORT_ERRORS as error:
        raise from_transport(error, request.url) from error


def arguments(request: Request) -> dict[str, Any]:
    """Return the arguments of httpx for a request."""
    arguments: dict[str, Any] = {
        "method": request.method,
        "url": request.url,
        "headers": request.headers,
        "content": request.content,
    }
    if request.silence is not None:
        arguments["timeout"] = request.silence
    return arguments


def reply_of(response: httpx.Response) -> Reply:
    """Return a response as a reply, with its body if it is read."""
    return Reply(response.status_code, response.headers, response.content if response.is_closed else b"")
