"""Looks after the runs that are read here: messages may be lost, blocks are not."""

from __future__ import annotations

import asyncio
import logging

from streamserve.stores.base import TERMINAL, StoreDown
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.listener import Listener
from streamserve.stores.tails import Tails

logger = logging.getLogger(__name__)

# Seconds between looks at all live runs that are read here: how late a lost message is made good.
PERIOD = 2.0


class Sweep:
    """Compares tails with what is stored.

    Args:
        client: of Redis.
        keys: the names.
        tails: of this process.
        listener: told to subscribe again where a message was missed.
    """

    def __init__(self, client: Client, keys: Keys, tails: Tails, listener: Listener) -> None:
        self._client = client
        self._keys = keys
        self._tails = tails
        self._listener = listener
        self._live: set[str] = set()
        self._soon: set[str] = set()
        self._wanted = asyncio.Event()

    def saw(self, run_id: str, *, live: bool) -> None:
        """Notes whether a run that is read here is under way."""
        if live and run_id in self._tails:
            self._live.add(run_id)
        else:
            self._live.discard(run_id)

    def is_live(self, run_id: str) -> bool:
        """Whether it was under way when it was last seen."""
        return run_id in self._live

    def look_soon(self, *run_ids: str) -> None:
        """Looks at these runs without waiting for the next round."""
        self._soon.update(run_ids)
        self._wanted.set()

    async def forever(self) -> None:
        """Looks at what is wanted soon at once, and at every live run now and then."""
        while True:
            try:
                async with asyncio.timeout(PERIOD):
                    await self._wanted.wait()
                missed, every = self._soon, False
            except TimeoutError:
                missed, every = self._soon | self._live, True
            self._wanted.clear()
            self._soon = set()
            try:
                await self._look([run_id for run_id in missed if run_id in self._tails], resubscribe=every)
            except StoreDown as error:
                self._soon |= missed  # for the next round
                logger.warning("the sweep waits: %s", error)

    async def _look(self, run_ids: list[str], *, resubscribe: bool) -> None:
        if not run_ids:
            return
        found = await self._client.fields([self._keys.run(run_id) for run_id in run_ids], "last_id", "status")
        for run_id, (last_id, status) in zip(run_ids, found, strict=True):
            if last_id is None or status is None:
                continue
            last, ended = int(last_id), status.decode() in TERMINAL
            self.saw(run_id, live=not ended)
            near = self._tails.read(run_id, last, 1)
            if near is not None and near.at_end == ended:
                continue
            self._tails.feed(run_id, last + 1, (), ended=ended)
            if resubscribe:
                self._listener.add(self._keys.channel(run_id))
