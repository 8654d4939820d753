"""The short way of a body to the server."""

from __future__ import annotations

from typing import cast

from starlette.types import Scope, Send

KEY = "streamserve.send_body"


def offer(scope: Scope, send: Send) -> None:
    """Offers a way past what comes further in: starlette's handlers of errors, and middlewares that change heads only.

    Each of them wraps `send` in a coroutine, which is a tenth of a token's way through the server.

    Args:
        scope: of a request whose answer's head has just been sent by `send`: with a middleware on the way that keeps
            messages in a queue, a body could else come before it.
        send: as the offering middleware has it.
    """
    scope[KEY] = send


def body_sender(scope: Scope, send: Send) -> Send:
    """What sends the parts of a body, all but the last one; asked once, when the head is sent.

    Args:
        scope: of the request.
        send: where nothing is offered.
    """
    return cast(Send, scope.get(KEY, send))
