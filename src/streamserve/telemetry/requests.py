"""The id of a request and of its trace, which all of its log records show."""

import re
from collections.abc import Callable, MutableMapping
from secrets import token_hex
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

HEADER = "X-Request-ID"
# Other ids could forge lines of the log or fill it.
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

Answered = Callable[[int], None]


class RequestContext:
    """ASGI middleware that adds the request's id to the answer, and the ids of request and trace to its logs.

    Args:
        answered: function called with the status of each answer, or None.
        traced: function that returns the context manager of a request's trace from its headers, or None.
    """

    def __init__(
        self, app: ASGIApp, answered: Answered | None = None, traced: Callable[..., Any] | None = None
    ) -> None:
        self._app = app
        self._answered = answered
        self._traced = traced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        bound = bind_contextvars(request_id=request_id, **trace_of(headers))
        try:
            answer = self._wrap_send(send, request_id)
            if self._traced is None:
                await self._app(scope, receive, answer)
                return
            with self._traced(headers):
                await self._app(scope, receive, answer)
        finally:
            reset_contextvars(**bound)

    def _wrap_send(self, send: Send, request_id: str) -> Send:
        header = (b"x-request-id", request_id.encode("ascii"))

        async def answer(message: Message) -> None:
            if message["type"] != "http.response.start":
                await send(message)
                return
            _add_header(message, header)
            if self._answered is not None:
                self._answered(message["status"])
            await send(message)

        return answer


def _add_header(message: MutableMapping[str, Any], header: tuple[bytes, bytes]) -> None:
    message["headers"] = [*message.get("headers", ()), header]


def request_id_of(headers: Headers) -> str:
    """Return the caller's id of the request if it is safe to log, else a new one."""
    given = headers.get(HEADER, "")
    return given if _ID.fullmatch(given) else token_hex(16)


def trace_of(headers: Headers) -> dict[str, str]:
    """Return the field `trace_id` if a valid W3C `traceparent` names a trace, else no field."""
    found = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return {"trace_id": found["trace"]} if found and int(found["trace"], 16) else {}


def log_run(run_id: str, chain: str) -> None:
    """Add the run and its chain to all further log records of the current context."""
    bind_contextvars(run_id=run_id, chain=chain)
