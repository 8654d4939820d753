"""Bounds of a request: the bytes of its head and body, the time of its body, and a body declared as JSON.

All large bodies that arrive or wait for their parser have a bound together.

A plain ASGI middleware. It bounds the body while the body is read, so an answer need not wait for the whole body.
"""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamserve.errors import (
    BadRequest,
    BodyTimeout,
    BodyTooLarge,
    HeadersTooLarge,
    Overloaded,
    ServeError,
    UnsupportedMediaType,
)
from streamserve.private_names.uvicorn import abort
from streamserve.settings import Settings

# Seconds in which a caller that still sends may read its answer: a connection closed at once would lose the answer.
LINGER = 2.0
# Bytes of an unread body for which a connection is kept, and of a body that does not count among the incoming ones.
SMALL = 64 * 2**10
# Fields of a query: thousands of them fit into a head, and each request's query is parsed on the event loop.
MAX_QUERY_FIELDS = 100
# Name of the body in a request's scope.
BODY = "streamserve.body"


class Incoming:
    """The bytes of all large bodies that are not parsed yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0

    def add(self, more: int, of_body: int) -> None:
        """Count more bytes of a body that has so many so far; one body alone is always taken.

        Raises:
            Overloaded: all bodies have too many.
        """
        self._bytes += more
        if self._bytes > self._most and self._bytes > of_body:
            raise Overloaded("The server is receiving as many large bodies as it takes")

    def remove(self, of_body: int) -> None:
        """Count a body no longer."""
        self._bytes -= of_body


class Body:
    """The body of one request; bounds what is received, and closes the connection of a caller that still sends."""

    def __init__(self, headers: Headers, receive: Receive, send: Send, settings: Settings, incoming: Incoming) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._incoming = incoming
        self._received = self._counted = 0
        self._whole = False
        self._closing = False
        self._deadline = asyncio.get_running_loop().time() + settings.body_timeout
        length = headers.get("content-length", "")
        # A server refuses a malformed length; the number of digits is bounded here all the same.
        self.declared = int(length[:15]) if length.isascii() and length.isdigit() else 0
        self.expected = self.declared > 0 or "transfer-encoding" in headers

    async def receive(self) -> Message:
        """Receive a message, as ASGI's `receive`.

        Raises:
            BodyTooLarge: the body has more bytes than the settings allow.
            BodyTimeout: the body takes longer than the settings allow.
            Overloaded: all bodies have more bytes than the settings allow.
        """
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise BodyTimeout() from None
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        self._received += len(message.get("body", b""))
        if self._received > self._settings.max_body_bytes:
            raise _too_large(self._settings)
        if self._received > SMALL:
            more, self._counted = self._received - self._counted, self._received
            self._incoming.add(more, self._counted)
        return message

    def release(self) -> None:
        """Count the bytes of this body no longer: it is parsed, or its request has ended."""
        self._incoming.remove(self._counted)
        self._counted = 0

    def abort(self) -> None:
        """Close the connection without sending what its buffer still has."""
        abort(self._receive)

    async def send(self, message: Message) -> None:
        """Send a message, as ASGI's `send`; close the connection of a caller that still sends."""
        if message["type"] == "http.response.start" and self._is_unread():
            self._closing = True
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        if not self._closing or message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._linger()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _is_unread(self) -> bool:
        return self.expected and not self._whole and not (0 < self.declared <= SMALL and self._received == 0)

    async def _linger(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (message := await self._receive()).get("more_body", False):
                    del message


class Intake:
    """Refuse a request that is too large or too slow before it costs anything.

    Args:
        incoming: the large bodies of all requests.
    """

    def __init__(self, app: ASGIApp, settings: Settings, incoming: Incoming) -> None:
        self._app = app
        self._settings = settings
        self._incoming = incoming

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or BODY in scope:  # already bounded, by the whole application
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = scope[BODY] = Body(headers, receive, send, self._settings, self._incoming)
        refused = self._refusal(scope, headers, body)
        if refused is None:
            try:
                await self._app(scope, body.receive, body.send)
            finally:
                body.release()
        else:
            answer = JSONResponse(refused.body(), status_code=refused.status, headers=refused.answer_headers)
            await answer(scope, receive, body.send)

    def _refusal(self, scope: Scope, headers: Headers, body: Body) -> ServeError | None:
        head = sum(len(name) + len(value) for name, value in scope["headers"])
        if head + len(scope.get("raw_path") or b"") + len(scope["query_string"]) > self._settings.max_header_bytes:
            return HeadersTooLarge()
        if scope["query_string"].count(b"&") >= MAX_QUERY_FIELDS:
            return BadRequest(f"The query has more than {MAX_QUERY_FIELDS} fields")
        if body.declared > self._settings.max_body_bytes:
            return _too_large(self._settings)
        kind = headers.get("content-type")
        if scope["method"] == "POST" and (body.expected or kind is not None) and not _is_json(kind):
            return UnsupportedMediaType()
        if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
            return UnsupportedMediaType("Content-Encoding: only identity, the body as it is")
        return None


def _is_json(content_type: str | None) -> bool:
    return content_type is not None and content_type.partition(";")[0].strip().lower() == "application/json"


def _too_large(settings: Settings) -> BodyTooLarge:
    return BodyTooLarge(f"The body has more than {settings.max_body_bytes} bytes")
