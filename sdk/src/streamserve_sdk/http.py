"""The two thin drivers between a session and httpx: one waits, one awaits, neither decides."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from typing import Any

import httpx

from streamserve_sdk.clients import HttpClients
from streamserve_sdk.errors import StreamServeError
from streamserve_sdk.failures import from_transport
from streamserve_sdk.session import StreamSession
from streamserve_sdk.sse import ServerSentEvent
from streamserve_sdk.wire import Reply, Request

logger = logging.getLogger(__name__)

# What may go wrong on the way; the rest of httpx's errors are mistakes of the caller.
TRANSPORT_ERRORS = (httpx.TransportError, httpx.DecodingError)


def send(clients: HttpClients, request: Request) -> Reply:
    """Send a request and read its whole answer.

    Args:
        clients: where the connection comes from.
        request: what to send.

    Raises:
        ConnectionFailed: no whole answer came.
    """
    try:
        return _reply(clients.sync().request(**_arguments(request)))
    except TRANSPORT_ERRORS as error:
        raise from_transport(error, request.url) from error


async def asend(clients: HttpClients, request: Request) -> Reply:
    """Send a request and read its whole answer; arguments and errors as of `send`."""
    try:
        return _reply(await (await clients.current()).request(**_arguments(request)))
    except TRANSPORT_ERRORS as error:
        raise from_transport(error, request.url) from error


def read(clients: HttpClients, session: StreamSession) -> Generator[ServerSentEvent]:
    """Yield every block of data of a stream; a reader that leaves early cancels the run.

    Args:
        clients: where the connections come from.
        session: what decides.

    Raises:
        StreamServeError: the stream failed.
    """
    try:
        while not session.finished:
            with closing(_attempt(clients, session)) as blocks:
                yield from blocks
            time.sleep(session.delay)
    finally:
        if cancellation := session.cancellation():
            clients.run_beside(lambda: _cancel(clients, cancellation))


async def aread(clients: HttpClients, session: StreamSession) -> AsyncGenerator[ServerSentEvent]:
    """Yield every block of data of a stream; arguments and errors as of `read`."""
    try:
        while not session.finished:
            async with aclosing(_aattempt(clients, session)) as blocks:
                async for block in blocks:
                    yield block
            await asyncio.sleep(session.delay)
    finally:
        if cancellation := session.cancellation():
            await clients.arun_beside(asyncio.create_task(_acancel(clients, cancellation)))


def _attempt(clients: HttpClients, session: StreamSession) -> Generator[ServerSentEvent]:
    try:
        with clients.sync().stream(**_arguments(session.request())) as response:
            if response.status_code != httpx.codes.OK:
                response.read()
            session.started(_reply(response))
            _watch(response, session.silence)
            for data in response.iter_raw() if _is_as_sent(response) else response.iter_bytes():
                yield from session.receive(data)
                if not session.reading:
                    return
        session.ended()
    except StreamServeError:
        raise
    except TRANSPORT_ERRORS as error:
        session.failed(error)


async def _aattempt(clients: HttpClients, session: StreamSession) -> AsyncGenerator[ServerSentEvent]:
    client = await clients.current()
    try:
        async with client.stream(**_arguments(session.request())) as response:
            if response.status_code != httpx.codes.OK:
                await response.aread()
            session.started(_reply(response))
            _watch(response, session.silence)
            async for data in response.aiter_raw() if _is_as_sent(response) else response.aiter_bytes():
                for block in session.receive(data):
                    yield block
                if not session.reading:
                    return
        session.ended()
    except StreamServeError:
        raise
    except TRANSPORT_ERRORS as error:
        session.failed(error)


def _cancel(clients: HttpClients, request: Request) -> None:
    try:
        reply = send(clients, request)
        logger.debug("cancel answered %d: %s", reply.status, request.url)
    except Exception:
        logger.debug("cancel failed: %s", request.url, exc_info=True)


async def _acancel(clients: HttpClients, request: Request) -> None:
    try:
        reply = await asend(clients, request)
        logger.debug("cancel answered %d: %s", reply.status, request.url)
    except Exception:
        logger.debug("cancel failed: %s", request.url, exc_info=True)


def _arguments(request: Request) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "method": request.method,
        "url": request.url,
        "headers": request.headers,
        "content": request.content,
    }
    if request.silence is not None:
        arguments["timeout"] = request.silence
    return arguments


def _reply(response: httpx.Response) -> Reply:
    return Reply(response.status_code, response.headers, response.content if response.is_closed else b"")


def _is_as_sent(response: httpx.Response) -> bool:
    # Looking for an encoding costs httpx as much per read as all else of ours.
    return not response.is_stream_consumed and "content-encoding" not in response.headers


def _watch(response: httpx.Response, silence: float | None) -> None:
    # The transport reads its limit when the body's first byte is asked for: only now is the server known.
    limits = response.request.extensions.get("timeout")
    if silence is not None and isinstance(limits, dict):
        limits["read"] = silence
