"""The text parser without a thread per chunk. Unlike upstream, it gives plain strings: there they are of a subclass."""

from collections.abc import AsyncIterator
from typing import Any, cast

from langchain_core import output_parsers
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import RunnableConfig

from streamserve.lcel.traced_stream import Stream, close, traced


class StrOutputParser(output_parsers.StrOutputParser):
    """The string parser without a thread per chunk."""

    def atransform(self, input: Stream, config: RunnableConfig | None = None, **_: Any) -> Stream:
        return traced(self, input, self.texts, config, run_type="parser")

    async def texts(self, chunks: Stream, *_: Any) -> AsyncIterator[str]:
        """Stream the text of each chunk."""
        try:
            async for chunk in chunks:
                yield _text(self, chunk)
        finally:
            await close(chunks)


def _text(parser: StrOutputParser, chunk: Any) -> str:
    kind = type(chunk)
    if kind is str:
        return cast(str, chunk)
    if kind is AIMessageChunk and type(chunk.content) is str:
        return chunk.content
    if isinstance(chunk, BaseMessage):
        return parser.parse_result([ChatGeneration(message=chunk)])
    return parser.parse_result([Generation(text=chunk)])
