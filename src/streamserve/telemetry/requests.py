"""What belongs to a request and is said with everything it causes: its id, and the trace it is part of."""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from secrets import token_hex
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from streamserve.http.body_sender import offer

HEADER = "X-Request-ID"
# Anything else could forge lines of a log or fill it.
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

Answered = Callable[[int], None]


class RequestContext:
    """ASGI middleware that gives a request its id, in and out, and its logs the id and the trace.

    Args:
        app: the application.
        answered: called with the status of each answer, or None.
        traced: the context manager of a request's trace, given its headers, or None.
    """

    def __init__(
        self, app: ASGIApp, answered: Answered | None = None, traced: Callable[..., Any] | None = None
    ) -> None:
        self._app = app
        self._answered = answered
        self._traced = traced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        bound = bind_contextvars(request_id=request_id, **trace_of(headers))
        try:
            answer = self._sending(scope, send, request_id)
            if self._traced is None:
                await self._app(scope, receive, answer)
                return
            with self._traced(headers):
                await self._app(scope, receive, answer)
        finally:
            reset_contextvars(**bound)

    def _sending(self, scope: Scope, send: Send, request_id: str) -> Send:
        header = (b"x-request-id", request_id.encode("ascii"))

        async def answer(message: Message) -> None:
            if message["type"] != "http.response.start":
                await send(message)
                return
            _add_header(message, header)
            if self._answered is not None:
                self._answered(message["status"])
            await send(message)
            offer(scope, send)

        return answer


def _add_header(message: MutableMapping[str, Any], header: tuple[bytes, bytes]) -> None:
    message["headers"] = [*message.get("headers", ()), header]


def request_id_of(headers: Headers) -> str:
    """The caller's id of the request if it is fit for a log, else a new one."""
    said = headers.get(HEADER, "")
    return said if _ID.fullmatch(said) else token_hex(16)


def trace_of(headers: Headers) -> dict[str, str]:
    """The id of the trace that a W3C `traceparent` names, if there is one."""
    found = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return {"trace_id": found["trace"]} if found and int(found["trace"], 16) else {}


def log_run(run_id: str, chain: str) -> None:
    """Says the run with every record that the current context logs from here on."""
    bind_contextvars(run_id=run_id, chain=chain)
