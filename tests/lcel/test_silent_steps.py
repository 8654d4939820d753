"""Steps without a run of their own: a model waits for its rate limiter, and a step closes the stream before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField, Runnable, RunnableConfig

from streamserve.lcel.fast_chain import RunnableSequence, fast
from streamserve.lcel.recorder import comparable, until_the_end
from streamserve.lcel.silent_steps import silent
from streamserve.private_names.langchain_core import WATCHED
from tests.observed import chunks_of
from tests.streamed_chains import AsyncSayer

LIMIT = 60.0
prompt = ChatPromptTemplate([("human", "Hi")])


class Turnstile(BaseRateLimiter):
    """A rate limiter that lets a call pass when the test says so."""

    def __init__(self) -> None:
        self.asked, self.free = asyncio.Event(), asyncio.Event()

    def acquire(self, *, blocking: bool = True) -> bool:
        raise NotImplementedError

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.asked.set()
        if blocking:
            await self.free.wait()
        return self.free.is_set()


@pytest.mark.parametrize("observed", [False, True])
async def test_a_model_waits_for_its_rate_limiter(observed: bool) -> None:
    called = asyncio.Event()

    class Called(AsyncSayer):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            called.set()
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk

    turnstile = Turnstile()
    chain = fast(prompt | Called(rate_limiter=turnstile))
    assert isinstance(chain, RunnableSequence)
    stream = chain.astream({}) if observed else chain.without_runs({}, RunnableConfig())
    assert stream is not None
    async with asyncio.timeout(LIMIT):
        first = asyncio.ensure_future(anext(aiter(stream)))
        await turnstile.asked.wait()
        assert not called.is_set()
        turnstile.free.set()
        assert (await first).content == "Cats"
        assert [chunk.content async for chunk in stream][:3] == [" ", "purr", "."]


class Unaddable:
    """A chunk whose addition fails."""

    def __add__(self, other: object) -> Unaddable:
        raise ValueError("not added")


@pytest.mark.parametrize("step", [prompt, AsyncSayer()], ids=["prompt", "model"])
async def test_a_step_that_fails_at_its_inputs_closes_them(step: Runnable[Any, Any]) -> None:
    closed = asyncio.Event()

    async def inputs() -> AsyncIterator[Any]:
        try:
            while True:
                yield Unaddable()
        finally:
            closed.set()

    make = silent(step, frozenset(WATCHED))
    assert make is not None
    source = inputs()
    stream = make(source, {}, {})
    assert stream is not None
    with pytest.raises(ValueError, match="not added"):
        await anext(aiter(stream))
    assert closed.is_set()


class Refused(Exception):
    """A failure that no fallback handles."""


class Refusing(AsyncSayer):
    """A model that raises before its first chunk."""

    def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        raise Refused("no")


BROKEN = AsyncSayer(says=(), fails=True)
LATE = AsyncSayer(fails=True)
FALLBACKS: dict[str, Runnable[Any, Any]] = {
    "the first works": AsyncSayer().with_fallbacks([BROKEN]),
    "the last works": BROKEN.with_fallbacks([BROKEN, AsyncSayer(says=("b",))]),
    "none works": BROKEN.with_fallbacks([Refusing()]),
    "a failure after the first chunk": LATE.with_fallbacks([AsyncSayer()]),
    "a failure that is not handled": Refusing().with_fallbacks([AsyncSayer()], exceptions_to_handle=(ValueError,)),
    "bound arguments": BROKEN.with_fallbacks([AsyncSayer().bind(stop=["end"])]),
    "fallbacks of fallbacks": BROKEN.with_fallbacks([BROKEN.with_fallbacks([AsyncSayer()])]),
}


@pytest.mark.parametrize("name", FALLBACKS)
async def test_fallbacks_stream_the_same_without_a_run(name: str) -> None:
    declared = prompt | FALLBACKS[name]
    chain = fast(declared)
    assert isinstance(chain, RunnableSequence)
    stream = chain.without_runs({}, RunnableConfig())
    assert stream is not None
    assert comparable(await until_the_end(stream)) == comparable(await chunks_of(declared, {}))


def test_fallbacks_that_are_told_the_failure_need_a_run() -> None:
    chain = fast(prompt | BROKEN.with_fallbacks([AsyncSayer()], exception_key="error"))
    assert isinstance(chain, RunnableSequence)
    assert chain.without_runs({}, RunnableConfig()) is None


@pytest.mark.parametrize("voice", ["b", "nobody's"])
async def test_a_choice_streams_the_same_without_a_run(voice: str) -> None:
    field = ConfigurableField("voice")
    declared = prompt | AsyncSayer().configurable_alternatives(field, default_key="a", b=AsyncSayer(says=("b",)))
    config = RunnableConfig(configurable={"voice": voice})

    async def streamed() -> AsyncIterator[Any]:
        stream = fast(declared).without_runs({}, config)  # type: ignore[attr-defined]
        assert stream is not None
        async for chunk in stream:
            yield chunk

    assert comparable(await until_the_end(streamed())) == comparable(await chunks_of(declared, {}, config))


async def test_a_choice_with_a_config_of_its_own_needs_a_run() -> None:
    choice = AsyncSayer().configurable_alternatives(ConfigurableField("voice"), default_key="a").with_config(tags=["t"])
    chain = fast(prompt | choice)
    assert isinstance(chain, RunnableSequence)
    assert chain.without_runs({}, RunnableConfig()) is None
