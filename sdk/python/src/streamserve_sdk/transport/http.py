"""The two thin drivers between a session and httpx, one synchronous and one asynchronous; the session decides."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, closing
from inspect import GEN_RUNNING, getgeneratorstate
from typing import cast

import httpx

from streamserve_sdk.errors import ConnectionFailed, StreamServeError
from streamserve_sdk.transport.call import Call, Flow
from streamserve_sdk.transport.clients import HttpClients
from streamserve_sdk.transport.exchange import TRANSPORT_ERRORS, asend, send
from streamserve_sdk.transport.opening import aopened, opened
from streamserve_sdk.transport.polling import HeldBack
from streamserve_sdk.transport.session import StreamSession
from streamserve_sdk.transport.sse import ServerSentEvent
from streamserve_sdk.transport.wire import Reply, Request

Blocks = Iterator[ServerSentEvent]

logger = logging.getLogger(__name__)


def ask(clients: HttpClients, call: Call) -> Reply:
    """Send the requests of a call, and return its answer; a caller that leaves early cancels the run.

    Args:
        clients: the source of the connection.
        call: the call.

    Raises:
        StreamServeError: there is no answer.
    """
    try:
        return _drive(clients, call, call.flow())
    except BaseException:
        if leaving := call.leaving():
            clients.run_beside(lambda: _abandon(clients, call, leaving))
        raise


async def aask(clients: HttpClients, call: Call) -> Reply:
    """Send the requests of a call, and return its answer; arguments and errors are those of `ask`."""
    try:
        return await _adrive(clients, call, call.flow())
    except BaseException:
        if leaving := call.leaving():
            await clients.arun_beside(asyncio.create_task(_aabandon(clients, call, leaving)))
        raise


def _drive(clients: HttpClients, call: Call, flow: Flow) -> Reply:
    request = next(flow)
    while True:
        time.sleep(call.delay)
        try:
            request = flow.send(_tried(clients, request))
        except StopIteration as end:
            return cast(Reply, end.value)


async def _adrive(clients: HttpClients, call: Call, flow: Flow) -> Reply:
    request = next(flow)
    while True:
        await asyncio.sleep(call.delay)
        try:
            request = flow.send(await _atried(clients, request))
        except StopIteration as end:
            return cast(Reply, end.value)


def _tried(clients: HttpClients, request: Request) -> Reply | ConnectionFailed:
    try:
        return send(clients, request)
    except ConnectionFailed as failure:
        return failure


async def _atried(clients: HttpClients, request: Request) -> Reply | ConnectionFailed:
    try:
        return await asend(clients, request)
    except ConnectionFailed as failure:
        return failure


def _abandon(clients: HttpClients, call: Call, leaving: Flow) -> None:
    try:
        _drive(clients, call, leaving)
    except Exception:
        logger.debug("cancel failed: %s", call.first.url, exc_info=True)


async def _aabandon(clients: HttpClients, call: Call, leaving: Flow) -> None:
    try:
        await _adrive(clients, call, leaving)
    except Exception:
        logger.debug("cancel failed: %s", call.first.url, exc_info=True)


def read(clients: HttpClients, session: StreamSession) -> Generator[Blocks]:
    """Yield the data blocks of each read of a stream; a reader that leaves early cancels the run.

    Args:
        clients: the source of the connections.
        session: the session that interprets the stream; its errors are raised while the caller takes the blocks.

    Raises:
        StreamServeError: the stream failed.
    """
    reads: Generator[Blocks] | None = None

    def leave() -> None:
        # A daemon thread that reads now would report the cancel as an error; its end is enough for the server.
        if reads is not None and getgeneratorstate(reads) != GEN_RUNNING:
            reads.close()
            _leave(clients, session)

    key = clients.opened(leave)
    try:
        while not session.finished:
            with closing(_attempt(clients, session)) as reads:
                yield from reads
            time.sleep(session.delay)
    finally:
        if clients.taken(key) and session.cancellation():
            clients.run_beside(lambda: _leave(clients, session))


async def aread(clients: HttpClients, session: StreamSession) -> AsyncGenerator[Blocks]:
    """Yield the data blocks of each read of a stream; arguments and errors are those of `read`."""
    reads: AsyncGenerator[Blocks] | None = None

    def leave() -> None:
        if reads is not None and not getattr(reads, "ag_running", False):
            _leave(clients, session)

    key = clients.opened(leave)
    try:
        while not session.finished:
            async with aclosing(_aattempt(clients, session)) as reads:
                async for blocks in reads:
                    yield blocks
            await asyncio.sleep(session.delay)
    finally:
        if clients.taken(key) and (cancellation := session.cancellation()):
            await clients.arun_beside(asyncio.create_task(_acancel(clients, cancellation)))


def _attempt(clients: HttpClients, session: StreamSession) -> Generator[Blocks]:
    process = clients.process
    try:
        with opened(clients, session) as parts:
            for data in parts:
                yield session.receive(data)
                if clients.process != process:
                    raise httpx.ReadError("the connection belongs to the process that was forked")
                if not session.reading:
                    return
        session.ended()
    except StreamServeError:
        raise
    except HeldBack:
        session.polling = True
    except TRANSPORT_ERRORS as error:
        session.failed(error)


async def _aattempt(clients: HttpClients, session: StreamSession) -> AsyncGenerator[Blocks]:
    process = clients.process
    try:
        async with aopened(clients, session) as parts:
            async for data in parts:
                yield session.receive(data)
                if clients.process != process:
                    raise httpx.ReadError("the connection belongs to the process that was forked")
                if not session.reading:
                    return
        session.ended()
    except StreamServeError:
        raise
    except HeldBack:
        session.polling = True
    except TRANSPORT_ERRORS as error:
        session.failed(error)


def _leave(clients: HttpClients, session: StreamSession) -> None:
    if (request := session.cancellation()) is None:
        return
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
