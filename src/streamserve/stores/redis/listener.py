"""The one pub/sub connection of a process: what its worker is told, and the runs of others that are read here."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from streamserve.stores.base import StoreDown
from streamserve.stores.redis.client import Client, cancel

logger = logging.getLogger(__name__)

# Pause before the next try to connect, in seconds; the first comes at once.
PAUSE = 0.2


class Listener:
    """Hears messages on channels that come and go.

    Args:
        client: of Redis.
        control: the channel that is always listened to.
        on_message: called with the channel and what came.
        on_subscribed: called with a channel that is heard from now on.
        on_connected: called after each connect: what was said before has been missed.
    """

    def __init__(
        self,
        client: Client,
        control: str,
        on_message: Callable[[str, bytes], None],
        on_subscribed: Callable[[str], None],
        on_connected: Callable[[], None],
    ) -> None:
        self._client = client
        self._control = control
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_connected = on_connected
        self._channels: set[str] = set()
        self._changed: dict[str, bool] = {}
        self._to_tell = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()

    def open(self) -> None:
        """Starts to listen."""
        self._task = asyncio.create_task(self._listen_forever(), name="redis listener")

    async def close(self) -> None:
        """Stops to listen."""
        tasks = [task for task in (self._task, self._listening) if task is not None]
        await cancel(tasks)

    def add(self, channel: str) -> None:
        """Listens to a channel; again if it does already."""
        self._channels.add(channel)
        self._change(channel, heard=True)

    def remove(self, channel: str) -> None:
        """Listens to it no more."""
        if channel in self._channels:
            self._channels.discard(channel)
            self._change(channel, heard=False)

    def reconnect(self) -> None:
        """Gives up the connection for a new one."""
        if self._listening is not None:
            self._listening.cancel()

    def _change(self, channel: str, *, heard: bool) -> None:
        self._changed[channel] = heard
        self._to_tell.set()

    async def _tell_forever(self, connection: Any) -> None:
        while True:
            await self._to_tell.wait()
            self._to_tell.clear()
            changed, self._changed = self._changed, {}
            added = [channel for channel, heard in changed.items() if heard]
            removed = [channel for channel, heard in changed.items() if not heard]
            if added:
                await _send(connection, "SUBSCRIBE", *added)
            if removed:
                await _send(connection, "UNSUBSCRIBE", *removed)

    async def _listen_forever(self) -> None:
        while True:
            self._listening = asyncio.create_task(self._listen())
            await asyncio.wait({self._listening})
            if not self._listening.cancelled():
                _report(self._listening.exception())
            if not self.connected.is_set():
                await asyncio.sleep(PAUSE)
            self.connected.clear()

    async def _listen(self) -> None:
        redis, connection = await self._client.listener()
        try:
            self._changed.clear()
            await _send(connection, "SUBSCRIBE", self._control, *self._channels)
            self.connected.set()
            self._on_connected()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell_forever(connection))
                group.create_task(self._hear_forever(connection))
        finally:
            with suppress(RedisError, OSError):
                await connection.disconnect()
                await redis.aclose(close_connection_pool=True)

    async def _hear_forever(self, connection: Any) -> None:
        while True:
            self._hear(await connection.read_response(timeout=math.inf, push_request=True))

    def _hear(self, message: Any) -> None:
        kind, channel, data = message
        if kind == b"message":
            self._on_message(channel.decode(), data)
        elif kind == b"subscribe":
            self._on_subscribed(channel.decode())


async def _send(connection: Any, *command: str) -> None:
    # It would connect anew by itself, under the feet of the task that reads.
    if not connection.is_connected:
        raise RedisConnectionError("the listener's connection is closed")
    await connection.send_command(*command, check_health=False)


def _report(error: BaseException | None) -> None:
    causes = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
    if any(isinstance(cause, RedisError | OSError | StoreDown) for cause in causes):
        logger.warning("redis listener: %s", causes[0])
    else:
        logger.error("redis listener failed", exc_info=error)
