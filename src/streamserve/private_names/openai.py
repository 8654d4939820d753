"""openai: the decoder and the iterator of a stream. Without them, a stream decodes as the package does, but slower."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from openai import AsyncStream, Stream

Next = Callable[[], Awaitable[object]]


def decode_with(stream: Stream[Any] | AsyncStream[Any], decoder: Any) -> None:
    """Have a stream that has not begun decode its events with another decoder."""
    if hasattr(stream, "_decoder"):
        stream._decoder = decoder


def next_of(stream: AsyncStream[object]) -> Next:
    """Return a function that waits for the next item of a stream."""
    items = getattr(stream, "_iterator", None)
    return partial(AsyncStream.__anext__, stream) if items is None else cast(Next, items.__anext__)
