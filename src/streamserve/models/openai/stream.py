"""Streams of chat completions as plain dicts instead of the `openai` package's tree of objects per chunk.

Requests, retries, errors, `[DONE]` and closing remain the package's own. LangChain accepts dicts.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, Self

from langchain_openai import StreamChunkTimeoutError
from openai import AsyncStream, Stream
from openai.types.chat import ChatCompletionChunk

from streamserve.models.openai.idle_timeout import IdleTimeout
from streamserve.models.openai.sse import SSEDecoder
from streamserve.private_names.openai import decode_with, next_of

logger = logging.getLogger(__name__)


class ChunkStream(Stream[object]):
    """A stream of chunks: dicts, or the package's objects where LangChain needs them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        decode_with(self, SSEDecoder())

    def __next__(self) -> object:
        return chunk_of(super().__next__())

    def __iter__(self) -> Iterator[object]:
        return map(chunk_of, super().__iter__())


class AsyncChunkStream(AsyncStream[object]):
    """The asynchronous ChunkStream."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        decode_with(self, SSEDecoder())
        self._next = next_of(self)
        self._timeout: float | None = None
        self._model_name: str | None = None
        self._received = 0
        self._idle: IdleTimeout | None = None

    def limit(self, timeout: float | None, model_name: str | None) -> Self:
        """Return this stream, which now raises `StreamChunkTimeoutError` when a chunk takes too long.

        The limit is in seconds; None, zero and less mean no limit, as for ChatOpenAI.
        """
        self._timeout = timeout if timeout and timeout > 0 else None
        self._model_name = model_name
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        if self._timeout is None:
            return chunk_of(await self._next())
        idle = self._idle = self._idle or IdleTimeout(self._timeout)
        idle.begin()
        try:
            chunk = await self._next()
        except asyncio.CancelledError:
            idle.stop()
            if idle.has_expired():
                raise self._timeout_error() from TimeoutError()  # as with asyncio.timeout
            raise
        except BaseException:
            idle.stop()
            raise
        finally:
            idle.end()
        self._received += 1
        return chunk_of(chunk)

    def _timeout_error(self) -> StreamChunkTimeoutError:
        assert self._timeout is not None
        found = {"timeout_s": self._timeout, "model_name": self._model_name, "chunks_received": self._received}
        logger.warning("stream_chunk_timeout fired", extra={"source": "stream_chunk_timeout", **found})
        return StreamChunkTimeoutError(self._timeout, model_name=self._model_name, chunks_received=self._received)


def chunk_of(data: object) -> object:
    """Return the dict, or the package's object where LangChain reads more from the object than from the dict."""
    if not isinstance(data, dict) or is_plain(data):
        return data
    return ChatCompletionChunk.construct(None, **data)


def is_plain(chunk: dict[str, Any]) -> bool:
    """Return whether LangChain reads the same from this dict as from the package's object."""
    choices = chunk.get("choices")
    if (usage := chunk.get("usage")) and not _are_counts(usage):
        return False
    if not choices:
        return True
    try:
        choice, delta = choices[0], choices[0]["delta"]
        return not (
            choice.get("logprobs")
            or delta.get("function_call")
            or ("tool_calls" in delta and not _are_plain(delta["tool_calls"]))
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _are_plain(calls: Any) -> bool:
    return not calls or all("index" in call and isinstance(call["function"], dict) for call in calls)


def _are_counts(usage: Any) -> bool:
    # The package's object turns 3.0 into 3, and LangChain adds only integers.
    if not isinstance(usage, dict):
        return False
    return not any(
        isinstance(count, float) or (isinstance(count, dict) and not _are_counts(count)) for count in usage.values()
    )
