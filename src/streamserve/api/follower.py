"""When a reader's next write is due: after a wake-up, not sooner than is worth it, and for a keep-alive."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Send

from streamserve.settings import Settings

logger = logging.getLogger(__name__)

# Writes at the beginning that never wait: the first words at once.
EAGER = 8
# While the event loop is late, a write may follow the one before only after so many times its lateness, up to so many
# seconds: the fewer writes, the less it is late. 2 ms late, writes are as far apart as they are by default.
LATENESS_FACTOR, MAX_INTERVAL = 8, 1 / 20


class Follower:
    """Waits for a wake-up or the next keep-alive with one timer that is moved on only when it fires.

    Args:
        reader: the task that sends.
        settings: how long it may be silent, how long one write may take, and how soon the next may follow.
    """

    __slots__ = (
        "_due",
        "_eager",
        "_interval",
        "_keepalive",
        "_last",
        "_late",
        "_loop",
        "_reader",
        "_timer",
        "_unread",
        "_waiter",
        "_woken",
        "_writing",
        "dropped",
    )

    def __init__(self, reader: asyncio.Task[object], settings: Settings) -> None:
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._keepalive = settings.keepalive
        self._unread = settings.unread_timeout
        self._interval = settings.write_interval
        self._eager = EAGER
        self._waiter: asyncio.Future[bool] | None = None
        self._woken = False
        # When there was something to do, and by how much later it was done.
        self._due = 0.0
        self._late = 0.0
        self.dropped = False
        self._last = self._loop.time()
        self._writing = False
        self._timer = self._loop.call_later(self._keepalive, self._tick)

    def wake(self) -> None:
        """There is something to read."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._due = self._loop.time()
            self._waiter.set_result(True)

    async def wait(self) -> bool:
        """True after a wake-up, False when a keep-alive is due."""
        if not self._woken:
            self._waiter = self._loop.create_future()
            try:
                if not await self._waiter:
                    return False
            finally:
                self._waiter = None
            self._late = self._loop.time() - self._due
        self._woken = False
        return True

    async def pause(self) -> None:
        """Waits until the next write may follow; what comes meanwhile costs no write and no wake-up."""
        if self._eager:
            self._eager -= 1
        elif self._interval:
            interval = max(self._interval, min(self._late * LATENESS_FACTOR, MAX_INTERVAL))
            self._due = self._last + interval
            if (left := self._due - self._loop.time()) > 0:
                await asyncio.sleep(left)
                self._late = self._loop.time() - self._due

    async def send(self, send: Send, body: bytes) -> None:
        """One write; the reader is dropped if it takes nothing for too long."""
        self._last = self._loop.time()
        self._writing = True
        try:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            self._writing = False
        self._last = self._loop.time()

    def _tick(self) -> None:
        bound = self._unread if self._writing else self._keepalive
        left = self._last + bound - self._loop.time()
        if left <= 0:
            if self._writing:
                logger.info("a reader took nothing for %s s and was dropped", self._unread)
                self.drop()
                return
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(False)
            left = self._keepalive
        self._timer = self._loop.call_later(left, self._tick)

    def drop(self) -> None:
        """Ends the reader and its connection."""
        if not self.dropped:
            self.dropped = True
            self._reader.cancel()

    def close(self) -> None:
        """Stops the timer."""
        self._timer.cancel()
