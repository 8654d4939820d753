"""A step's stream: its task and its context, and how it ends early."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from langchain_core.callbacks import adispatch_custom_event
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    ensure_config,
)
from pydantic import PrivateAttr

from streamserve import Chain
from streamserve.lcel.fast_chain import fast
from streamserve.lcel.recorder import Recorder, comparable
from streamserve.serving.chains import serve
from tests.fakes import Topic, registered
from tests.limits import LIMIT
from tests.observed import AsyncRecorder, chunks_of
from tests.streamed_chains import SETTINGS, breaking

topic: ContextVar[str] = ContextVar("topic", default="none")
prompt = ChatPromptTemplate.from_template("Say something about {topic}.")


class Watched(BaseChatModel):
    """A model that notes where it runs, and when its stream is closed."""

    tokens: int = 3
    waits: bool = False
    _notes: list[Any] = PrivateAttr(default_factory=list)
    _waiting: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)
    _closed: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    @property
    def _llm_type(self) -> str:
        return "watched"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        try:
            for number in range(self.tokens):
                await self._between()
                yield ChatGenerationChunk(message=AIMessageChunk(content=f"{number} "))
            if self.waits:
                self._waiting.set()
                await asyncio.Event().wait()
        finally:
            self._closed.set()

    async def _between(self) -> None:
        await asyncio.sleep(0)

    def chain(self) -> Runnable[Any, Any]:
        """The model between a prompt and a parser."""
        return fast(prompt | self | StrOutputParser())


class Contextual(Watched):
    """Notes what it finds in its context, and leaves something there."""

    async def _between(self) -> None:
        await asyncio.sleep(0)
        config = ensure_config()
        self._notes.append((topic.get(), config["tags"], config["metadata"], config.get("max_concurrency")))
        topic.set(f"{topic.get()}+")
        if config["callbacks"]:
            await adispatch_custom_event("between", {"topic": topic.get()})


class Timed(Watched):
    """Notes its task, and limits its time."""

    async def _between(self) -> None:
        async with asyncio.timeout(LIMIT):
            await asyncio.sleep(0)
        self._notes.append(asyncio.current_task())


@contextmanager
def uncollected() -> Iterator[None]:
    """Stop the garbage collector, which would close a forgotten stream."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def in_another(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A step that changes the context while it streams."""
    async for chunk in chunks:
        topic.set(f"{topic.get()}!")
        yield chunk


@pytest.mark.parametrize("recorder", [None, Recorder, AsyncRecorder])
@pytest.mark.parametrize("step", [StrOutputParser(), RunnableGenerator(in_another), StrOutputParser() | in_another])
async def test_a_model_runs_in_the_same_context(recorder: type[Any] | None, step: Runnable[Any, Any]) -> None:
    async def seen(*, streamed: bool) -> Any:
        model, handler = Contextual(), recorder() if recorder else None
        chain = prompt | model.with_config(tags=["model"]) | RunnableLambda(in_another) | step
        topic.set("cats")
        config: RunnableConfig = {**SETTINGS, "callbacks": [handler] if handler else None}
        chunks = await chunks_of(fast(chain) if streamed else chain, {"topic": "cats"}, config)
        calls = comparable(handler.calls) if handler else []
        return chunks, calls, comparable(model._notes), topic.get()

    declared = await seen(streamed=False)
    assert await seen(streamed=True) == declared
    assert declared[2]


async def test_all_items_come_in_the_task_of_the_reader() -> None:
    model = Timed()
    assert [chunk async for chunk in model.chain().astream({"topic": "cats"})] == ["0 ", "1 ", "2 ", ""]
    assert model._notes == [asyncio.current_task()] * 3


async def test_a_cancelled_reader_closes_the_model_before_it_ends() -> None:
    model, recorder = Watched(waits=True), AsyncRecorder()
    config: RunnableConfig = {"callbacks": [recorder]}
    reader = asyncio.ensure_future(chunks_of(model.chain(), {"topic": "cats"}, config))
    async with asyncio.timeout(LIMIT):
        await model._waiting.wait()
    reader.cancel()
    with uncollected(), pytest.raises(asyncio.CancelledError):
        await reader
    assert model._closed.is_set()
    ends = [name for name, *_ in recorder.calls if name.endswith("_error")]
    assert ends == ["on_llm_error", "on_chain_error", "on_chain_error"]  # the model's, the parser's, the chain's


async def test_a_cancelled_reader_ends_the_same_runs() -> None:
    async def seen(*, streamed: bool) -> list[str]:
        model, recorder = Watched(waits=True), Recorder()
        declared = prompt | model | StrOutputParser()
        chain = fast(declared) if streamed else declared
        reader = asyncio.ensure_future(chunks_of(chain, {"topic": "cats"}, {"callbacks": [recorder]}))
        async with asyncio.timeout(LIMIT):
            await model._waiting.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        return comparable(recorder.calls)

    assert await seen(streamed=True) == await seen(streamed=False)


async def test_a_stream_that_is_left_closes_the_model() -> None:
    model, recorder = Watched(tokens=100), AsyncRecorder()
    stream: Any = model.chain().astream({"topic": "cats"}, {"callbacks": [recorder]})
    with uncollected():
        assert await anext(stream) == "0 "
        await stream.aclose()
        assert model._closed.is_set()
    errors = [args[0] for name, args, _ in recorder.calls if name.endswith("_error")]
    assert errors == ["GeneratorExit()"] * 3


async def test_a_step_that_fails_closes_the_model_before_it() -> None:
    model = Watched(tokens=100)
    chain = fast(prompt | model | StrOutputParser() | RunnableGenerator(breaking))
    with uncollected():
        assert (await chunks_of(chain, {"topic": "cats"}))[-1] == (RuntimeError, "the step failed")
        async with asyncio.timeout(LIMIT):
            await model._closed.wait()


async def test_an_error_may_be_thrown_into_a_stream() -> None:
    model = Watched(tokens=100)
    stream: Any = model.chain().astream({"topic": "cats"})
    await anext(stream)
    with pytest.raises(LookupError, match="thrown"):
        await stream.athrow(LookupError("thrown"))
    assert model._closed.is_set()


async def test_a_step_may_give_any_iterator() -> None:
    class Numbers:
        def __init__(self) -> None:
            self.left = iter(range(3))

        def __aiter__(self) -> Numbers:
            return self

        def __anext__(self) -> asyncio.Future[int]:
            future = asyncio.get_running_loop().create_future()
            for number in self.left:
                future.get_loop().call_soon(future.set_result, number)
                return future
            future.set_exception(StopAsyncIteration())
            return future

    class Counter(RunnableLambda[Any, Any]):
        def atransform(self, *_: Any, **__: Any) -> Any:
            return Numbers()

    assert await chunks_of(fast(prompt | Counter(str)), {"topic": "cats"}) == [0, 1, 2]


class Uninterested(AsyncRecorder):
    """A handler that ignores chains."""

    ignore_chain = True


@pytest.mark.parametrize("handlers", [[], [Uninterested()]])
async def test_nothing_is_added_up_without_a_handler(handlers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamserve.lcel.chunk_sum.ChunkSum.add", lambda *_: pytest.fail("added up without a handler"))
    chunks = await chunks_of(Watched().chain(), {"topic": "cats"}, {"callbacks": handlers})
    assert chunks == ["0 ", "1 ", "2 ", ""]


async def test_a_served_chain_streams_without_a_task_per_item() -> None:
    model = Timed()
    served = serve(registered("told", Chain(runnable=prompt | model | StrOutputParser(), input_type=Topic)))
    assert await chunks_of(served, {"topic": "cats"}) == ["0 ", "1 ", "2 ", ""]
    assert model._notes == [asyncio.current_task()] * 3
    events = [event async for event in served.astream_events({"topic": "cats"}, version="v2")]
    assert len({id(task) for task in model._notes[3:]}) == 1
    assert events[-1]["data"] == {"output": "0 1 2 "}


async def test_steps_of_a_served_chain_see_the_same_config() -> None:
    async def seen(*, served: bool) -> Any:
        model, after = Contextual(), []

        async def look(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for chunk in chunks:
                after.append(ensure_config()["tags"])
                yield chunk

        inner = (prompt | model | StrOutputParser()).with_config(tags=["inner"])
        chain = RunnableBranch((lambda _: True, inner), inner) | RunnableGenerator(look)
        streamed = serve(registered("told", Chain(runnable=chain, input_type=Topic))) if served else chain
        chunks = await chunks_of(streamed, {"topic": "cats"}, SETTINGS)
        return chunks, [note[1:] for note in model._notes], after

    assert await seen(served=True) == await seen(served=False)
    assert (await seen(served=True))[1]
