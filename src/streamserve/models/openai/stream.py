"""Streams of chat completions as plain dicts: the `openai` package makes a tree of objects for every chunk.

All else stays the package's own: requests, retries, errors, `[DONE]`, closing. LangChain takes dicts as they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

from langchain_openai import StreamChunkTimeoutError
from openai import AsyncStream, Stream
from openai.types.chat import ChatCompletionChunk

from streamserve.models.openai.silence import Silence
from streamserve.models.openai.sse import SSEDecoder

logger = logging.getLogger(__name__)


class ChunkStream(Stream[object]):
    """A stream of chunks: each a dict, or the package's object where that says more."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._decoder = _decoder()

    def __next__(self) -> object:
        return chunk_of(super().__next__())

    def __iter__(self) -> Iterator[object]:
        return map(chunk_of, self._iterator)


class AsyncChunkStream(AsyncStream[object]):
    """The same, asynchronous."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._decoder = _decoder()
        self._timeout: float | None = None
        self._model_name: str | None = None
        self._received = 0
        self._silence: Silence | None = None

    def limited(self, timeout: float | None, model_name: str | None) -> AsyncChunkStream:
        """This stream, which now raises `StreamChunkTimeoutError` when a chunk takes too long.

        Args:
            timeout: seconds; none, zero and less are no limit, as they are for ChatOpenAI.
            model_name: for the error.
        """
        self._timeout = timeout if timeout and timeout > 0 else None
        self._model_name = model_name
        return self

    def __aiter__(self) -> AsyncChunkStream:
        return self

    async def __anext__(self) -> object:
        if self._timeout is None:
            return chunk_of(await self._iterator.__anext__())
        silence = self._silence = self._silence or Silence(self._timeout)
        silence.begin()
        try:
            chunk = await self._iterator.__anext__()
        except asyncio.CancelledError:
            silence.stop()
            if silence.is_over():
                raise self._silent() from TimeoutError()  # as with asyncio.timeout
            raise
        except BaseException:
            silence.stop()
            raise
        finally:
            silence.end()
        self._received += 1
        return chunk_of(chunk)

    def _silent(self) -> StreamChunkTimeoutError:
        assert self._timeout is not None
        found = {"timeout_s": self._timeout, "model_name": self._model_name, "chunks_received": self._received}
        logger.warning("stream_chunk_timeout fired", extra={"source": "stream_chunk_timeout", **found})
        return StreamChunkTimeoutError(self._timeout, model_name=self._model_name, chunks_received=self._received)


def _decoder() -> Any:
    # The package asks for events of its own class, and uses what ours have.
    return SSEDecoder()


def chunk_of(data: object) -> object:
    """What LangChain converts to the same message chunk as the package's object of this data."""
    if not isinstance(data, dict) or is_plain(data):
        return data
    return ChatCompletionChunk.construct(None, **data)


def is_plain(chunk: dict[str, Any]) -> bool:
    """Whether the package's object of this chunk would add nothing that is read from it."""
    choices = chunk.get("choices")
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
