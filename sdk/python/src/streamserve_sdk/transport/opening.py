"""Open a stream, and notice a proxy that holds it back.

Such a proxy passes on nothing, or the head alone, until its buffer is full or the stream ends. The server itself sends
a comment with the head. If neither arrives for a while, a small request tells whether the server answers, and before
the head a poll tells whether the run has started: if so, a proxy holds the stream back, else the server is slow. The
stream's own request stays open meanwhile: another server would run the chain again for a second one.
"""

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import httpx

from streamserve_sdk.errors import ConnectionFailed
from streamserve_sdk.transport.clients import HttpClients
from streamserve_sdk.transport.exchange import arguments, asend, reply_of, send
from streamserve_sdk.transport.failures import is_streamserve
from streamserve_sdk.transport.links import run_url
from streamserve_sdk.transport.polling import HELD_AFTER, LATE, HeldBack, first_poll
from streamserve_sdk.transport.session import CANCEL_TIMEOUT, StreamSession
from streamserve_sdk.transport.wire import BODY, JSON_HEADERS, Reply, Request

T = TypeVar("T")


@contextmanager
def opened(clients: HttpClients, session: StreamSession) -> Iterator[Iterable[bytes]]:
    """Send the session's next request, let it take the head of the answer, and yield the parts of the body.

    Raises:
        HeldBack: a proxy holds the stream back.
        StreamServeError: the answer ends the stream.
    """
    client, is_left = clients.sync(), False
    request = client.build_request(**arguments(session.request()))
    response = _in_time(clients, _probes(session), lambda: client.send(request, stream=True), httpx.Response.close)
    try:
        if response.status_code != httpx.codes.OK or session.polling:
            response.read()
        session.started(reply_of(response))
        _watch(response, session.silence)
        parts = iter(_sync_body(response))
        if session.reading and session.resumable and (probes := _probes(session)):
            is_left = True
            first = _in_time(clients, probes, lambda: next(parts, b""), lambda _: response.close())
            is_left = False
            yield chain((first,) if first else (), parts)
        else:
            yield parts
    finally:
        if not is_left:  # else the thread that still reads closes it
            response.close()


@asynccontextmanager
async def aopened(clients: HttpClients, session: StreamSession) -> AsyncIterator[AsyncIterable[bytes]]:
    """Send the session's next request, and yield the parts of the answer's body; errors are those of `opened`."""
    client = await clients.current()
    request = client.build_request(**arguments(session.request()))
    response = await _ain_time(clients, _probes(session), lambda: client.send(request, stream=True))
    try:
        if response.status_code != httpx.codes.OK or session.polling:
            await response.aread()
        session.started(reply_of(response))
        _watch(response, session.silence)
        parts = aiter(_async_body(response))
        if session.reading and session.resumable and (probes := _probes(session)):
            yield _achain(await _ain_time(clients, probes, lambda: anext(parts, b"")), parts)
        else:
            yield parts
    finally:
        await response.aclose()


def _probes(session: StreamSession) -> Sequence[Request]:
    """Return the requests that a server answers whose stream is held back; none: the stream needs no watching."""
    if session.polling or session.passes or session.one_shot:
        return ()
    name = session.run_id or (session.first and session.first.headers.get("Idempotency-Key")) or "unknown"
    small = Request("GET", run_url(session.runs_url, name), JSON_HEADERS, silence=CANCEL_TIMEOUT)
    if session.location is not None or session.first is None:
        return (small,)
    # Only a server that has answered the first one gets the second one: it runs the chain once for one key.
    return small, replace(first_poll(session.first), silence=CANCEL_TIMEOUT)


def _in_time(clients: HttpClients, probes: Sequence[Request], work: Callable[[], T], close: Callable[[T], None]) -> T:
    """Return the result of the work; if the caller cannot wait for it, `close` gets it."""
    if not probes:
        return work()
    context, done, pause = copy_context(), Future[T](), HELD_AFTER

    def do() -> None:
        try:
            done.set_result(context.run(work))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=do, name="streamserve-head", daemon=True).start()
    try:
        while True:
            try:
                return done.result(pause)
            except TimeoutError:
                if done.done():
                    raise
            if all(_answers(clients, probe) for probe in probes):
                try:
                    return done.result(LATE)
                except TimeoutError:
                    raise HeldBack from None
            pause *= 2
    except BaseException:
        done.add_done_callback(lambda done: None if done.exception() else close(done.result()))
        raise


async def _ain_time(clients: HttpClients, probes: Sequence[Request], work: Callable[[], Awaitable[T]]) -> T:
    if not probes:
        return await work()
    loop, scope = asyncio.get_running_loop(), asyncio.timeout(None)
    checks: list[asyncio.Task[None]] = []
    # Not in a task of its own: aiohttp drops what has arrived if the connection breaks before somebody reads it.
    timer = loop.call_later(
        HELD_AFTER, lambda: checks.append(loop.create_task(_end_if_held(clients, probes, scope, HELD_AFTER)))
    )
    try:
        async with scope:
            return await work()
    except TimeoutError:
        raise HeldBack from None
    finally:
        timer.cancel()
        for check in checks:
            check.cancel()


async def _end_if_held(clients: HttpClients, probes: Sequence[Request], scope: asyncio.Timeout, pause: float) -> None:
    while True:
        for probe in probes:
            if not await _aanswers(clients, probe):
                break
        else:
            await asyncio.sleep(LATE)
            scope.reschedule(asyncio.get_running_loop().time())
            return
        pause *= 2
        await asyncio.sleep(pause)


def _answers(clients: HttpClients, probe: Request) -> bool:
    try:
        return _is_answer(probe, send(clients, probe))
    except ConnectionFailed:
        return False


async def _aanswers(clients: HttpClients, probe: Request) -> bool:
    try:
        return _is_answer(probe, await asend(clients, probe))
    except ConnectionFailed:
        return False


def _is_answer(probe: Request, reply: Reply) -> bool:
    return is_streamserve(reply) and (probe.method == "GET" or reply.status == httpx.codes.OK)


async def _achain(first: bytes, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for part in parts:
        yield part


def _sync_body(response: httpx.Response) -> Iterable[bytes]:
    stream = response.stream
    return stream if _is_as_sent(response) and isinstance(stream, httpx.SyncByteStream) else response.iter_bytes()


def _async_body(response: httpx.Response) -> AsyncIterable[bytes]:
    stream = response.extensions.get(BODY, response.stream)
    return stream if _is_as_sent(response) and isinstance(stream, httpx.AsyncByteStream) else response.aiter_bytes()


def _is_as_sent(response: httpx.Response) -> bool:
    # httpx's decoder takes as much time per read as this whole package, and its byte counter half as much.
    return not response.is_stream_consumed and "content-encoding" not in response.headers


def _watch(response: httpx.Response, silence: float | None) -> None:
    # The transport reads its time limit at the body's first read. Only the head tells which server this is.
    limits = response.request.extensions.get("timeout")
    if silence is not None and isinstance(limits, dict):
        limits["read"] = silence
