"""The stream of a parser's values while their JSON arrives: each character is read once.

A chunk out of the ordinary ends that: from it on, langchain-core's parser streams, of the sum of the chunks before.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, Protocol

from langchain_core.messages import AIMessageChunk

from streamserve.lcel.growing_value import NOTHING, Operation
from streamserve.lcel.json_growth import Unusual
from streamserve.lcel.json_text import JsonText
from streamserve.lcel.traced_stream import Stream, close

# Characters that are read without a pause: about a millisecond.
SLICE = 2**13


class Changes:
    """The changes that led to the last chunk of a stream, for a caller who wants them instead of the chunk."""

    def __init__(self) -> None:
        self._operations: list[Operation] | None = None

    def put(self, operations: list[Operation]) -> None:
        """Keep the changes of the chunk that follows."""
        self._operations = operations

    def take(self) -> list[Operation] | None:
        """Return the changes from the chunk before the last one to the last; None: they are not known."""
        operations, self._operations = self._operations, None
        return operations


class Reading(Protocol):
    """The reading of a stream's chunks."""

    def pieces(self, chunk: Any) -> Iterator[None]:
        """Read the next chunk, and yield where other tasks may run.

        Raises:
            Unusual: langchain-core must be asked.
            ValueError: a number has too many digits.
        """

    def show(self) -> None:
        """Note that the value of the chunks so far was shown."""

    def end(self) -> None:
        """Note that there are no more chunks."""

    def sums(self) -> tuple[list[Any], list[Any]]:
        """Return the sum of the chunks up to the last value that was shown, and of those after it, if there are any."""


async def stream_values(
    reading: Reading, chunks: Stream, value: Callable[[], Any], others: Callable[[Stream], Stream]
) -> AsyncIterator[Any]:
    """Yield a parser's values.

    Args:
        reading: takes the chunks.
        value: returns the value after a chunk, or `NOTHING` if it is not to be shown.
        others: returns langchain-core's stream of the values.
    """
    try:
        async for chunk in chunks:
            unread = [chunk]
            try:
                for _ in reading.pieces(chunk):
                    await asyncio.sleep(0)
                unread = []
                shown = value()
            except (Unusual, ValueError):
                async with aclosing(_from_here(reading, unread, chunks, others)) as rest:
                    async for shown in rest:
                        yield shown
                return
            if shown is not NOTHING:
                reading.show()
                yield shown
        reading.end()
    finally:
        await close(chunks)


async def _from_here(
    reading: Reading, unread: list[Any], chunks: Stream, others: Callable[[Stream], Stream]
) -> AsyncGenerator[Any]:
    shown, since = reading.sums()
    known = bool(shown)
    stream = others(_again([*shown, *since, *unread], chunks))
    try:
        async for value in stream:
            if not known:
                yield value
            known = False
    finally:
        await close(stream)


async def _again(first: list[Any], chunks: Stream) -> AsyncIterator[Any]:
    for chunk in first:
        yield chunk
    async for chunk in chunks:
        yield chunk


class TextReading:
    """The JSON in the texts of a stream.

    Attributes:
        growth: the value.
    """

    def __init__(self) -> None:
        self._text = JsonText()
        self.growth = self._text.growth
        self._kind: type[Any] | None = None
        self._texts: list[str] = []
        self._shown = 0

    def pieces(self, chunk: Any) -> Iterator[None]:
        """Read the next chunk: a text, or a message with a text."""
        kind = type(chunk)
        text = chunk if kind is str else chunk.content if kind is AIMessageChunk else None
        if type(text) is not str or self._kind not in (kind, None):
            raise Unusual
        self._kind = kind
        for place in range(0, len(text), SLICE):
            if place:
                yield
            self._text.feed(text[place : place + SLICE])
        self._texts.append(text)

    def show(self) -> None:
        """Note that the value of the texts so far was shown."""
        self._shown = len(self._texts)

    def end(self) -> None:
        """Put the open text or number into the value."""
        self.growth.settle()

    def sums(self) -> tuple[list[Any], list[Any]]:
        """Return the sum of the texts up to the last value that was shown, and of those after it."""
        shown, since = self._sum(self._texts[: self._shown]), self._sum(self._texts[self._shown :])
        return shown, since

    def _sum(self, texts: list[str]) -> list[Any]:
        if not texts:
            return []
        text = "".join(texts)
        return [text if self._kind is str else AIMessageChunk(content=text)]
