"""A reader's connection: wake-ups, keep-alives, the pace of its writes and their time limit."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.types import Send

from streamserve.errors import Forbidden, ServeError, Unauthenticated
from streamserve.settings import Settings

logger = logging.getLogger(__name__)

# Number of first writes without a pause, so that the first tokens show at once.
EAGER = 8
# The pause between two writes is the loop's lateness times this factor, up to MAX_INTERVAL seconds: fewer writes make
# the loop less late. At 2 ms of lateness, the pause equals the default write interval.
LATENESS_FACTOR, MAX_INTERVAL = 8, 1 / 20


class Reader:
    """One connection that follows a run; it has one timer, which is set again only when it fires."""

    __slots__ = (
        "_due",
        "_eager",
        "_interval",
        "_keepalive",
        "_last",
        "_late",
        "_loop",
        "_task",
        "_timer",
        "_unread",
        "_waiter",
        "_woken",
        "_writing",
        "dropped",
        "refused",
    )

    def __init__(self, task: asyncio.Task[object], settings: Settings) -> None:
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._keepalive = settings.keepalive
        self._unread = settings.unread_timeout
        self._interval = settings.write_interval
        self._eager = EAGER
        self._waiter: asyncio.Future[bool] | None = None
        self._woken = False
        # The time at which a write was due, and the seconds by which the loop was late for it.
        self._due = 0.0
        self._late = 0.0
        self.dropped = False
        self.refused: ServeError | None = None
        self._last = self._loop.time()
        self._writing = False
        self._timer = self._loop.call_later(self._keepalive, self._tick)

    def wake(self) -> None:
        """Wake the reader, because the store has new blocks."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._due = self._loop.time()
            self._waiter.set_result(True)

    async def watch(self, recheck: Callable[[], Awaitable[None]], interval: float) -> None:
        """Check the reader's credential again and again; wake the reader once it is no longer valid."""
        while self.refused is None:
            await asyncio.sleep(interval)
            try:
                await recheck()
            except (Unauthenticated, Forbidden) as error:
                self.refused = error
                self.wake()
            except ServeError:  # the issuer's keys are unreachable
                continue

    async def wait(self) -> bool:
        """Wait; return True after a wake-up, False when a keep-alive is due."""
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
        """Wait until the next write may follow; blocks that arrive meanwhile go into that write."""
        if self._eager:
            self._eager -= 1
        elif self._interval:
            interval = max(self._interval, min(self._late * LATENESS_FACTOR, MAX_INTERVAL))
            self._due = self._last + interval
            if (left := self._due - self._loop.time()) > 0:
                await asyncio.sleep(left)
                self._late = self._loop.time() - self._due

    async def send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        """Write once; drop the reader if the write exceeds its time limit.

        Args:
            more: False for the response's last write.
        """
        self._last = self._loop.time()
        self._writing = True
        try:
            await send({"type": "http.response.body", "body": body, "more_body": more})
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
        """End the reader and its connection."""
        if not self.dropped:
            self.dropped = True
            self._task.cancel()

    def close(self) -> None:
        """Stop the timer."""
        self._timer.cancel()
