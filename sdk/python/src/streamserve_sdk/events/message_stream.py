"""Turn the events of a remote chat model into LangChain's own message streams, with all of their projections."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from typing import Any

from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream

from streamserve_sdk.errors import ProtocolError
from streamserve_sdk.events.compact import Expander

_UNFINISHED = "the stream ended before the message did"


def message_stream(values: Generator[Any], expander: Expander) -> ChatModelStream:
    """Return the message stream of the values that follow the head.

    Args:
        values: the stream's values after the head.
        expander: the expander of the compact form.
    """
    stream = ChatModelStream()

    def pump() -> bool:
        try:
            stream.dispatch(expander.message_event(next(values)))
            if stream.done:
                _drain(values)
        except StopIteration:
            stream.fail(ProtocolError(_UNFINISHED))
            return False
        except Exception as error:
            stream.fail(error)
            return False
        return True

    stream.bind_pump(pump)
    return stream


def _drain(values: Generator[Any]) -> None:
    # The stream ends after the message: leaving in between would cancel the run.
    for _ in values:
        pass


class RemoteMessageStream(AsyncChatModelStream):
    """The message stream of the values that follow the head; a task of its own reads them, as for a local model.

    Args:
        values: the stream's values after the head.
        expander: the expander of the compact form.
    """

    def __init__(self, values: AsyncGenerator[Any], expander: Expander) -> None:
        super().__init__()
        self._values = values
        self._expander = expander
        self._reading: asyncio.Task[None] | None = None
        self.set_start(self._start)

    async def aclose(self) -> None:
        """Stop reading and cancel an unfinished run."""
        if self._reading is None:
            await self._values.aclose()
        elif not self._reading.done():
            if not self.done:
                self._reading.cancel()
            await asyncio.wait({self._reading})
        if not self.done:
            self.fail(asyncio.CancelledError())

    async def _start(self) -> None:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for value in self._values:
                self.dispatch(self._expander.message_event(value))
            if not self.done:
                raise ProtocolError(_UNFINISHED)
        except Exception as error:
            self.fail(error)
        finally:
            with suppress(Exception):
                await self._values.aclose()
