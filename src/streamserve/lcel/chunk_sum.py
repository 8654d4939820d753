"""The sum of a stream's chunks: the one place of the server where chunks are added up."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk

# Their sum is made once, at the end, in linear time; one by one, each sum would be a copy of all chunks so far.
_ADDED_AT_THE_END = frozenset({str, AIMessageChunk})


class ChunkSum:
    """Add chunks with `+` from the left, as langchain-core does.

    Args:
        restarts: what follows a chunk that cannot be added. True: the sum begins anew with that chunk, as in
            `Runnable.atransform`. False: the sum is the last chunk from then on, as in tracers (default false).
    """

    __slots__ = ("_addable", "_kind", "_pending", "_restarts", "_value")

    def __init__(self, *, restarts: bool = False) -> None:
        self._value: Any = None
        self._addable = True
        self._restarts = restarts
        self._kind: type[Any] | None = None
        self._pending: list[Any] = []

    def add(self, chunk: Any) -> None:
        """Add the next chunk."""
        kind = type(chunk)
        if kind is self._kind:
            self._pending.append(chunk)
        elif self._value is None and self._kind is None and self._addable and kind in _ADDED_AT_THE_END:
            self._kind, self._pending = kind, [chunk]
        else:
            self._settle()
            self._fold([chunk])

    def value(self) -> Any:
        """Return the sum so far, or None without chunks."""
        self._settle()
        return self._value

    def _settle(self) -> None:
        chunks, self._kind, self._pending = self._pending, None, []
        if chunks and _adds_in_one(chunks):
            try:
                self._value = _joined(chunks)
            except TypeError:  # adding them one by one finds the chunk that cannot be added
                self._fold(chunks)
        else:
            self._fold(chunks)

    def _fold(self, chunks: Sequence[Any]) -> None:
        for chunk in chunks:
            if self._value is None or not self._addable:
                self._value = chunk
                continue
            try:
                self._value = self._value + chunk
            except TypeError:
                self._value, self._addable = chunk, self._restarts


def _adds_in_one(chunks: Sequence[Any]) -> bool:
    # A message's last chunk completes its tool calls; the chunks after it are added to the complete calls.
    return type(chunks[0]) is str or all(chunk.chunk_position is None for chunk in chunks[:-1])


def _joined(chunks: Sequence[Any]) -> Any:
    first, *others = chunks
    if not others:
        return first
    return "".join(chunks) if type(first) is str else first + others
