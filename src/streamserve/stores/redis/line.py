"""A connection whose answers go to callbacks: no task and no future for each call, which come for each token."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hiredis import HiredisError, Reader, ReplyError, pack_command

from streamserve.stores.base import StoreDown

Part = str | int | float | bytes
NOTHING = object()


class _Call(NamedTuple):
    deadline: float
    replies: int
    answered: Callable[[list[Any] | StoreDown], None]


class Line(asyncio.Protocol):
    """Sends commands and hands their replies on, in order.

    Args:
        writer: of the connection, greeted already; it belongs to the line from now on.
        timeout: seconds that Redis may take for an answer.
        on_lost: called once when the line is of no use any more, before the calls under way are told.
    """

    def __init__(self, writer: asyncio.StreamWriter, timeout: float, on_lost: Callable[[], None]) -> None:
        # The stream is kept, as it would complain of a connection that nobody closed; its buffers are out of the way.
        self._writer = writer
        self._transport = writer.transport
        self._timeout = timeout
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(notEnoughData=NOTHING)
        self._calls: deque[_Call] = deque()
        self._replies: list[Any] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = True
        self._transport.set_protocol(self)

    def send(self, commands: Sequence[Sequence[Part]], answered: Callable[[list[Any] | StoreDown], None]) -> None:
        """Sends commands at once, over a line that is not lost.

        Args:
            commands: what each asks.
            answered: called with a reply to each, or with what became of the line.
        """
        deadline = self._loop.time() + self._timeout
        self._calls.append(_Call(deadline, len(commands), answered))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._look_at_clock)
        self._transport.write(b"".join([pack_command(tuple(command)) for command in commands]))  # type: ignore[arg-type] # its stub knows commands of one word only

    async def ask(self, *command: Part) -> Any:
        """The reply to one command.

        Raises:
            StoreDown: the line is lost.
        """
        answer: asyncio.Future[list[Any] | StoreDown] = self._loop.create_future()
        self.send([command], lambda found: None if answer.done() else answer.set_result(found))
        found = await answer
        if isinstance(found, StoreDown):
            raise found
        if not self._is_open:
            raise StoreDown("Redis: the connection was closed with its answer")
        return found[0]

    def close(self) -> None:
        """Closes it; what is under way is not answered."""
        self._is_open = False
        self._calls.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Replies, or parts of them."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not NOTHING:
                self._take(reply)
        except HiredisError as error:
            self._lose(StoreDown(f"Redis: {error}"))

    def _take(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            raise reply
        if not self._calls:
            raise HiredisError("an answer that nobody asked for")
        self._replies.append(reply)
        if len(self._replies) == self._calls[0].replies:
            replies, self._replies = self._replies, []
            self._calls.popleft().answered(replies)

    def connection_lost(self, error: Exception | None) -> None:
        """The other side is gone, or this one closed."""
        self._lose(StoreDown(f"Redis: {error or 'the connection is closed'}"))

    def _look_at_clock(self) -> None:
        # One timer for all calls: it looks for the oldest one that is left.
        self._timer = None
        if not self._calls:
            return
        if self._calls[0].deadline <= self._loop.time():
            self._lose(StoreDown(f"Redis: no answer within {self._timeout:g} s"))
        else:
            self._timer = self._loop.call_at(self._calls[0].deadline, self._look_at_clock)

    def _lose(self, error: StoreDown) -> None:
        if not self._is_open:
            return
        calls = list(self._calls)
        self.close()
        self._on_lost()
        for call in calls:
            call.answered(error)
