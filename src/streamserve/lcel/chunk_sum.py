"""The sum of a stream's chunks: the one place of the server where chunks are added up."""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.runnables.utils import AddableDict

# Summed in slices, in linear time; one by one, each sum would be a copy of all chunks so far.
_ADDED_IN_SLICES = frozenset({str, bytes, list, AddableDict, AIMessageChunk})
# Chunks of a slice: this number, or an eighth of all chunks so far. Message chunks of 1 kB each wait for their sum.
SLICE = 16


class ChunkSum:
    """Add chunks with `+` from the left, as langchain-core does.

    Args:
        restarts: what follows a chunk that cannot be added. True: the sum begins anew with that chunk, as in
            `Runnable.atransform`. False: the sum is the last chunk from then on, as in tracers (default false).
    """

    __slots__ = ("_addable", "_count", "_kind", "_limit", "_pending", "_restarts", "_value")

    def __init__(self, *, restarts: bool = False) -> None:
        self._value: Any = None
        self._addable = True
        self._restarts = restarts
        self._kind: type[Any] | None = None
        self._pending: list[Any] = []
        self._count = 0
        self._limit = SLICE

    def add(self, chunk: Any) -> None:
        """Add the next chunk."""
        kind = type(chunk)
        if kind is self._kind:
            self._pending.append(chunk)
            if len(self._pending) >= self._limit:
                self._add_slice(kind)
        elif self._value is None and self._kind is None and self._addable and kind in _ADDED_IN_SLICES:
            self._kind, self._pending = kind, [chunk]
        else:
            self._settle()
            self._fold([chunk])

    def value(self) -> Any:
        """Return the sum so far, or None without chunks."""
        self._settle()
        return self._value

    def _add_slice(self, kind: type[Any]) -> None:
        self._count += len(self._pending)
        self._limit = max(SLICE, self._count // 8)
        self._settle()
        if type(self._value) is kind and self._addable:
            self._kind, self._pending, self._value = kind, [self._value], None

    def _settle(self) -> None:
        chunks, self._kind, self._pending = self._pending, None, []
        if not chunks:
            return
        try:
            self._value = _joined(chunks)
        except TypeError:  # adding them one by one finds the chunk that cannot be added
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


def _joined(chunks: Sequence[Any]) -> Any:
    """Return the sum of chunks, most often of one type, as adding them one by one gives it."""
    first, *others = chunks
    kinds = set(map(type, chunks))
    if not others:
        return first
    if kinds == {str} or kinds == {bytes}:
        return type(first)().join(chunks)
    if kinds == {list}:
        return [item for chunk in chunks for item in chunk]
    if kinds == {AddableDict}:
        return AddableDict({key: _joined(values) for key, values in _columns(chunks).items()})
    # A message's last chunk completes its tool calls; the chunks after it are added to the complete calls.
    if kinds == {AIMessageChunk} and all(chunk.chunk_position is None for chunk in chunks[:-1]):
        return first + others
    return reduce(add, chunks)


def _columns(chunks: Sequence[AddableDict]) -> dict[str, list[Any]]:
    """Return the values of each key; as in AddableDict, None adds nothing."""
    columns: dict[str, list[Any]] = {}
    for chunk in chunks:
        for key, value in chunk.items():
            column = columns.setdefault(key, [])
            if value is not None:
                column.append(value)
    return {key: column or [None] for key, column in columns.items()}
