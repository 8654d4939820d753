"""A connection to Redis that carries several calls at a time: redis-py's client has one call wait for another."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError

from streamserve.stores.base import StoreDown

Part = str | int | float | bytes
# Seconds until a task that goes on is cancelled again.
CANCEL_PAUSE = 0.1


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise StoreDown in place of every error of redis-py."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    failure: Exception | None = None
    try:
        yield
    # RuntimeError and AttributeError: a cluster's client closes the connections of other calls to look up its nodes.
    except (RedisError, RedisClusterException, OSError, RuntimeError, AttributeError) as error:
        failure = error
    # redis-py sends within asyncio.wait_for, which until Python 3.12 loses a cancellation that comes with the result.
    if task.cancelling() > before:
        raise asyncio.CancelledError
    if failure is not None:
        raise StoreDown(f"Redis: {str(failure) or type(failure).__name__}") from failure


async def cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: redis-py sometimes turns a cancellation into an error of its own."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_PAUSE)


class Connection:
    """Sends commands and reads their replies in order. Any error closes it.

    Args:
        connection: redis-py's, connected, without a time limit of its own.
        timeout: seconds that Redis may take for a reply.
    """

    def __init__(self, connection: Any, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        # Both locks are fair, so that replies are read in the order in which the commands were sent.
        self._sending = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._calls = 0
        self._error: Exception | None = None
        self._closing: asyncio.Task[None] | None = None

    async def is_usable(self) -> bool:
        """Return whether the connection is open, and has no reply that nobody asked for."""
        if not self._connection.is_connected:
            return False
        return self._calls > 0 or not await self._connection.can_read()

    async def call(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """Return the reply to each command.

        Raises:
            StoreDown: the connection is lost, or a reply is an error.
        """
        self._calls += 1
        with store_errors():
            try:
                async with self._sending:
                    await self._send(commands)
                async with self._reading:
                    return await self._read(len(commands))
            except BaseException as error:
                # The next call would take this call's reply for its own.
                await self.close()
                if not isinstance(error, Exception):
                    raise
                self._error = self._error or error
                raise self._error from None
            finally:
                self._calls -= 1

    async def _send(self, commands: Sequence[Sequence[Part]]) -> None:
        # redis-py would connect again by itself, while another call waits for its reply.
        if not self._connection.is_connected:
            raise RedisConnectionError("the connection is closed")
        # redis-py packs in Python, ten times slower. The stub of hiredis knows commands of one word only.
        packed = b"".join([pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]
        await self._connection.send_packed_command(packed, check_health=False)

    async def _read(self, count: int) -> list[Any]:
        # A timer of the loop takes a fifth of the CPU of asyncio.timeout, which every token would pay.
        timer = asyncio.get_running_loop().call_later(self._timeout, self._give_up)
        try:
            return [await self._connection.read_response() for _ in range(count)]
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._error = RedisConnectionError(f"no answer within {self._timeout:g} s")
        self._closing = asyncio.create_task(self.close())

    async def close(self) -> None:
        """Close the connection. Calls under way fail."""
        await self._connection.disconnect(nowait=True)
