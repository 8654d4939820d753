"""Cost of the fast paths: CPU per token in process with all of them, and with each one off."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, base
from langchain_openai import ChatOpenAI

from benchmarks.plan import Plan
from benchmarks.results import Figure, report
from streamserve.lcel.fast_chain import RunnableSequence, pieces, rebuilt
from streamserve.models.openai.completions import ChunkChatOpenAI
from streamserve.private_names.langchain_core import WATCHED
from streamserve.wire.chunk_lines import ChunkLines
from streamserve.wire.serializer import typed_line

TOKENS, QUICK = 5000, 50


class Talker(BaseChatModel):
    """A model that yields tokens as fast as they are taken."""

    tokens: int

    @property
    def _llm_type(self) -> str:
        return "talker"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for _number in range(self.tokens):
            yield ChatGenerationChunk(message=AIMessageChunk(content="word "))


def _chains(tokens: int) -> dict[str, Runnable[Any, Any]]:
    prompt, model = ChatPromptTemplate.from_template("{topic}"), Talker(tokens=tokens)
    return {
        "text": prompt | model | StrOutputParser(),
        "messages": prompt | model,
        "text with a bound model": prompt | model.bind(stop=["."]) | StrOutputParser(),
    }


def main(plan: Plan) -> None:
    """Measure each chain with all pieces, without each, and as declared, in turn; and the check at the start."""
    tokens = plan.amount(TOKENS, QUICK)
    ways = {"all on": frozenset(WATCHED), "all off": frozenset[str]()}
    ways |= {f"without {piece}": frozenset(WATCHED) - {piece} for piece in WATCHED}
    costs: dict[str, list[float]] = {}
    checks = []
    for _ in range(plan.rounds):
        for name, chain in _chains(tokens).items():
            for way, on in ways.items():
                cost = asyncio.run(_cost(rebuilt(chain, on)))
                costs.setdefault(f"{name}: {way}", []).append(cost / tokens * 1e6)
        for name, cost in (*_lines(tokens), *_openai(tokens)):
            costs.setdefault(name, []).append(cost / tokens * 1e6)
        pieces.cache_clear()
        before = time.process_time()
        pieces()
        checks.append((time.process_time() - before) * 1e3)
    figures = [Figure(name, "us", values) for name, values in costs.items()]
    report("fast_paths", [*figures, Figure("the check of the pieces: CPU", "ms", checks)])


def _lines(tokens: int) -> Iterator[tuple[str, float]]:
    lines = ChunkLines()
    chunks = [AIMessageChunk(content=f"word {number}", id="run-1") for number in range(tokens)]
    lines.learn(chunks[0])
    for name, write in (("message lines", lines.line), ("message lines off", typed_line)):
        before = time.process_time()
        for chunk in chunks:
            write(chunk)
        yield name, time.process_time() - before


def _openai(tokens: int) -> Iterator[tuple[str, float]]:
    choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
    event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "canned", "choices": [choice]}
    body = b"data: %s\n\n" % json.dumps(event).encode() * tokens + b"data: [DONE]\n\n"
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    )
    makes: dict[str, Callable[..., ChatOpenAI]] = {"openai stream": ChunkChatOpenAI, "openai stream off": ChatOpenAI}
    for name, make in makes.items():
        client = httpx.AsyncClient(transport=transport)
        yield (
            name,
            asyncio.run(_cost(make(model="canned", api_key="-", base_url="http://canned", http_async_client=client))),
        )


async def _cost(chain: Runnable[Any, Any]) -> float:
    """Return the seconds of CPU of one stream."""
    value: Any = {"topic": "cats"} if isinstance(chain, base.RunnableSequence) else "cats"
    before = time.process_time()
    stream = chain.astream_in_own_task(value, {}) if isinstance(chain, RunnableSequence) else chain.astream(value)
    async for _ in stream:
        pass
    return time.process_time() - before
