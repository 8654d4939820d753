"""Add the chunks of a stream up, once and in linear time."""

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.runnables.utils import AddableDict


def merge(chunks: list[Any]) -> Any:
    """Return the sum of the chunks, or the last one if they cannot be added; None if there are none.

    A dict has one such whole per key, because the branches of a map send their chunks in any order.

    Args:
        chunks: all chunks of a stream.
    """
    if len(chunks) < 2:
        return chunks[0] if chunks else None
    try:
        return _sum(chunks)
    except (TypeError, ValueError):
        return chunks[-1]


def _sum(chunks: list[Any]) -> Any:
    kinds = set(map(type, chunks))
    if kinds == {str}:
        return "".join(chunks)
    if kinds == {AIMessageChunk}:
        return add_ai_message_chunks(chunks[0], *chunks[1:])
    if kinds == {AddableDict}:
        return AddableDict({key: merge(values) for key, values in _columns(chunks)})
    if kinds == {list}:
        return [item for chunk in chunks for item in chunk]
    return reduce(add, chunks)


def _columns(chunks: list[Any]) -> Iterable[tuple[str, list[Any]]]:
    """Group the values of dicts by key; as in AddableDict, None adds nothing."""
    columns: dict[str, list[Any]] = {}
    for chunk in chunks:
        for key, value in chunk.items():
            column = columns.setdefault(key, [])
            if value is not None:
                column.append(value)
    return ((key, column or [None]) for key, column in columns.items())
