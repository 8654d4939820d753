"""Events of version 3 through the server and the SDK equal those in process, item by item."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.stream import (
    AsyncGraphRunStream,
    CustomTransformer,
    GraphRunStream,
    TasksTransformer,
    UpdatesTransformer,
)
from streamserve_sdk import ProtocolError, RemoteRunnable, RunCancelled, RunFailed
from streamserve_sdk.events.compact import Expander
from streamserve_sdk.events.run_stream import run_stream

from streamserve import Chain
from streamserve.app import create_app
from streamserve.events.protocol import open_events
from streamserve.models.offline import OfflineChatModel
from tests.fakes import Gate, GatedModel, registry_of
from tests.faults.proxy import Fault, Proxy, sequence
from tests.graphs.examples import EXAMPLES
from tests.graphs.parity import assert_same
from tests.limits import LIMIT
from tests.runs.support import BlockReader, ended

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")

QUESTION = "Tell me a short joke about rain."
SECRET = "the password is 1234"

_threads = itertools.count(1)


class ScriptedModel(BaseChatModel):
    """A model with fixed chunks that may fail after them."""

    chunks: Any
    fails: bool = False

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        for chunk in self.chunks:
            yield ChatGenerationChunk(message=chunk.model_copy(deep=True))
        if self.fails:
            raise RuntimeError(SECRET)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))


def said(*content: Any, **fields: Any) -> AIMessageChunk:
    return AIMessageChunk(content=list(content), **fields)


def call_part(args: str, **fields: Any) -> AIMessageChunk:
    part = {"name": None, "id": None, "index": 1, "args": args, "type": "tool_call_chunk", **fields}
    return AIMessageChunk(content=[], tool_call_chunks=[part])


THINKER = ScriptedModel(
    chunks=[
        said({"type": "reasoning", "reasoning": "Rain is", "index": 0}),
        said({"type": "reasoning", "reasoning": " wet.", "index": 0}),
        said({"type": "text", "text": "Let me \u2028", "index": 2}),
        said({"type": "text", "text": "look.", "index": 2}),
        call_part('{"city":', name="weather", id="call 1"),
        call_part(' "Basel"}'),
        said(
            usage_metadata={"input_tokens": 3, "output_tokens": 7, "total_tokens": 10},
            response_metadata={"finish_reason": "tool_calls"},
        ),
    ]
)
OFFLINE = OfflineChatModel(pace=0)
BROKEN = ScriptedModel(chunks=[said({"type": "text", "text": "Half", "index": 0})], fails=True)


def failing_graph() -> Any:
    async def speak(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await OFFLINE.ainvoke(state["messages"])]}

    async def fail(_state: MessagesState) -> None:
        raise RuntimeError(SECRET)

    inner = StateGraph(MessagesState).add_node(speak).add_node(fail).add_edge(START, "speak").add_edge("speak", "fail")
    return StateGraph(MessagesState).add_node("inner", inner.compile()).add_edge(START, "inner").compile()


CHAINS: dict[str, Runnable[Any, Any]] = {
    "streamed": OFFLINE | StrOutputParser(),
    "thinking": RunnableLambda(lambda text: text) | THINKER,
    "called": RunnableLambda(lambda text, config: OFFLINE.invoke(text, config)),
    "awaited": RunnableLambda(OFFLINE.ainvoke),
}
GATE = Gate()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    any_input: dict[str, Any] = {"input_type": Any, "output_type": Any}
    graphs = {name: Chain(runnable=one.builder.compile(name=name)) for name, one in EXAMPLES.items()}
    others = {
        **CHAINS,
        "model": OFFLINE,
        "thinker": THINKER,
        "broken-model": BROKEN,
        "broken-chain": BROKEN | StrOutputParser(),
        "falling-back": RunnableLambda(BROKEN.with_fallbacks([OFFLINE]).ainvoke) | StrOutputParser(),
        "both": RunnableParallel(first=OFFLINE | StrOutputParser(), second=THINKER),
        "slow-model": GatedModel(tokens=["a"] * 100, gate=GATE),
        "slow-chain": GatedModel(tokens=["a"] * 100, gate=GATE) | StrOutputParser(),
    }
    chains = {name: Chain(runnable=runnable, **any_input) for name, runnable in others.items()}
    secret = Chain(runnable=EXAMPLES["tools"].builder.compile(), stream_modes=["messages"])
    failing = Chain(runnable=failing_graph())
    slow_graph = Chain(runnable=_slow_graph())
    return create_app(registry_of({**graphs, **chains, "secret": secret, "failing": failing, "slow-graph": slow_graph}))


def _slow_graph() -> Any:
    model = GatedModel(tokens=["a"] * 100, gate=GATE)

    async def speak(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node(speak).add_edge(START, "speak").compile()


@pytest.fixture(scope="module")
def url(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


def of_thread(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}}


def timeless(event: Any) -> Any:
    """Return a copy of an event without its time; a copy, because a graph changes its messages later."""
    event = copy.deepcopy(event)
    if "params" in event:
        assert event["params"].pop("timestamp") > 1_700_000_000_000
    return event


async def read(stream: Any) -> list[Any]:
    return [timeless(event) async for event in stream]


async def local_events(runnable: Any, input: Any, config: Any = None, **arguments: Any) -> list[Any]:
    async with asyncio.timeout(LIMIT):
        return await read(await runnable.astream_events(input, config, version="v3", **arguments))


def remote_sync(url: str, inputs: Sequence[Any], config: Any = None, **arguments: Any) -> list[Any]:
    with RemoteRunnable[Any, Any](url) as remote:
        streams = (remote.stream_events(one, config, version="v3", **arguments) for one in inputs)
        return [timeless(event) for stream in streams for event in stream]


def remote_async(url: str, inputs: Sequence[Any], config: Any = None, **arguments: Any) -> list[Any]:
    async def events() -> list[Any]:
        async with asyncio.timeout(LIMIT), RemoteRunnable[Any, Any](url) as remote:
            return [
                event
                for one in inputs
                for event in await read(await remote.astream_events(one, config, version="v3", **arguments))
            ]

    return asyncio.run(events())


both_ways = pytest.mark.parametrize("remote", [remote_sync, remote_async], ids=["sync", "async"])


@both_ways
@pytest.mark.parametrize("more", [[], [UpdatesTransformer, CustomTransformer]], ids=["plain", "transformers"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_events_of_a_graph_equal_those_in_process(
    url: str, name: str, more: list[Any], remote: Callable[..., list[Any]]
) -> None:
    thread, example = f"v3 {next(_threads)}", EXAMPLES[name]
    graph = example.builder.compile(name=name, checkpointer=InMemorySaver())

    async def in_process() -> list[Any]:
        return [
            e for turn in example.turns for e in await local_events(graph, turn, of_thread(thread), transformers=more)
        ]

    came = remote(f"{url}/{name}", example.turns, of_thread(thread), transformers=more)
    assert_same(came, asyncio.run(in_process()))


@both_ways
@pytest.mark.parametrize(("name", "model"), [("model", OFFLINE), ("thinker", THINKER)])
def test_the_events_of_a_chat_model_equal_those_in_process(
    url: str, name: str, model: BaseChatModel, remote: Callable[..., list[Any]]
) -> None:
    assert_same(remote(f"{url}/{name}", [QUESTION]), asyncio.run(local_events(model, QUESTION)))


@both_ways
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_streams_its_models_message_and_then_its_output(
    url: str, name: str, remote: Callable[..., list[Any]]
) -> None:
    *messages, last = remote(f"{url}/{name}", [QUESTION])
    model = THINKER if name == "thinking" else OFFLINE
    assert_same([event["params"]["data"][0] for event in messages], asyncio.run(local_events(model, QUESTION)))
    assert last["method"] == "values"
    assert_same(_gist(last["params"]["data"]), _gist(asyncio.run(CHAINS[name].ainvoke(QUESTION))))
    assert [event["seq"] for event in [*messages, last]] == list(range(1, len(messages) + 2))
    assert len({event["params"]["data"][1]["run_id"] for event in messages}) == 1


def _gist(output: Any) -> list[Any]:
    # A streamed message has another id than one of `invoke`.
    return [output] if isinstance(output, str) else [output.content, output.tool_calls, output.usage_metadata]


async def test_a_message_stream_projects_as_in_process(url: str) -> None:
    async with RemoteRunnable[Any, Any](f"{url}/thinker") as remote:
        came = await remote.astream_events(QUESTION, version="v3")
        assert isinstance(came, AsyncChatModelStream)
        local = await THINKER.astream_events(QUESTION, version="v3")
        shown = [await _projections(stream) for stream in (came, local)]
    assert_same([shown[0]], [shown[1]])
    assert shown[0][:3] == ["Let me \u2028look.", "Rain is wet.", [{**shown[1][2][0]}]]


async def _projections(stream: AsyncChatModelStream) -> list[Any]:
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
        deltas = [group.create_task(_list(one)) for one in (stream.text, stream.reasoning, stream.tool_calls)]
        whole = [await stream.text, await stream.reasoning, await stream.tool_calls, await stream.output]
    return [*whole, *(task.result() for task in deltas)]


async def _list(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def test_a_sync_message_stream_projects_as_in_process(url: str) -> None:
    with RemoteRunnable[Any, Any](f"{url}/thinker") as remote:
        came, local = (one.stream_events(QUESTION, version="v3") for one in (remote, THINKER))
        assert isinstance(came, ChatModelStream)
        shown = [[list(s.text), str(s.reasoning), s.tool_calls.get(), s.output] for s in (came, local)]
    assert_same([shown[0]], [shown[1]])


async def test_a_run_stream_projects_as_in_process(url: str) -> None:
    thread, example = of_thread(f"v3 {next(_threads)}"), EXAMPLES["nested"]
    graph = example.builder.compile(name="nested", checkpointer=InMemorySaver())
    shown = []
    async with RemoteRunnable[Any, Any](f"{url}/nested") as remote:
        for one in (remote, graph):
            run = await one.astream_events(example.turns[0], thread, version="v3")
            assert isinstance(run, AsyncGraphRunStream)
            shown.append(await _all_of(run))
    assert_same([shown[0]], [shown[1]])
    middle, inner = shown[0]["subgraphs"][0], shown[0]["subgraphs"][0]["subgraphs"][0]
    assert (middle["name"], middle["status"], inner["name"]) == ("middle", "completed", "inner")
    assert "rain" in inner["messages"][0].text


async def _all_of(run: Any) -> dict[str, Any]:
    async def subgraphs() -> list[Any]:
        return [
            {"name": one.graph_name, "path": one.path, **await _all_of(one), "status": one.status}
            async for one in run.subgraphs
        ]

    async def messages() -> list[Any]:
        return [await one.output async for one in run.messages]

    async def values() -> list[Any]:
        return [copy.deepcopy(one) async for one in run.values]

    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
        reads = {
            "subgraphs": subgraphs(),
            "messages": messages(),
            "values": values(),
            "lifecycle": _list(run.lifecycle),
        }
        tasks = {name: group.create_task(one) for name, one in reads.items()}
    found = {name: task.result() for name, task in tasks.items()}
    return {**found, "output": await run.output()}


def test_an_interrupted_run_shows_its_interrupts(url: str) -> None:
    thread = of_thread(f"v3 {next(_threads)}")
    with RemoteRunnable[Any, Any](f"{url}/questions") as remote:
        run = remote.stream_events({"answers": []}, thread, version="v3")
        assert isinstance(run, GraphRunStream)
        assert [(one["event"], one["graph_name"]) for one in run.lifecycle if "graph_name" in one] == [
            ("started", "sizes")
        ]
        assert run.interrupted
        assert sorted(str(one.value) for one in run.interrupts) == ["Which colour?", "{'question': 'Which size?'}"]


async def test_a_chains_run_stream_has_messages_and_output(url: str) -> None:
    async with asyncio.timeout(LIMIT), RemoteRunnable[Any, Any](f"{url}/both") as remote:
        run = await remote.astream_events(QUESTION, version="v3")
        texts = {await message.text async for message in run.messages}
        output = await run.output()
    joke = await (OFFLINE | StrOutputParser()).ainvoke(QUESTION)
    assert texts == {joke, "Let me \u2028look."}
    assert output["first"] == joke
    assert output["second"].tool_calls[0]["args"] == {"city": "Basel"}


@pytest.mark.parametrize("name", ["model", "streamed", "tools"])
async def test_a_cut_stream_of_events_resumes_without_loss(url: str, name: str) -> None:
    asked = EXAMPLES["tools"].turns[0] if name == "tools" else QUESTION
    first, second = (of_thread(f"v3 {next(_threads)}") if name == "tools" else None for _ in range(2))
    whole = await asyncio.to_thread(remote_async, f"{url}/{name}", [asked], first)
    cuts = [Fault(after=after, kind=kind) for after, kind in [(700, "reset"), (900, "close"), (1100, "end")]]
    async with Proxy(int(url.rpartition(":")[2]), sequence(*cuts)) as proxy:  # type: ignore[arg-type]
        async with asyncio.timeout(LIMIT), RemoteRunnable[Any, Any](f"{proxy.url}/{name}") as remote:
            came = await read(await remote.astream_events(asked, second, version="v3"))
        assert sum(proxy.struck.values()) >= 2
    for event in [*came, *whole]:
        _without_thread(event)
    assert_same(came, whole)


def _without_thread(event: Any) -> None:
    data = event.get("params", {}).get("data")
    if isinstance(data, tuple):
        data[1].pop("thread_id", None)


async def test_a_run_is_joined_from_its_first_event(url: str) -> None:
    ids: list[str] = []
    async with asyncio.timeout(LIMIT), RemoteRunnable[Any, Any](f"{url}/streamed") as remote:
        first = await _list(aiter(await remote.astream_events(QUESTION, version="v3", on_run=ids.append)))
        # The times are those of the events, not of their arrival.
        assert await _list(aiter(await remote.ajoin_events(ids[0]))) == first
    with RemoteRunnable[Any, Any](f"{url}/streamed") as again:
        assert list(again.join_events(ids[0])) == first


@pytest.mark.parametrize("name", ["slow-model", "slow-chain", "slow-graph"])
async def test_leaving_a_stream_of_events_cancels_the_run(client: httpx.Client, url: str, name: str) -> None:
    ids: list[str] = []
    async with asyncio.timeout(LIMIT), RemoteRunnable[Any, Any](f"{url}/{name}") as remote:
        asked = {"messages": []} if name == "slow-graph" else QUESTION
        stream = await remote.astream_events(asked, version="v3", on_run=ids.append)
        async with stream:
            GATE.open(2)
            async for event in stream:
                if "content-block-delta" in str(event):
                    break
    assert (await asyncio.to_thread(ended, client, ids[0]))["status"] == "cancelled"


@pytest.mark.parametrize("name", ["slow-model", "slow-chain", "slow-graph"])
async def test_a_cancelled_run_ends_its_events_with_an_error(url: str, name: str) -> None:
    ids: list[str] = []
    async with asyncio.timeout(LIMIT), RemoteRunnable[Any, Any](f"{url}/{name}") as remote:
        asked = {"messages": []} if name == "slow-graph" else QUESTION
        stream = await remote.astream_events(asked, version="v3", on_run=ids.append)
        GATE.open(1)
        events = aiter(stream)
        while "content-block-delta" not in str(await anext(events)):
            pass
        assert (await remote.acancel(ids[0], wait=LIMIT))["status"] == "cancelled"
        with pytest.raises(RunCancelled):
            await _list(events)


@pytest.mark.parametrize("reading", [True, False], ids=["cancelled", "closed"])
async def test_a_stopped_graph_has_closed_its_nodes(reading: bool) -> None:
    closed: list[str] = []
    begun = asyncio.Event()

    async def wait(state: MessagesState) -> None:
        await OFFLINE.ainvoke(state["messages"])
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(50):
                await asyncio.sleep(0)
            closed.append("wait")

    graph = StateGraph(MessagesState).add_node(wait).add_edge(START, "wait").compile()
    events = (await open_events(graph, {"messages": [HumanMessage(QUESTION)]}, {})).events
    async with asyncio.timeout(LIMIT):
        while "message-finish" not in str(await anext(events)):
            pass
        await begun.wait()
        if reading:
            reader = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait({reader})
        else:
            await events.aclose()
    assert closed == ["wait"]


def test_an_agent_started_by_a_tool_call_keeps_name_and_cause() -> None:
    begun = {"event": "started", "namespace": ["tools:7"], "graph_name": "helper", "trigger_call_id": "7"}
    lifecycle = [
        {**begun, "cause": {"type": "toolCall", "tool_call_id": "call 1"}},
        {"event": "started", "namespace": ["tools:7", "ask:8"], "graph_name": "ask", "trigger_call_id": "8"},
        {"event": "interrupted", "namespace": ["tools:7", "ask:8"]},
        {"event": "failed", "namespace": ["tools:7"], "error": "Internal Server Error"},
    ]
    run = run_stream(({"method": "lifecycle", "namespace": [], "data": one} for one in lifecycle), Expander(0), [])
    items = list(run.interleave("lifecycle", "subgraphs"))
    assert [item for name, item in items if name == "lifecycle"] == lifecycle
    (handle,) = [item for name, item in items if name == "subgraphs"]
    assert (handle.graph_name, handle.status, handle.error) == ("helper", "failed", "Internal Server Error")


@both_ways
@pytest.mark.parametrize("name", ["broken-model", "broken-chain", "failing"])
def test_an_error_in_mid_stream_is_typed_and_keeps_its_text(
    client: httpx.Client, url: str, name: str, remote: Callable[..., list[Any]]
) -> None:
    asked = {"messages": [HumanMessage(QUESTION)]} if name == "failing" else QUESTION
    with pytest.raises(RunFailed) as failure:
        remote(f"{url}/{name}", [asked])
    assert failure.value.code == "internal"
    with client.stream("POST", f"/{name}/stream_events", json=_body(QUESTION, name)) as response:
        blocks = b"".join(BlockReader(response).rest())
    assert SECRET.encode() not in blocks
    assert b"message-start" in blocks
    assert (b'"event":"failed"' in blocks) == (name == "failing")


def _body(text: str, name: str = "", **kwargs: Any) -> dict[str, Any]:
    graph = name in (*EXAMPLES, "failing", "secret")
    messages = {"messages": [{"role": "user", "content": text}]}
    return {"input": messages if graph else text, "kwargs": {"version": "v3", **kwargs}}


async def test_a_message_cut_by_a_fallback_is_marked_as_failed(url: str) -> None:
    texts, errors = [], []
    async with asyncio.timeout(LIMIT), RemoteRunnable[Any, Any](f"{url}/falling-back") as remote:
        run = await remote.astream_events(QUESTION, version="v3")
        async for message in run.messages:
            try:
                texts.append(await message.text)
            except RuntimeError as error:
                errors.append(str(error))
        output = await run.output()
    assert texts == [output] == [await (OFFLINE | StrOutputParser()).ainvoke(QUESTION)]
    assert errors == ["Internal Server Error"]


@pytest.mark.parametrize("version", ["v1", "v4", "", 3, True, ["v3"], {"v": 3}])
@pytest.mark.parametrize("name", ["model", "streamed", "tools"])
def test_an_unknown_version_is_refused_with_its_place(client: httpx.Client, name: str, version: Any) -> None:
    response = client.post(f"/{name}/stream_events", json=_body(QUESTION, name, version=version))
    assert response.status_code == 422
    (detail,) = response.json()["detail"]
    assert detail["loc"] == ["body", "kwargs", "version"]
    assert "v2, v3" in detail["msg"]


@pytest.mark.parametrize(
    ("more", "kwargs", "place"),
    [
        ({"include_names": ["x"]}, {}, ["body", "include_names"]),
        ({"exclude_tags": []}, {}, ["body", "exclude_tags"]),
        ({}, {"subgraphs": True}, ["body", "kwargs", "subgraphs"]),
        ({}, {"stream_mode": "debug"}, ["body", "kwargs", "stream_mode"]),
        ({}, {"unknown": 1}, ["body", "kwargs", "unknown"]),
    ],
)
def test_features_missing_in_version_3_are_refused_by_place(
    client: httpx.Client, more: dict[str, Any], kwargs: dict[str, Any], place: list[str]
) -> None:
    response = client.post("/tools/stream_events", json={**_body(QUESTION, "tools", **kwargs), **more})
    assert response.status_code == 422
    assert [detail["loc"] for detail in response.json()["detail"]] == [place]


async def test_the_sdk_refuses_missing_features(url: str) -> None:
    async with RemoteRunnable[Any, Any](f"{url}/tools") as remote:
        with pytest.raises(ValueError, match="'v4'"):
            remote.astream_events(QUESTION, version="v4")
        with pytest.raises(NotImplementedError, match="asynchronous"):
            remote.stream_events(QUESTION)
        with pytest.raises(NotImplementedError, match="lifecycle"):
            await remote.astream_events(QUESTION, version="v3", transformers=[TasksTransformer])


@pytest.mark.parametrize("version", [None, "v2"])
def test_version_2_is_unchanged(client: httpx.Client, version: str | None) -> None:
    body = {"input": QUESTION, "kwargs": {"version": version} if version else {}}
    with client.stream("POST", "/streamed/stream_events", json=body) as response:
        blocks = b"".join(BlockReader(response).rest())
    assert b'"event":"on_chat_model_stream"' in blocks


def test_only_allowed_stream_modes_are_sent(client: httpx.Client) -> None:
    with client.stream("POST", "/secret/stream_events", json=_body("What is 17 * 24?", "secret")) as response:
        blocks = b"".join(BlockReader(response).rest())
    assert b"content-block-delta" in blocks or b"408" in blocks
    assert b'"method":"values"' not in blocks


@pytest.mark.parametrize("name", ["model", "streamed", "tools"])
def test_a_token_costs_few_bytes_and_metadata_comes_once(client: httpx.Client, name: str) -> None:
    with client.stream("POST", f"/{name}/stream_events", json=_body(QUESTION, name)) as response:
        blocks = BlockReader(response).rest()
    tokens = [block for block in blocks if b"\ndata: [" in block and b'event"' not in block]
    assert len(tokens) > 20
    assert sum(map(len, tokens)) / len(tokens) < 60
    assert sum(b'"ls_provider"' in block for block in blocks) == (0 if name == "model" else 1)


def test_a_malformed_event_is_a_protocol_error() -> None:
    for value in ([1], [0, 9, {}], {"method": "values"}, "text", None, [0, 0, 0, "x", "unknown"]):
        with pytest.raises(ProtocolError):
            Expander(0).run_event(value)
