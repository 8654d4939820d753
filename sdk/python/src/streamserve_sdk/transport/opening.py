"""Open a stream's connection, and notice a proxy that holds the stream back.

Such a proxy passes on nothing, not even the head, until its buffer is full or the stream ends. If there is no head
after a while, a small request tells why: if the server answers it, a proxy holds the stream back, else the server is
slow. The stream's own request stays open meanwhile: another server would run the chain again for a second one.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context

import httpx

from streamserve_sdk.errors import ConnectionFailed
from streamserve_sdk.transport.clients import HttpClients
from streamserve_sdk.transport.exchange import arguments, asend, send
from streamserve_sdk.transport.failures import is_streamserve
from streamserve_sdk.transport.links import run_url
from streamserve_sdk.transport.polling import HELD_AFTER, HeldBack
from streamserve_sdk.transport.session import CANCEL_TIMEOUT, StreamSession
from streamserve_sdk.transport.wire import JSON_HEADERS, Request


@contextmanager
def opened(clients: HttpClients, session: StreamSession) -> Iterator[httpx.Response]:
    """Yield the response to the session's next request, with its head read.

    Raises:
        HeldBack: a proxy holds the stream back.
    """
    client, probe = clients.sync(), _probe(session)
    request = client.build_request(**arguments(session.request()))
    response = client.send(request, stream=True) if probe is None else _watched(clients, request, probe)
    try:
        yield response
    finally:
        response.close()


@asynccontextmanager
async def aopened(clients: HttpClients, session: StreamSession) -> AsyncIterator[httpx.Response]:
    """Yield the response to the session's next request; errors are those of `opened`."""
    client, probe = await clients.current(), _probe(session)
    request = client.build_request(**arguments(session.request()))
    response = await (client.send(request, stream=True) if probe is None else _awatched(clients, request, probe))
    try:
        yield response
    finally:
        await response.aclose()


def _probe(session: StreamSession) -> Request | None:
    """Return the request that tells whether the server answers; None: the stream needs no watching."""
    if session.polling or session.passes or session.one_shot:
        return None
    name = session.run_id or (session.first and session.first.headers.get("Idempotency-Key")) or "unknown"
    return Request("GET", run_url(session.runs_url, name), JSON_HEADERS, silence=CANCEL_TIMEOUT)


def _watched(clients: HttpClients, request: httpx.Request, probe: Request) -> httpx.Response:
    client, context, head = clients.sync(), copy_context(), Future[httpx.Response]()

    def read() -> None:
        try:
            head.set_result(context.run(client.send, request, stream=True))
        except BaseException as error:
            head.set_exception(error)

    threading.Thread(target=read, name="streamserve-head", daemon=True).start()
    try:
        try:
            return head.result(HELD_AFTER)
        except TimeoutError:
            if not head.done() and _answers(clients, probe):
                raise HeldBack from None
            return head.result()
    except BaseException:
        head.add_done_callback(_close)
        raise


async def _awatched(clients: HttpClients, request: httpx.Request, probe: Request) -> httpx.Response:
    client, loop, scope = await clients.current(), asyncio.get_running_loop(), asyncio.timeout(None)
    checks: list[asyncio.Task[None]] = []
    # Not in a task of its own: aiohttp drops what has arrived if the connection breaks before somebody reads it.
    timer = loop.call_later(HELD_AFTER, lambda: checks.append(loop.create_task(_end_if_held(clients, probe, scope))))
    try:
        async with scope:
            return await client.send(request, stream=True)
    except TimeoutError:
        raise HeldBack from None
    finally:
        timer.cancel()
        for check in checks:
            check.cancel()


async def _end_if_held(clients: HttpClients, probe: Request, scope: asyncio.Timeout) -> None:
    if await _aanswers(clients, probe):
        scope.reschedule(asyncio.get_running_loop().time())


def _close(head: Future[httpx.Response]) -> None:
    if head.exception() is None:
        head.result().close()


def _answers(clients: HttpClients, probe: Request) -> bool:
    try:
        return is_streamserve(send(clients, probe))
    except ConnectionFailed:
        return False


async def _aanswers(clients: HttpClients, probe: Request) -> bool:
    try:
        return is_streamserve(await asend(clients, probe))
    except ConnectionFailed:
        return False
