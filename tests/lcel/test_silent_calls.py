"""A model that is called without a run answers as with one: caches, rate limits, metadata and ids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter

from streamserve.lcel.fast_chain import RunnableSequence, fast
from streamserve.lcel.recorder import comparable
from tests.observed import answer_of, outcome
from tests.streamed_chains import AsyncSayer, Sayer

prompt = ChatPromptTemplate([("human", "Hi")])


class Answerer(Sayer):
    """A model with a provider's details, which notes its calls."""

    answers: int = 1
    names: bool = False
    output: dict[str, Any] | None = None
    streaming: bool = False
    seen: Any = None  # a list, which pydantic would copy

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.seen.append(("called", len(messages), stop, bool(run_manager), kwargs))
        made = [AIMessage(f"answer {index}", id="own" if self.names else None) for index in range(self.answers)]
        generations = [ChatGeneration(message=each, generation_info={"finish": "stop"}) for each in made]
        return ChatResult(generations=generations, llm_output=self.output)

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        self.seen.append("streamed")
        yield ChatGenerationChunk(message=AIMessageChunk(content="streamed"))


class Unmanaged(Answerer):
    """The same, whose code takes no run."""

    async def _agenerate(self, messages: Any, stop: Any = None, **kwargs: Any) -> ChatResult:  # type: ignore[override]
        assert "run_manager" not in kwargs
        return await super()._agenerate(messages, stop, None, **kwargs)


class Counted(BaseRateLimiter):
    """A rate limiter that notes what asked."""

    def __init__(self, seen: list[Any]) -> None:
        self._seen = seen

    def acquire(self, *, blocking: bool = True) -> bool:
        raise NotImplementedError

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self._seen.append("limited")
        return True


MODELS: dict[str, Any] = {
    "one answer": lambda seen: Answerer(seen=seen),
    "several answers": lambda seen: Answerer(seen=seen, answers=2, output={"model": "m"}),
    "no answer": lambda seen: Answerer(seen=seen, answers=0),
    "an id of its own": lambda seen: Answerer(seen=seen, names=True),
    "metadata": lambda seen: Answerer(seen=seen, output={"model": "m", "finish": "?"}),
    "no run": lambda seen: Unmanaged(seen=seen),
    "a call that streams": lambda seen: Answerer(seen=seen, streaming=True),
    "an argument that streams": lambda seen: Answerer(seen=seen).bind(stream=True),
    "arguments": lambda seen: Answerer(seen=seen).bind(
        stop=["."], seed=1, structured_output_format={"kwargs": {}, "schema": {"title": "A", "type": "object"}}
    ),
    "content blocks": lambda seen: Answerer(seen=seen, output_version="v1"),
    "a rate limit": lambda seen: Answerer(seen=seen, rate_limiter=Counted(seen)),
    "a cache": lambda seen: Answerer(seen=seen, cache=InMemoryCache()),
    "a cache that is missing": lambda seen: Answerer(seen=seen, cache=True),
    "no cache": lambda seen: Answerer(seen=seen, cache=False),
    "a sync model": lambda seen: Sayer(),
    "an async model without `_agenerate`": lambda seen: AsyncSayer(),
}


async def _twice(make: Any, *, quick: bool) -> Any:
    seen: list[Any] = []
    chain = prompt | make(seen)
    shown = []
    for _ in range(2):
        if quick:
            rebuilt = fast(chain)
            assert isinstance(rebuilt, RunnableSequence)
            answer = rebuilt.answer_without_runs({}, {})
            assert answer is not None
            shown += await outcome(answer)
        else:
            shown += await answer_of(chain, {}, {})
    return comparable([*shown, *seen])


@pytest.mark.parametrize("globally", [False, True])
@pytest.mark.parametrize("name", MODELS)
async def test_a_call_without_a_run_answers_the_same(name: str, globally: bool) -> None:
    found = []
    for quick in (False, True):
        set_llm_cache(InMemoryCache() if globally else None)
        try:
            found.append(await _twice(MODELS[name], quick=quick))
        finally:
            set_llm_cache(None)
    declared, silent = found
    assert declared
    assert silent == declared
