"""The sum of a stream's chunks, as tracers see a run's input and output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk

# Nobody can see when these are added up: once at the end is linear, one by one is a copy of the whole per chunk.
_ADDED_AT_THE_END = frozenset({str, AIMessageChunk})


class ChunkSum:
    """Adds chunks with `+` from the left; of chunks that cannot be added it is the last one."""

    __slots__ = ("_addable", "_kind", "_pending", "_value")

    def __init__(self) -> None:
        self._value: Any = None
        self._addable = True
        self._kind: type[Any] | None = None
        self._pending: list[Any] = []

    def add(self, chunk: Any) -> None:
        """Adds the next chunk."""
        kind = type(chunk)
        if kind is self._kind:
            self._pending.append(chunk)
        elif self._value is None and self._kind is None and kind in _ADDED_AT_THE_END:
            self._kind, self._pending = kind, [chunk]
        else:
            self._settle()
            self._fold(chunk)

    def value(self) -> Any:
        """The sum so far; None without chunks."""
        self._settle()
        return self._value

    def _settle(self) -> None:
        chunks, self._kind, self._pending = self._pending, None, []
        if chunks and _adds_in_one(chunks):
            try:
                self._value = _joined(chunks)
            except TypeError:  # somewhere among them: one by one tells where
                self._fold_all(chunks)
        else:
            self._fold_all(chunks)

    def _fold_all(self, chunks: Sequence[Any]) -> None:
        for chunk in chunks:
            self._fold(chunk)

    def _fold(self, chunk: Any) -> None:
        if self._value is None or not self._addable:
            self._value = chunk
            return
        try:
            self._value = self._value + chunk
        except TypeError:
            self._value, self._addable = chunk, False


def _adds_in_one(chunks: Sequence[Any]) -> bool:
    # A message's last chunk makes its tool calls whole; what comes after it is added to those.
    return type(chunks[0]) is str or all(chunk.chunk_position is None for chunk in chunks[:-1])


def _joined(chunks: Sequence[Any]) -> Any:
    first, *others = chunks
    if not others:
        return first
    return "".join(chunks) if type(first) is str else first + others
