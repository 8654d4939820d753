"""A thread with a connection: it carries out what piled up as one transaction, and answers once for all of it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from streamserve.stores.base import Fenced, Gap, StoreDown, ThreadBusy, resolve

logger = logging.getLogger(__name__)

# Jobs in one transaction at most: other processes wait as long as it takes.
MAX_GROUP = 512
# Jobs in one transaction from which on waiting for more pays: fewer would wait for nothing.
CROWD = 3


class Again(Exception):
    """What was begun came to nothing, and is to be done once more."""


class Session(Protocol):
    """A connection and what goes with it; made, used and dropped by one thread."""

    def begin(self) -> None:
        """Begins a transaction."""

    def commit(self) -> None:
        """Ends it.

        Raises:
            Again: nothing is stored; a second try will not say so.
        """

    def close(self) -> None:
        """Closes the connection, with a rollback if need be."""


S = TypeVar("S", bound=Session)
R = TypeVar("R")
Answer = Callable[[Any], None]


class DatabaseThread(Generic[S]):
    """Carries out jobs in their order.

    Args:
        name: of the thread.
        make: makes a session; called again after each failure.
        spacing: seconds between the beginnings of two transactions at least, while they are crowded: what comes
            meanwhile is put together.
    """

    def __init__(self, name: str, make: Callable[[], S], spacing: float = 0.0) -> None:
        self._make = make
        self._spacing = spacing
        self._began = 0.0
        self._crowded = False
        self._session: S | None = None
        self._jobs: SimpleQueue[tuple[Callable[[S], Any], Answer] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, job: Callable[[S], R]) -> asyncio.Future[R]:
        """Carries out a job; the future raises StoreDown if the file cannot be used."""
        future: asyncio.Future[R] = self._loop.create_future()
        self.post(job, partial(resolve, future))
        return future

    def post(self, job: Callable[[S], object], answer: Answer) -> None:
        """Carries out a job; its result, or the exception that it raised, is given to `answer` in the event loop."""
        self._jobs.put((job, answer))

    async def stop(self) -> None:
        """Carries out what was asked for before, then ends the thread."""
        self._jobs.put(None)
        await self._stopped.wait()
        self._thread.join()

    def _run(self) -> None:
        running = True
        while running:
            group = self._next_group()
            running = group[-1] is not None
            replies = self._carry_out([job for job in group if job is not None])
            self._loop.call_soon_threadsafe(_answer, replies)
        self._drop()
        self._loop.call_soon_threadsafe(self._stopped.set)

    def _next_group(self) -> list[tuple[Callable[[S], Any], Answer] | None]:
        # Asleep first: whoever brings a job then has nobody to wake, which would cost it a system call.
        if self._crowded and (pause := self._began + self._spacing - time.monotonic()) > 0:
            time.sleep(pause)
        group = [self._jobs.get()]
        self._began = time.monotonic()
        try:
            while len(group) < MAX_GROUP and group[-1] is not None:
                group.append(self._jobs.get_nowait())
        except Empty:
            pass
        self._crowded = len(group) >= CROWD
        return group

    def _carry_out(self, group: list[tuple[Callable[[S], Any], Answer]]) -> list[tuple[Answer, Any]]:
        if not group:
            return []
        try:
            return self._transact(group)
        except Exception as error:
            self._drop()
            # What is wrong with one job must not fail its neighbours; what is wrong with the file fails all.
            if len(group) > 1 and not isinstance(error, sqlite3.OperationalError):
                return [reply for job in group for reply in self._carry_out([job])]
            if not isinstance(error, sqlite3.Error | OSError):
                logger.exception("a job failed")
            return [(answer, StoreDown(f"{type(error).__name__}: {error}")) for _, answer in group]

    def _transact(self, group: list[tuple[Callable[[S], Any], Answer]]) -> list[tuple[Answer, Any]]:
        session = self._session = self._session or self._make()
        try:
            return _done(session, group)
        except Again:
            return _done(session, group)

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            try:
                session.close()
            except sqlite3.Error:
                logger.warning("a connection could not be closed", exc_info=True)


def _done(session: S, group: list[tuple[Callable[[S], Any], Answer]]) -> list[tuple[Answer, Any]]:
    session.begin()
    replies: list[tuple[Answer, Any]] = []
    for job, answer in group:
        try:
            replies.append((answer, job(session)))
        except (Fenced, Gap, ThreadBusy) as refusal:  # raised before anything is changed
            replies.append((answer, refusal))
    session.commit()
    return replies


def _answer(replies: list[tuple[Answer, Any]]) -> None:
    for answer, result in replies:
        try:
            answer(result)
        except Exception:  # a fault of one listener must not leave the others without their answers
            logger.exception("an answer was not taken")
