"""SQLite's OS threads, carried out by the simulated loop, with faults of the file between and in transactions."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from random import Random
from typing import Any

from streamserve.stores.sqlite.follower import Follower
from streamserve.stores.sqlite.threads import DatabaseThread, Session, Transactions

# Virtual seconds until an OS thread begins with what it was given, and until the loop has its answers, at most.
DELAY = 0.002


class Faults:
    """The faults of a store: `before` and `after` count the transactions that fail before and after their commit."""

    def __init__(self) -> None:
        self.before = self.after = 0
        self.down = False
        # Virtual time until which Redis answers nothing.
        self.slow_until = 0.0

    def fails_before(self) -> bool:
        """Return whether the next transaction fails before it begins."""
        fails = self.down or self.before > 0
        self.before = max(0, self.before - 1)
        return fails

    def fails_after(self) -> bool:
        """Return whether the last transaction fails after its commit."""
        fails = self.after > 0
        self.after = max(0, self.after - 1)
        return fails

    def end(self) -> None:
        """End all faults."""
        self.before, self.after, self.down, self.slow_until = 0, 0, False, 0.0

    def wrap(self, make: Callable[[], Session]) -> Callable[[], Session]:
        """Return a maker of sessions that fail."""
        return lambda: _FaultySession(self._refuse_if_down(make), self)

    def _refuse_if_down(self, make: Callable[[], Session]) -> Session:
        if self.down:
            raise sqlite3.OperationalError("disk I/O error")
        return make()


class _FaultySession:
    def __init__(self, session: Session, faults: Faults) -> None:
        self._session, self._faults = session, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def begin(self) -> None:
        if self._faults.fails_before():
            raise sqlite3.OperationalError("disk I/O error")
        self._session.begin()

    def commit(self) -> None:
        self._session.commit()
        if self._faults.fails_after():
            raise sqlite3.OperationalError("disk I/O error")


class SimulatedThread(DatabaseThread[Any]):
    """A database thread whose transactions the loop carries out."""

    random: Random
    faults: Faults

    def _begin(self, name: str) -> None:
        self._transactions = Transactions(self.faults.wrap(self._transactions._make))

    def hand_over(self) -> None:
        super().hand_over()
        self._wake()

    async def stop(self) -> None:
        self.hand_over()
        self._groups.put(None)
        self._wake()
        await self._stopped.wait()

    def _wake(self) -> None:
        if not self._groups.empty():
            self._loop.call_later(self.random.random() * DELAY, self._work)

    def _work(self) -> None:
        if not self._groups.empty() and self._carry_out_next():
            self._wake()


class SimulatedFollower(Follower):
    """A follower that polls by timers of the loop."""

    random: Random

    def _begin(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._loop.call_soon(self._follow)

    def follow(self, run_ids: frozenset[str], *, listening: bool) -> None:
        super().follow(run_ids, listening=listening)
        self._soon()

    async def stop(self) -> None:
        self._stopping = True
        self._soon()
        await self._stopped.wait()

    def _soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self.random.random() * DELAY, self._follow)

    def _follow(self) -> None:
        self._timer = None
        if self._stopping:
            self._disconnect()
            self._stopped.set()
        elif (pause := self._step()) is not None:
            # At least some milliseconds: a busy world would do little else than poll.
            self._timer = self._loop.call_later(max(pause, 0.01) * (0.5 + self.random.random()), self._follow)


def simulated(random: Random, faults: Faults) -> tuple[type[SimulatedThread], type[SimulatedFollower]]:
    """Return the classes that stand in place of those with OS threads."""
    thread = type("Thread", (SimulatedThread,), {"random": random, "faults": faults})
    return thread, type("Follower", (SimulatedFollower,), {"random": random})
