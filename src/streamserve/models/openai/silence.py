"""A limit on the silence of what a task waits for again and again: one timer, however many waits.

`asyncio.timeout` makes and cancels a timer for each, that is, for each token.
"""

from __future__ import annotations

import asyncio


class Silence:
    """Cancels the waiting task once a wait has taken too long.

    Args:
        limit: seconds.
    """

    __slots__ = ("_expired", "_limit", "_loop", "_since", "_task", "_timer")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._since = 0.0
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    def begin(self) -> None:
        """The current task begins to wait."""
        self._task, self._since = asyncio.current_task(), self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit, self._ring)

    def end(self) -> None:
        """It does not wait any more."""
        self._task = None

    def stop(self) -> None:
        """There will be no further wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def is_over(self) -> bool:
        """Whether a cancellation that has just come is the limit's, and nobody else's besides; asked once."""
        return self._expired and self._task is not None and self._task.uncancel() == 0

    def _ring(self) -> None:
        self._timer = None  # of somebody who does not wait: the next wait makes another
        if self._task is None:
            return
        left = self._since + self._limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._ring)
        else:
            self._expired = True
            self._task.cancel()
