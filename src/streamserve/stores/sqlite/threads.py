"""An OS thread with a connection: it carries out all waiting jobs in one transaction, and answers them together."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple

from streamserve.stores.base import Fenced, Gap, StoreDown, ThreadLocked, resolve

logger = logging.getLogger(__name__)

# Jobs in one transaction at most: other processes wait as long as it takes.
MAX_GROUP = 512


class Session(Protocol):
    """A connection and what goes with it. One OS thread makes, uses and closes it."""

    def begin(self) -> None:
        """Begin a transaction."""

    def commit(self) -> None:
        """End the transaction."""

    def close(self) -> None:
        """Close the connection, which rolls an open transaction back."""


S = TypeVar("S", bound=Session)
R = TypeVar("R")
Args = TypeVarTuple("Args")
Answer = Callable[[Any], None]
# Whom to tell the result or the exception, what to call with the session, and its further arguments.
Job = tuple[Answer, Callable[..., Any], tuple[Any, ...]]


class Transactions(Generic[S]):
    """A session, made anew after each failure, and the transactions in it.

    Args:
        make: returns a new session.
    """

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make
        self._session: S | None = None

    def carry_out(self, group: list[Job]) -> list[tuple[Answer, Any]]:
        """Carry out jobs in one transaction; return whom to tell what: a result or an exception."""
        try:
            return self._transact(group)
        except Exception as error:
            self.drop()
            # A fault of one job must not fail its neighbours; a fault of the file fails all.
            if len(group) > 1 and not isinstance(error, sqlite3.OperationalError):
                return [reply for job in group for reply in self.carry_out([job])]
            if not isinstance(error, sqlite3.Error | OSError):
                logger.exception("a job failed")
            code = getattr(error, "sqlite_errorname", type(error).__name__)
            return [(answer, StoreDown(f"{code}: {error}")) for answer, _, _ in group]

    def _transact(self, group: list[Job]) -> list[tuple[Answer, Any]]:
        session = self._session = self._session or self._make()
        session.begin()
        replies: list[tuple[Answer, Any]] = []
        for answer, work, args in group:
            try:
                replies.append((answer, work(session, *args)))
            except (Fenced, Gap, ThreadLocked) as refusal:  # raised before anything is changed
                replies.append((answer, refusal))
        session.commit()
        return replies

    def drop(self) -> None:
        """Close the session, which rolls an open transaction back."""
        session, self._session = self._session, None
        if session is not None:
            try:
                session.close()
            except sqlite3.Error:
                logger.warning("a connection could not be closed", exc_info=True)


class DatabaseThread(Generic[S]):
    """An OS thread that carries out jobs in their order.

    Args:
        name: name of the OS thread.
        make: returns a new session; called again after each failure.
    """

    def __init__(self, name: str, make: Callable[[], S]) -> None:
        self._transactions = Transactions(make)
        # The jobs of one turn of the event loop go to the thread together, which is woken once for them.
        self._posted: list[Job] = []
        self._groups: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._begin(name)

    def _begin(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[S, *Args], R], *args: *Args) -> asyncio.Future[R]:
        """Carry out a job; the future raises StoreDown if the file cannot be used."""
        future: asyncio.Future[R] = self._loop.create_future()
        self.post(partial(resolve, future), work, *args)
        return future

    def post(self, answer: Answer, work: Callable[[S, *Args], object], *args: *Args) -> None:
        """Carry out a job; its result, or the exception that it raised, is given to `answer` in the event loop."""
        if not self._posted:
            self._loop.call_soon(self.hand_over)
        self._posted.append((answer, work, args))

    def hand_over(self) -> None:
        """Begin now with the jobs posted so far: the turn of the event loop at whose end they begin may be long."""
        posted, self._posted = self._posted, []
        for start in range(0, len(posted), MAX_GROUP):
            self._groups.put(posted[start : start + MAX_GROUP])

    async def stop(self) -> None:
        """Carry out what was posted before, then end the thread."""
        self.hand_over()
        self._groups.put(None)
        await self._stopped.wait()
        self._thread.join()

    def _run(self) -> None:
        while self._carry_out_next():
            pass

    def _carry_out_next(self) -> bool:
        """Carry out the next jobs in one transaction; return False at the end."""
        group = self._groups.get()
        while group is not None and len(group) < MAX_GROUP and not self._groups.empty():
            if (more := self._groups.get()) is None:
                self._groups.put(None)  # after this transaction
                break
            group += more
        if group is None:
            self._transactions.drop()
            self._loop.call_soon_threadsafe(self._stopped.set)
            return False
        self._loop.call_soon_threadsafe(_answer, self._transactions.carry_out(group))
        return True


def _answer(replies: list[tuple[Answer, Any]]) -> None:
    for answer, result in replies:
        try:
            answer(result)
        except Exception:  # a fault of one listener must not leave the others without their answers
            logger.exception("an answer was not taken")
