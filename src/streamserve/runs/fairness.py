"""Time slices of the event loop: a chain that never waits yields to the other tasks after its slice."""

import asyncio
from weakref import WeakKeyDictionary

# Seconds that a chain may hold the event loop without waiting, before other tasks run.
SLICE = 0.002


class LoopIterations:
    """A count of an event loop's iterations, shared by its tasks: at most one callback per iteration."""

    # No reference to the loop: the loop's entry below would keep the loop for ever.
    def __init__(self) -> None:
        self._is_scheduled = False
        self.count = 0

    def current(self) -> int:
        """Return the number of this iteration; `count` differs from it once all other ready tasks have run."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._advance)
        return self.count

    def _advance(self) -> None:
        self._is_scheduled = False
        self.count += 1


_iterations: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopIterations] = WeakKeyDictionary()


class TimeSlice:
    """The time that one task may hold its event loop without waiting; created in the task."""

    __slots__ = ("_iteration", "_iterations", "_now", "_started_at")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._iterations = _iterations.setdefault(loop, LoopIterations())
        self._now = loop.time
        # Spent from the start: the first block of a stream goes out before the chain makes the second.
        self._started_at, self._iteration = 0.0, self._iterations.current()

    def _restart(self, now: float) -> None:
        self._started_at, self._iteration = now, self._iterations.current()

    def is_spent(self) -> bool:
        """Return True if the task has held the loop for longer than its slice and no other task has run since."""
        now = self._now()
        if now - self._started_at <= SLICE:
            return False
        if self._iterations.count == self._iteration:
            return True
        self._restart(now)
        return False
