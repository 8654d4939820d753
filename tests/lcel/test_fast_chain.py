"""A rebuilt chain streams, and is observed, exactly as the declared one."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from operator import itemgetter
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.globals import set_debug
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.runnables.config import ensure_config
from langchain_core.tracers.context import collect_runs
from langchain_core.tracers.log_stream import RunLogPatch
from langsmith import Client, tracing_context

from streamserve.lcel.fast_chain import RunnableSequence, fast, stream_in_own_task
from streamserve.lcel.recorder import Recorder, ThreadRecorder, comparable, until_the_end
from tests.observed import AsyncRecorder, answer_of, calls_of, chunks_of, events_of, outcome, patches_of, runs_of
from tests.streamed_chains import CASES, TOPIC, AsyncSayer, Case, model, said, shouted, worded

pytestmark = pytest.mark.filterwarnings(  # of message histories, which chains still have
    "ignore::langchain_core._api.deprecation.LangChainDeprecationWarning"
)
each_chain = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# Of a step that is left before its end, upstream's run ends at some later time, or never.
finished = {name: case for name, case in CASES.items() if not case.abandons}
each_finished_chain = pytest.mark.parametrize("case", finished.values(), ids=finished.keys())


async def both(case: Case, watch: Any) -> tuple[list[str], list[str]]:
    """Return what a handler sees of the declared chain, and of the rebuilt one."""

    async def seen(chain: Runnable[Any, Any]) -> list[str]:
        return comparable(await watch(chain, copy.deepcopy(case.value), {**case.config}), ordered=case.ordered)

    return await seen(case.make()), await seen(fast(case.make()))


async def callbacks_of(chain: Runnable[Any, Any], value: Any, config: Any) -> list[Any]:
    """Return the calls of an asynchronous handler."""
    return await calls_of(AsyncRecorder(), chain, value, config)


@each_chain
def test_only_known_steps_are_rebuilt(case: Case) -> None:
    chain = case.make()
    assert (fast(chain) is not chain) is case.rebuilt


@each_chain
async def test_its_chunks_are_the_same(case: Case) -> None:
    declared, streamed = await both(case, chunks_of)
    assert streamed == declared
    assert declared


@each_chain
@pytest.mark.parametrize("recorder", [Recorder, AsyncRecorder, ThreadRecorder])
async def test_callbacks_are_called_the_same(case: Case, recorder: type[Any]) -> None:
    async def calls(chain: Runnable[Any, Any], value: Any, config: Any) -> list[Any]:
        calls = await calls_of(recorder(), chain, value, config)
        return [call for call in calls if not (case.abandons and "GeneratorExit()" in str(call))]

    declared, streamed = await both(case, calls)
    assert streamed == declared
    assert declared


@each_chain
async def test_its_answer_is_the_same(case: Case) -> None:
    declared, called = await both(case, answer_of)
    assert called == declared
    assert declared


@each_chain
@pytest.mark.parametrize("recorder", [Recorder, AsyncRecorder, ThreadRecorder])
async def test_the_callbacks_of_a_call_are_the_same(case: Case, recorder: type[Any]) -> None:
    async def calls(chain: Runnable[Any, Any], value: Any, config: Any) -> list[Any]:
        handler = recorder()
        await answer_of(chain, value, {**config, "callbacks": [handler]})
        return handler.calls  # type: ignore[no-any-return]

    declared, called = await both(case, calls)
    assert called == declared
    assert declared


@each_finished_chain
async def test_tracers_see_the_same_runs(case: Case) -> None:
    declared, streamed = await both(case, runs_of)
    assert streamed == declared
    assert declared


@each_finished_chain
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_its_events_are_the_same(case: Case, version: str) -> None:
    async def events(chain: Runnable[Any, Any], value: Any, config: Any) -> list[Any]:
        return await events_of(chain, value, config, version)

    declared, streamed = await both(case, events)
    assert streamed == declared
    assert declared


@each_finished_chain
async def test_its_log_is_the_same(case: Case) -> None:
    async def patches(chain: Runnable[Any, Any], value: Any, config: Any) -> list[Any]:
        shown = await patches_of(chain, value, config)
        # Of steps that run at once, numbers and sums depend on the order in which they came.
        return shown if case.ordered else [_shown(patch) for patch in shown]

    declared, streamed = await both(case, patches)
    assert streamed == declared
    assert declared


def _shown(patch: Any) -> Any:
    return [op for op in patch.ops if op["path"] == "/streamed_output/-"] if isinstance(patch, RunLogPatch) else patch


@each_chain
async def test_nothing_is_added_to_the_declared_chain(case: Case) -> None:
    chain = case.make()
    before = repr(chain), type(chain), [type(step) for step in getattr(chain, "steps", ())]
    await chunks_of(fast(chain), copy.deepcopy(case.value), {**case.config})
    assert (repr(chain), type(chain), [type(step) for step in getattr(chain, "steps", ())]) == before


_PARTS: dict[str, Callable[[Runnable[Any, Any]], Runnable[Any, Any]]] = {
    "parse": lambda chain: chain | StrOutputParser(),
    "shout": lambda chain: chain | RunnableGenerator(shouted),
    "pass": lambda chain: chain | RunnablePassthrough(),
    "gather": lambda chain: chain | RunnableLambda(said),
    "split": lambda chain: chain | RunnableLambda(worded),
    "name": lambda chain: chain.with_config(run_name="named", tags=["t"]),
    "prefix": lambda chain: RunnablePassthrough() | chain,
    "parallel": lambda chain: RunnableParallel(only=chain) | itemgetter("only"),
    "branch": lambda chain: RunnableBranch((lambda _: True, chain), chain),
    "listen": lambda chain: chain.with_listeners(on_start=lambda _: None),
    "bind": lambda chain: RunnableLambda(str) | model.bind(stop=["end"]) | chain,
    "fall back": lambda chain: chain.with_fallbacks([model]),
    "model": lambda chain: chain | RunnableLambda(str) | model,
}


@given(parts=st.lists(st.sampled_from(sorted(_PARTS)), min_size=1, max_size=5), observed=st.booleans())
@settings(max_examples=100, deadline=None)
def test_composed_chains_stream_the_same(parts: list[str], observed: bool) -> None:
    chain: Runnable[Any, Any] = RunnableLambda(str) | model
    for part in parts:
        chain = _PARTS[part](chain)
    case = Case(lambda: chain, "Hi")
    declared, streamed = asyncio.run(both(case, callbacks_of if observed else chunks_of))
    assert streamed == declared


@given(parts=st.lists(st.sampled_from(sorted(_PARTS)), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_composed_chains_answer_the_same(parts: list[str]) -> None:
    chain: Runnable[Any, Any] = RunnableLambda(str) | model
    for part in parts:
        chain = _PARTS[part](chain)
    declared, called = asyncio.run(both(Case(lambda: chain, "Hi"), answer_of))
    assert called == declared


async def test_a_prompt_that_calls_others_is_a_run_of_its_own() -> None:
    callers: list[Any] = []

    def look_up() -> str:
        callers.append(ensure_config()["callbacks"].parent_run_id)  # type: ignore[union-attr]
        return "a sage"

    chain = ChatPromptTemplate([("system", "You are {who}.")], partial_variables={"who": look_up}) | model
    whole = uuid4()
    await chunks_of(fast(chain), {}, {"run_id": whole})
    (caller,) = callers
    assert caller not in (None, whole)


# Their streams have no run, and their calls have one.
STRUCTURED = ("json", "tool calls")
WITHOUT_RUNS = (
    "text",
    "messages",
    "a prompt of several messages",
    "a prompt that lacks a variable",
    "a prompt with tags",
    "with settings",
    "a named sequence",
    "a named parser",
    "content blocks",
    "parsers in a row",
    "a sync-only model",
    "a prompt that fails",
    "a model that fails",
    "tools bound",
    "arguments bound",
)
# Their streams need no run, their answers do.
CHOICES = ("a configured field", "a configured alternative", "fallbacks inside")


def without_runs(case: Case, **config: Any) -> AsyncIterator[Any] | None:
    """Return the stream of a case's chain without any run, if it has one."""
    chain = fast(case.make())
    if not isinstance(chain, RunnableSequence):
        return None
    return chain.without_runs(copy.deepcopy(case.value), RunnableConfig(**{**case.config, **config}))  # type: ignore[typeddict-item]


@pytest.mark.parametrize("name", CASES)
def test_prompts_models_and_parsers_need_no_run(name: str) -> None:
    assert (without_runs(CASES[name]) is not None) == (name in (*WITHOUT_RUNS, *CHOICES, *STRUCTURED))


@pytest.mark.parametrize("name", [*WITHOUT_RUNS, *CHOICES])
async def test_a_stream_without_any_run_is_the_same(name: str) -> None:
    case = CASES[name]
    stream = without_runs(case)
    assert stream is not None
    declared = await chunks_of(case.make(), copy.deepcopy(case.value), {**case.config})
    assert comparable(await until_the_end(stream)) == comparable(declared)


def answer_without_runs(case: Case, **config: Any) -> Coroutine[Any, Any, Any] | None:
    """Return the answer of a case's chain without any run, if it has one."""
    chain = fast(case.make())
    if not isinstance(chain, RunnableSequence):
        return None
    return chain.answer_without_runs(copy.deepcopy(case.value), RunnableConfig(**{**case.config, **config}))  # type: ignore[typeddict-item]


@pytest.mark.parametrize("name", CASES)
async def test_prompts_models_and_parsers_answer_without_a_run(name: str) -> None:
    answer = answer_without_runs(CASES[name])
    assert (answer is not None) == (name in WITHOUT_RUNS)
    if answer is not None:
        answer.close()


@pytest.mark.parametrize("name", WITHOUT_RUNS)
async def test_an_answer_without_any_run_is_the_same(name: str) -> None:
    case, answer = CASES[name], answer_without_runs(CASES[name])
    assert answer is not None
    declared = await answer_of(case.make(), copy.deepcopy(case.value), {**case.config})
    assert comparable(await outcome(answer)) == comparable(declared)


@contextmanager
def debugging() -> Iterator[None]:
    set_debug(True)
    try:
        yield
    finally:
        set_debug(False)


def tracing() -> AbstractContextManager[None]:
    return tracing_context(enabled=True, client=Client("http://127.0.0.1:9", api_key="-", auto_batch_tracing=False))


@pytest.mark.parametrize("observing", [debugging, collect_runs, tracing])
def test_a_sequence_is_a_run_while_a_handler_observes_all(observing: Callable[[], Any]) -> None:
    with observing():
        assert without_runs(CASES["text"]) is None
    assert without_runs(CASES["text"]) is not None


def test_a_sequence_is_a_run_if_its_config_has_callbacks() -> None:
    assert without_runs(CASES["text"], callbacks=[AsyncRecorder()]) is None


async def test_nested_model_calls_belong_to_the_sequence() -> None:
    configs: list[Any] = []

    class Caller(AsyncSayer):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            configs.append(ensure_config())
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk

    async def streamed(stream: AsyncIterator[Any] | None) -> None:
        assert stream is not None
        await until_the_end(stream)

    whole = uuid4()
    chain = fast(ChatPromptTemplate([("human", "Hi")]) | Caller())
    config = RunnableConfig(run_id=whole, run_name="whole", tags=["tag"], metadata={"of": "whole"})
    assert isinstance(chain, RunnableSequence)
    await asyncio.create_task(streamed(chain.astream({}, config)))
    await streamed(chain.without_runs({}, config))
    as_run, without = ({**each, "callbacks": each["callbacks"].parent_run_id} for each in configs)
    assert without == as_run
    assert (without["callbacks"], without["tags"], without["metadata"]) == (whole, ["tag"], {"of": "whole"})


async def test_a_step_with_a_handler_of_its_own_is_observed_the_same() -> None:
    async def calls(chain: Callable[[Runnable[Any, Any]], Runnable[Any, Any]]) -> list[Any]:
        recorder = Recorder()
        listened = RunnableLambda(said).with_config(callbacks=[recorder])
        await chain(CASES["messages"].make() | listened | StrOutputParser()).ainvoke(TOPIC, {"tags": ["asked"]})
        return comparable(recorder.calls)

    declared = await calls(lambda chain: chain)
    assert declared
    assert await calls(fast) == declared


async def has_run_of_model(case: Case, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether a call of a case's chain makes a run for its model."""
    generated, generate = [], BaseChatModel.agenerate

    async def agenerate(*args: Any, **kwargs: Any) -> Any:
        generated.append(args)
        return await generate(*args, **kwargs)

    chain = fast(case.make())
    with monkeypatch.context() as patched:
        patched.setattr(BaseChatModel, "agenerate", agenerate)
        await answer_of(chain, copy.deepcopy(case.value), {})
    return bool(generated)


@each_chain
async def test_a_stream_in_a_task_of_its_own_is_the_same(case: Case) -> None:
    async def chunks(chain: Runnable[Any, Any], value: Any, config: RunnableConfig) -> list[Any]:
        stream = stream_in_own_task(chain, value, config)
        return await asyncio.create_task(until_the_end(stream))

    declared, streamed = await both(case, chunks)
    assert streamed == declared


@pytest.mark.parametrize("name", ["a binding outside", "bindings in bindings", "text"])
async def test_a_binding_outside_adds_no_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(AsyncCallbackManager, "on_chain_start", lambda *args, **_: started.append(args))
    case = CASES[name]
    stream = stream_in_own_task(fast(case.make()), case.value, {**case.config})
    assert "".join(await asyncio.create_task(until_the_end(stream))) == "Cats purr."
    assert not started


PARTLY = ("retrieval", "a function", "a prompt for one variable", "json")


@pytest.mark.parametrize("name", [*PARTLY, "fallbacks inside", "a retry"])
async def test_only_the_steps_that_need_a_run_have_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await has_run_of_model(CASES[name], monkeypatch) == (name not in PARTLY)


@pytest.mark.parametrize("observing", [debugging, collect_runs, tracing])
async def test_an_answer_has_runs_while_a_handler_observes_all(
    observing: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with observing():
        assert await has_run_of_model(CASES["text"], monkeypatch)
    assert not await has_run_of_model(CASES["text"], monkeypatch)


async def test_a_model_called_in_an_answer_belongs_to_the_sequence() -> None:
    configs: list[Any] = []

    class Caller(AsyncSayer):
        async def _agenerate(self, *args: Any, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            configs.append({**ensure_config(), "managed": run_manager.parent_run_id})
            return self._generate(*args, **kwargs)

    whole = uuid4()
    chain = fast(ChatPromptTemplate([("human", "Hi")]) | Caller())
    config = RunnableConfig(run_id=whole, run_name="whole", tags=["tag"], metadata={"of": "whole"})
    assert isinstance(chain, RunnableSequence)
    with collect_runs():  # so the chain has runs
        await chain.ainvoke({}, {**config})
    await chain.ainvoke({}, {**config})
    as_run, without = ({**each, "callbacks": each["callbacks"].parent_run_id} for each in configs)
    assert without == {**as_run, "managed": whole, "callbacks": whole}
    assert (without["tags"], without["metadata"]) == (["tag"], {"of": "whole"})
    assert "callbacks" not in ensure_config() or ensure_config()["callbacks"] is None


async def test_an_unobserved_stream_left_early_closes_its_model() -> None:
    closed = asyncio.Event()

    async def endless(_: Any) -> AsyncIterator[str]:
        try:
            while True:
                yield "a"
        finally:
            closed.set()

    stream = fast(ChatPromptTemplate([("human", "Hi")]) | RunnableGenerator(endless) | StrOutputParser()).astream({})
    assert await anext(stream) == "a"
    await cast("AsyncGenerator[str]", stream).aclose()
    assert closed.is_set()
