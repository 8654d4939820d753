"""A time limit for each of many waits of one task, with a single timer.

`asyncio.timeout` makes and cancels a timer for each wait, that is, for each token.
"""

import asyncio


class IdleTimeout:
    """A timer that cancels the waiting task when one wait takes longer than the limit, in seconds."""

    __slots__ = ("_expired", "_limit", "_loop", "_since", "_task", "_timer")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._since = 0.0
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    def begin(self) -> None:
        """Start a wait of the current task."""
        self._task, self._since = asyncio.current_task(), self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit, self._check)

    def end(self) -> None:
        """End the wait."""
        self._task = None

    def stop(self) -> None:
        """Free the timer after the last wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def has_expired(self) -> bool:
        """Return whether this limit alone caused the cancellation just raised; call it once per cancellation."""
        return self._expired and self._task is not None and self._task.uncancel() == 0

    def _check(self) -> None:
        self._timer = None
        if self._task is None:
            return  # no timer between waits: the next wait starts one
        left = self._since + self._limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._expired = True
            self._task.cancel()
