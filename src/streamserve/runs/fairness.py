"""Turns of the event loop: whether others got theirs since somebody began to work."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

# A chain that never waits may hold the event loop this long, in seconds, before others get a turn.
FAIR_TURN = 0.002


class Turns:
    """Counts turns of a loop, of all those who ask together: one callback in a turn at most."""

    # It does not refer to its loop: the loop's entry below would keep it for ever.
    def __init__(self) -> None:
        self._asked = False
        self.count = 0

    def ask(self) -> int:
        """The number of this turn; it will be another one once the others have had theirs."""
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._advance)
        return self.count

    def _advance(self) -> None:
        self._asked = False
        self.count += 1


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


class FairShare:
    """What one task may take of its loop without waiting; made in the task."""

    __slots__ = ("_began", "_now", "_number", "_turns")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._turns = _turns.get(loop) or _turns.setdefault(loop, Turns())
        self._now = loop.time
        # What a stream says first goes out before it goes on, however little it took.
        self._began, self._number = 0.0, self._turns.ask()

    def _begin(self, now: float) -> None:
        self._began, self._number = now, self._turns.ask()

    def is_spent(self) -> bool:
        """Whether to let the others run: they have not, for as long as is fair."""
        now = self._now()
        if now - self._began <= FAIR_TURN:
            return False
        if self._turns.count == self._number:
            return True
        self._begin(now)
        return False
