"""Handlers that are not inline get the same calls in the same order, with fewer ways to their OS thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda

from streamserve.lcel import handlers
from streamserve.lcel.fast_chain import fast
from streamserve.lcel.recorder import ThreadRecorder, comparable
from tests.limits import LIMIT
from tests.observed import AsyncRecorder, chunks_of
from tests.streamed_chains import AsyncSayer

WORDS = tuple(f"{number} " for number in range(200))
prompt = ChatPromptTemplate.from_template("{topic}")


def chain_of(model: Runnable[Any, Any]) -> Runnable[Any, Any]:
    return prompt | model | StrOutputParser()


TALK = chain_of(AsyncSayer(says=WORDS))


class CountingPool(ThreadPoolExecutor):
    """A pool that counts what it is given."""

    submitted = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        self.submitted += 1
        return super().submit(*args, **kwargs)


class Listener(BaseCallbackHandler):
    """A handler of tokens and of the model's end."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.threads: set[int] = set()

    def on_llm_new_token(self, token: str, **_: Any) -> None:
        self.heard.append(token)
        self.threads.add(threading.get_ident())

    def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.heard.append("end")


async def streamed(chain: Runnable[Any, Any], *callbacks: Any) -> list[Any]:
    async with asyncio.timeout(LIMIT):
        return list(await chunks_of(fast(chain), {"topic": "cats"}, {"callbacks": list(callbacks)}))


async def test_a_handler_in_a_thread_gets_several_tokens_per_hop() -> None:
    listener, pool = Listener(), CountingPool(4)
    asyncio.get_running_loop().set_default_executor(pool)
    await streamed(TALK, listener)
    assert listener.heard == [*WORDS, "", "end"]
    assert threading.get_ident() not in listener.threads
    assert pool.submitted < len(WORDS) / 4


async def test_a_handler_without_tokens_gets_no_hop_for_them() -> None:
    class Ends(BaseCallbackHandler):
        ends = 0

        def on_llm_end(self, *_: Any, **__: Any) -> None:
            self.ends += 1

    few, many, ends = CountingPool(4), CountingPool(4), Ends()
    for pool, says in ((few, WORDS[:1]), (many, WORDS)):
        asyncio.get_running_loop().set_default_executor(pool)
        await streamed(chain_of(AsyncSayer(says=says)), ends)
    assert ends.ends == 2
    assert many.submitted == few.submitted


async def test_a_stream_waits_for_a_handler_that_is_far_behind() -> None:
    held, reached, read = threading.Event(), asyncio.Event(), 0
    loop = asyncio.get_running_loop()

    class Slow(Listener):
        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            if token == WORDS[4]:
                loop.call_soon_threadsafe(reached.set)
                held.wait(LIMIT)
            super().on_llm_new_token(token, **kwargs)

    slow = Slow()

    async def read_all() -> None:
        nonlocal read
        async for _ in fast(TALK).astream({"topic": "cats"}, {"callbacks": [slow]}):
            read += 1

    async with asyncio.timeout(LIMIT):
        task = asyncio.create_task(read_all())
        try:
            await reached.wait()
            for _ in range(1000):  # turns of the loop, in which an unbounded stream would end
                await asyncio.sleep(0)
            assert not task.done()
            assert 5 <= read <= 2 * handlers.MOST
        finally:
            held.set()
        await task
    assert slow.heard == [*WORDS, "", "end"]


async def test_the_first_hop_comes_without_a_further_token() -> None:
    heard, gate = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class Waiting(AsyncSayer):
        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk
                await gate.wait()

    class Early(Listener):
        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            loop.call_soon_threadsafe(heard.set)

    async with asyncio.timeout(LIMIT):
        task = asyncio.create_task(streamed(chain_of(Waiting()), Early()))
        await heard.wait()
        gate.set()
        await task


@pytest.mark.parametrize("error", [ValueError("no"), NotImplementedError("no")])
async def test_an_error_of_a_handler_is_logged_for_each_token(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(BaseCallbackHandler):
        def on_llm_new_token(self, *_: Any, **__: Any) -> None:
            raise error

    logs = []
    for chain in (TALK, fast(TALK)):
        with caplog.at_level(logging.WARNING):
            await chunks_of(chain, {"topic": "cats"}, {"callbacks": [Failing()]})
        logs.append([(record.name, record.getMessage()) for record in caplog.records])
        caplog.clear()
    declared, quick = logs
    assert len(declared) == len(WORDS) + 1
    assert quick == declared


async def test_an_error_that_ends_a_stream_ends_it_at_its_token() -> None:
    class Raising(BaseCallbackHandler):
        raise_error = True

        def on_llm_new_token(self, token: str, **_: Any) -> None:
            if token == WORDS[2]:
                raise LookupError("stop")

    chunks = await streamed(TALK, Raising())
    assert chunks[:-1] == list(WORDS[:2])
    assert chunks[-1] == (LookupError, "stop")


async def test_a_handler_of_chain_and_model_is_called_once_per_token() -> None:
    listener = Listener()
    await streamed(chain_of(AsyncSayer(says=WORDS, callbacks=[listener])), listener)
    assert listener.heard == [*WORDS, "", "end"]


def _speak(text: str) -> str:
    return str(chain_of(AsyncSayer(says=("a", "b"))).invoke({"topic": text}))


async def _speak_on_the_loop(text: str) -> str:
    return _speak(text)


@pytest.mark.parametrize("speak", [_speak, _speak_on_the_loop])
@pytest.mark.parametrize("recorder", [ThreadRecorder, AsyncRecorder])
async def test_a_sync_chain_below_a_stream_is_observed_the_same(speak: Any, recorder: Any) -> None:
    chain = TALK | RunnableLambda(speak) | StrOutputParser()
    seen = []
    for each in (chain, fast(chain)):
        async with asyncio.timeout(LIMIT):
            handler = recorder()
            await chunks_of(each, {"topic": "cats"}, {"callbacks": [handler]})
            seen.append(comparable(handler.calls))
    declared, quick = seen
    assert quick == declared


async def test_a_stream_left_early_has_given_all_its_tokens() -> None:
    listener = Listener()
    stream = fast(TALK).astream({"topic": "cats"}, {"callbacks": [listener]})
    read = [await anext(stream) for _ in range(5)]
    await stream.aclose()  # type: ignore[attr-defined]
    assert listener.heard[:5] == read


def test_a_stand_in_passes_for_its_handler() -> None:
    async def made() -> Any:
        return handlers.Hops(AsyncRecorder())

    hops = asyncio.run(made())
    assert isinstance(hops, AsyncCallbackHandler)
    assert hops.run_inline
    assert not hops.ignore_llm
    assert hops.calls == []
