"""What a process hears of others: the blocks of the runs that are read here, and what its worker is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from streamserve.stores.base import StoreDown
from streamserve.stores.redis.client import Client, cancel
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.listener import Listener
from streamserve.stores.redis.records import message_of
from streamserve.stores.redis.sweep import Sweep
from streamserve.stores.redis.workers import Worker
from streamserve.stores.tails import Tails

logger = logging.getLogger(__name__)


class Hearing:
    """Feeds the tails of runs that other processes write.

    Args:
        client: of Redis.
        keys: the names.
        worker: this one.
        on_cancel: called with the id of a run of this process that somebody wants cancelled.
        on_readers: called with the id of a run of this process when readers elsewhere came or left.
        on_purged: called with the id of a run whose blocks are gone.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        worker: Worker,
        on_cancel: Callable[[str], None],
        on_readers: Callable[[str], None],
        on_purged: Callable[[str], None],
    ) -> None:
        self._keys = keys
        self._worker = worker
        self._on_cancel = on_cancel
        self._on_readers = on_readers
        self._on_purged = on_purged
        self._control = keys.control(worker.id)
        self._listener = Listener(client, self._control, self._heard, self._subscribed, self._connected)
        self.tails = Tails(self._followed, self._unfollowed)
        self.sweep = Sweep(client, keys, self.tails, self._listener)
        self._heard_at = 0.0
        self._looking: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> asyncio.Event:
        """Set while there is a connection that listens."""
        return self._listener.connected

    def open(self) -> None:
        """Starts to listen."""
        self._heard_at = time.monotonic()
        self._listener.open()

    async def close(self) -> None:
        """Stops to listen."""
        await cancel(self._looking)
        await self._listener.close()

    def disowned(self, run_id: str) -> None:
        """A run of this process may be written by another one from now on."""
        if run_id in self.tails:
            self._listener.add(self._keys.channel(run_id))

    def look(self, run_ids: Iterable[str]) -> None:
        """Asks the store for what was not heard of some runs."""
        self.sweep.look_soon(*run_ids)

    def connect_anew_after(self, silence: float) -> None:
        """Takes a new connection if nothing was heard for so many seconds: not even this worker's own beats."""
        if time.monotonic() - self._heard_at > silence and self._listener.connected.is_set():
            self._heard_at = time.monotonic()
            self._listener.reconnect()

    def _followed(self, run_id: str) -> None:
        if run_id not in self._worker.owned:
            self._listener.add(self._keys.channel(run_id))

    def _unfollowed(self, run_id: str) -> None:
        self._listener.remove(self._keys.channel(run_id))
        self.sweep.saw(run_id, live=False)

    def _heard(self, channel: str, data: bytes) -> None:
        self._heard_at = time.monotonic()
        if channel == self._control:
            return self._told(*data.decode().partition(" ")[::2])
        run_id = channel.removeprefix(self._keys.channel(""))
        if data == b"purged":
            return self._on_purged(run_id)
        first, ended, blocks = message_of(data)
        self.sweep.saw(run_id, live=not ended)
        return self.tails.feed(run_id, first, blocks, ended=ended)

    def _told(self, what: str, run_id: str) -> None:
        if what == "cancel":
            self._on_cancel(run_id)
        elif what == "readers":
            self._on_readers(run_id)

    def _subscribed(self, channel: str) -> None:
        # What was published before this moment was not heard.
        if channel != self._control:
            self.look([channel.removeprefix(self._keys.channel(""))])

    def _connected(self) -> None:
        self._heard_at = time.monotonic()
        self.look(self.tails)
        task = asyncio.create_task(self._look_for_cancels())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _look_for_cancels(self) -> None:
        try:
            for run_id in await self._worker.look_for_cancels():
                self._on_cancel(run_id)
        except StoreDown as error:
            logger.warning("cancels are heard of with the next block: %s", error)
