"""The one pub/sub connection of a process: messages to its worker, and the blocks of the runs of others it reads."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from streamserve.stores.base import TERMINAL, StoreDown
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.records import message_of
from streamserve.stores.redis.workers import Worker
from streamserve.stores.tails import Tails

logger = logging.getLogger(__name__)

# Seconds between attempts to connect; the first one comes at once.
PAUSE = 0.2
# Seconds between looks at all live runs that are read here: the maximum delay of a block whose message was lost.
PERIOD = 2.0
OnRun = Callable[[str], None]


class Subscriber:
    """Feeds the tails of runs that other processes write.

    Args:
        worker: this process.
        on_cancel: callback with the id of a run of this process whose cancel was requested.
        on_readers: callback with the id of a run of this process when its readers elsewhere came or left.
        on_purged: callback with the id of a run whose blocks are gone.
    """

    def __init__(
        self, client: Client, keys: Keys, worker: Worker, on_cancel: OnRun, on_readers: OnRun, on_purged: OnRun
    ) -> None:
        self._client = client
        self._keys = keys
        self._worker = worker
        self._on_cancel = on_cancel
        self._on_purged = on_purged
        self._on_control = {"cancel": on_cancel, "readers": on_readers}
        self._control = keys.control(worker.id)
        self._prefix = keys.channel("")
        self._run_ids: set[str] = set()
        self._commands: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._heard_at = 0.0
        self.connected = asyncio.Event()
        self.tails = Tails(self._opened, self._closed)
        self._live: set[str] = set()
        self._look_at: set[str] = set()
        self._any_to_look_at = asyncio.Event()

    async def forever(self) -> None:
        """Listen; connect again whenever the connection is lost."""
        while True:
            try:
                await self._listen()
            except* (RedisError, OSError, StoreDown) as errors:
                logger.warning("redis subscriber: %s", errors.exceptions[0])
            except* Exception:
                logger.exception("redis subscriber failed")
            if not self.connected.is_set():
                await asyncio.sleep(PAUSE)
            self.connected.clear()

    def disowned(self, run_id: str) -> None:
        """Listen to a run of this process that another process may write from now on."""
        if run_id in self.tails:
            self._subscribe(run_id)

    def saw(self, run_id: str, *, live: bool) -> None:
        """Note whether a run that is read here is live."""
        (self._live.add if live and run_id in self.tails else self._live.discard)(run_id)

    def is_live(self, run_id: str) -> bool:
        """Return whether the run was live at the last look."""
        return run_id in self._live

    def look_soon(self, *run_ids: str) -> None:
        """Look at these runs before the period ends."""
        self._look_at.update(run_ids)
        self._any_to_look_at.set()

    def _opened(self, run_id: str) -> None:
        if run_id not in self._worker.owned:
            self._subscribe(run_id)

    def _closed(self, run_id: str) -> None:
        if run_id in self._run_ids:
            self._run_ids.remove(run_id)
            self._commands.put_nowait(("UNSUBSCRIBE", self._prefix + run_id))
        self.saw(run_id, live=False)

    def _subscribe(self, run_id: str) -> None:
        self._run_ids.add(run_id)
        self._commands.put_nowait(("SUBSCRIBE", self._prefix + run_id))

    async def _listen(self) -> None:
        connection = await self._client.connect()
        self._heard_at = time.monotonic()
        try:
            self._commands = asyncio.Queue()
            await _send(connection, "SUBSCRIBE", self._control, *(self._prefix + run_id for run_id in self._run_ids))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_forever(connection))
                group.create_task(self._read_forever(connection))
                group.create_task(self._fail_after_silence())
                group.create_task(self._look_for_cancels())
        finally:
            with suppress(RedisError, OSError):
                await connection.disconnect()

    async def _send_forever(self, connection: Any) -> None:
        while True:
            await _send(connection, *await self._commands.get())

    async def _read_forever(self, connection: Any) -> None:
        while True:
            kind, channel, data = await connection.read_response(timeout=math.inf, push_request=True)
            self._heard_at = time.monotonic()
            run_id = channel.decode().removeprefix(self._prefix)
            if kind == b"message":
                self._receive(run_id, data)
            elif kind == b"subscribe" and run_id == self._control:
                self.connected.set()
            elif kind == b"subscribe":
                self.look_soon(run_id)  # messages that were published before this moment were missed

    async def _fail_after_silence(self) -> None:
        limit = 2 * self._worker.lease
        left = limit
        while left > 0:
            await asyncio.sleep(left)
            left = self._heard_at + limit - time.monotonic()
        # The heartbeats of this worker are messages, too.
        raise RedisConnectionError(f"no message for {limit:g} s")

    async def _look_for_cancels(self) -> None:
        await self.connected.wait()
        try:
            for run_id in await self._worker.cancelled():
                self._on_cancel(run_id)
        except StoreDown as error:
            logger.warning("a cancel that was missed takes effect with the run's next block: %s", error)

    def _receive(self, run_id: str, data: bytes) -> None:
        if run_id == self._control:
            what, _, run_id = data.decode().partition(" ")
            if what in self._on_control:
                self._on_control[what](run_id)
        elif data == b"purged":
            self._on_purged(run_id)
        else:
            first, ended, blocks = message_of(data)
            self.saw(run_id, live=not ended)
            self.tails.feed(run_id, first, blocks, ended=ended)

    async def sweep_forever(self) -> None:
        """Make lost messages good: compare the tails of live runs with what is stored."""
        while True:
            try:
                async with asyncio.timeout(PERIOD):
                    await self._any_to_look_at.wait()
                run_ids, is_round = self._look_at, False
            except TimeoutError:
                run_ids, is_round = self._look_at | self._live, True
            self._any_to_look_at.clear()
            self._look_at = set()
            try:
                await self._look([run_id for run_id in run_ids if run_id in self.tails], subscribe=is_round)
            except StoreDown as error:
                self._look_at |= run_ids  # for the next round
                logger.warning("runs that are read here are compared with the store later: %s", error)
            except Exception:
                logger.exception("runs that are read here are not compared with the store")

    async def _look(self, run_ids: list[str], *, subscribe: bool) -> None:
        found = await self._client.fields([self._keys.run(run_id) for run_id in run_ids], "last_id", "status")
        for run_id, (last_id, status) in zip(run_ids, found, strict=True):
            if last_id is None or status is None:
                continue
            last, ended = int(last_id), status.decode() in TERMINAL
            self.saw(run_id, live=not ended)
            end = self.tails.read(run_id, last, 1)
            if end is not None and end.at_end == ended:
                continue
            self.tails.feed(run_id, last + 1, (), ended=ended)
            if subscribe:
                self._subscribe(run_id)


async def _send(connection: Any, *command: str) -> None:
    # redis-py would connect again by itself, while another task reads.
    if not connection.is_connected:
        raise RedisConnectionError("the subscriber's connection is closed")
    await connection.send_command(*command, check_health=False)
