"""A graph's keyword arguments have the same meaning over HTTP as in process, and none is ignored."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.utils import AddableDict
from langgraph.types import GraphOutput, Interrupt
from streamserve_sdk import RemoteRunnable, RequestRejected, WireSerializer

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import registry_of
from tests.graphs.examples import EXAMPLES, Writer
from tests.graphs.parity import assert_same, comparable
from tests.graphs.streams import (
    LIMIT,
    Stream,
    assert_parity,
    chains,
    local_graph,
    new_thread,
    remote_async,
    remote_sync,
)
from tests.servers import serving

ENDPOINTS = ["invoke", "batch", "stream", "stream_log", "stream_events", "runs"]
WRITER = {"name": "Grace", "on": "2026-01-02"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    letter = EXAMPLES["letter"].builder
    served = chains() | {
        "plain": Chain(runnable=RunnableLambda(str)),
        "closed": Chain(runnable=letter.compile(name="closed"), stream_modes=["custom"]),
    }
    with serving(create_app(registry_of(served))) as address:
        yield address


def remote(url: str, name: str) -> RemoteRunnable[Any, Any]:
    return RemoteRunnable[Any, Any](f"{url}/{name}")


def first_turn(name: str) -> Any:
    return EXAMPLES[name].turns[0]


@pytest.mark.parametrize("stream", [remote_sync, remote_async], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("letter", {"stream_mode": "values", "output_keys": ["text", "private"]}),
        ("letter", {"stream_mode": "updates", "output_keys": "text"}),
        ("letter", {"stream_mode": ["values", "updates"], "interrupt_before": ["sign"]}),
        ("letter", {"stream_mode": "updates", "interrupt_after": "*"}),
        ("letter", {"stream_mode": "values", "context": WRITER}),
        ("letter", {"stream_mode": "values", "context": Writer.model_validate(WRITER)}),
        ("letter", {"stream_mode": "checkpoints", "durability": "exit"}),
        ("loop", {"stream_mode": "checkpoints", "durability": "sync"}),
        ("letter", {"stream_mode": "values", "version": "v1", "subgraphs": None, "durability": None}),
    ],
    ids=str,
)
def test_an_argument_means_what_it_means_in_process(
    url: str, name: str, arguments: dict[str, Any], stream: Stream
) -> None:
    assert_parity(url, name, stream, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tools", {}),
        ("nested", {}),
        ("letter", {}),
        ("questions", {}),
        ("tools", {"stream_mode": "updates"}),
        ("nested", {"stream_mode": ["custom", "values"], "subgraphs": True}),
        ("tools", {"stream_mode": "messages"}),
        ("letter", {"output_keys": ["to", "private"]}),
        ("letter", {"output_keys": "text"}),
        ("letter", {"context": WRITER, "durability": "exit"}),
        ("tools", {"interrupt_before": ["tools"]}),
        ("letter", {"version": "v2"}),
        ("questions", {"version": "v2"}),
        ("letter", {"version": "v2", "stream_mode": "updates"}),
    ],
    ids=str,
)
def test_invoke_and_batch_take_what_ainvoke_takes(url: str, name: str, arguments: dict[str, Any]) -> None:
    expected = asyncio.run(local_graph(name).ainvoke(first_turn(name), new_thread(), **arguments))
    with remote(url, name) as chain:
        assert_same([chain.invoke(first_turn(name), new_thread(), **arguments)], [expected])
        assert_same(chain.batch([first_turn(name)], new_thread(), **arguments), [expected])
        came = asyncio.run(invoked(url, name, arguments))
        assert_same([came], [expected])


async def invoked(url: str, name: str, arguments: dict[str, Any]) -> Any:
    async with asyncio.timeout(LIMIT), remote(url, name) as chain:
        return await chain.ainvoke(first_turn(name), new_thread(), **arguments)


def test_the_output_of_version_2_is_a_graph_output(url: str) -> None:
    with remote(url, "questions") as chain:
        output = chain.invoke(first_turn("questions"), new_thread(), version="v2")
    assert isinstance(output, GraphOutput)
    assert {type(one) for one in output.interrupts} == {Interrupt}
    assert {json.dumps(one.value) for one in output.interrupts} == {'"Which colour?"', '{"question": "Which size?"}'}


@pytest.mark.parametrize("name", ["interrupts", "letter", "questions", "loop"])
@pytest.mark.parametrize("arguments", [{}, {"stream_mode": "custom"}, {"stream_mode": "debug", "subgraphs": True}])
def test_the_output_of_a_streamed_run_equals_that_of_invoke(url: str, name: str, arguments: dict[str, Any]) -> None:
    expected = asyncio.run(local_graph(name).ainvoke(first_turn(name), new_thread()))
    runs: list[str] = []
    with remote(url, name) as chain:
        for _ in chain.stream(first_turn(name), new_thread(), on_run=runs.append, **arguments):
            pass
    answer = httpx.get(f"{url}/runs/{runs[0]}/output").json()
    assert_same([WireSerializer().loadd(answer["output"], answer.get("types"))], [expected])


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("argument", "value", "place"),
    [
        ("print_mode", "values", []),
        ("debug", True, []),
        ("control", {}, []),
        ("checkpoint_during", True, []),
        ("stream_modes", "values", []),
        ("stream_mode", "tools", []),
        ("stream_mode", ["values", 3], []),
        ("subgraphs", "yes", []),
        ("output_keys", "branch:to:sign", []),
        ("output_keys", ["text", "nothing"], []),
        ("output_keys", {}, []),
        ("interrupt_before", "sign", []),
        ("interrupt_before", ["nobody"], []),
        ("interrupt_after", [["sign"]], []),
        ("durability", "never", []),
        ("context", {"name": "Grace"}, ["on"]),
        ("context", 3, []),
    ],
)
def test_an_invalid_argument_is_refused_by_its_name(
    url: str, endpoint: str, argument: str, value: Any, place: list[str]
) -> None:
    field = {"inputs": [{"to": "Ada"}]} if endpoint == "batch" else {"input": {"to": "Ada"}}
    answer = httpx.post(f"{url}/letter/{endpoint}", json={**field, "kwargs": {argument: value}})
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "invalid_input"
    assert answer.json()["detail"][0]["loc"] == ["body", "kwargs", argument, *place]


@pytest.mark.parametrize(
    ("name", "arguments", "refused"),
    [
        ("plain", {"stream_mode": "values"}, "stream_mode"),
        ("plain", {"subgraphs": True}, "subgraphs"),
        ("closed", {"stream_mode": "values"}, "stream_mode"),
        ("closed", {"stream_mode": "custom", "output_keys": ["private"]}, "output_keys"),
        ("loop", {"context": {"name": "Grace"}}, "context"),
        ("letter", {"stream_modes": ["values"]}, "stream_modes"),
    ],
)
def test_the_sdk_names_the_refused_argument(url: str, name: str, arguments: dict[str, Any], refused: str) -> None:
    with remote(url, name) as chain:
        calls: list[Any] = [chain.invoke, lambda *given, **named: list(chain.stream(*given, **named))]
        for call in calls:
            with pytest.raises(RequestRejected, match=refused):
                call({"to": "Ada"}, new_thread(), **arguments)


def test_a_key_hidden_from_all_modes_is_hidden_from_the_output(url: str) -> None:
    with remote(url, "closed") as chain:
        assert chain.invoke({"to": "Ada"}, output_keys="text") == "Dear Ada from nobody"


def test_by_default_message_chunks_and_the_interrupt_stream(url: str) -> None:
    with remote(url, "tools") as chain:
        chunks = list(chain.stream(first_turn("tools"), new_thread()))
    assert {type(chunk).__name__ for chunk in chunks} == {"AIMessageChunk", "ToolMessage"}
    with remote(url, "interrupts") as chain:
        (asked,) = chain.stream(first_turn("interrupts"), new_thread())
    assert type(asked) is AddableDict
    assert asked["__interrupt__"][0].value["options"] == ("yes", "no")


def test_by_default_subgraphs_add_a_namespace_to_each_message(url: str) -> None:
    with remote(url, "nested") as chain:
        items = list(chain.stream(first_turn("nested"), new_thread(), subgraphs=True))
    spoken = [chunk for namespace, chunk in items if len(namespace) == 2]
    assert spoken
    assert {type(chunk) for chunk in spoken} == {AIMessageChunk}


def test_the_thread_is_shown_as_the_caller_named_it(url: str) -> None:
    config = {"configurable": {"thread_id": "my thread"}}
    with remote(url, "tools") as chain:
        for _, metadata in chain.stream(first_turn("tools"), config, stream_mode="messages"):  # type: ignore[arg-type]
            assert metadata["thread_id"] == "my thread"
            assert not [key for key in metadata if key.startswith("__")]


class Output(BaseCallbackHandler):
    """A handler that keeps the output of the outermost run."""

    def __init__(self) -> None:
        self.kept: Any = None

    def on_chain_end(self, outputs: Any, **_: Any) -> None:
        self.kept = outputs


def test_a_trace_of_modes_keeps_the_last_item(url: str) -> None:
    trace = Output()
    with remote(url, "letter") as chain:
        items = list(chain.stream(first_turn("letter"), {"callbacks": [trace]}, stream_mode=["values", "updates"]))
    assert trace.kept == items[-1]


async def test_events_of_a_graph_take_its_arguments_and_its_thread(url: str) -> None:
    async def shape(events: Any) -> list[Any]:
        # LangServe names the outermost run by its path. Copied, because a message gets its id when the step ends.
        found = [
            copy.deepcopy((one["event"], one["name"].lstrip("/"), one["data"].get("chunk"))) async for one in events
        ]
        return comparable(found)

    arguments = {"stream_mode": ["updates", "custom"], "subgraphs": True}
    graph, config, thread = local_graph("tools"), new_thread(), new_thread()
    async with asyncio.timeout(LIMIT), remote(url, "tools") as chain:
        for turn in EXAMPLES["tools"].turns:
            expected = await shape(graph.astream_events(turn, config, version="v2", **arguments))
            assert await shape(chain.astream_events(turn, thread, **arguments)) == expected
            assert any("on_chat_model_stream" in event for _, event in expected)


async def test_the_log_of_a_graph_takes_its_arguments_and_its_thread(url: str) -> None:
    graph, config, thread = local_graph("interrupts"), new_thread(), new_thread()
    async with asyncio.timeout(LIMIT), remote(url, "interrupts") as chain:
        for turn in EXAMPLES["interrupts"].turns[:2]:
            expected = [item async for item in graph.astream(turn, config, stream_mode=["updates"])]
            patches = [patch async for patch in chain.astream_log(turn, thread, stream_mode=["updates"])]
            streamed = [
                operation["value"]
                for patch in patches
                for operation in patch.ops
                if operation["path"] == "/streamed_output/-"
            ]
            assert_same(streamed, expected)


def test_a_thread_continues_from_one_endpoint_to_the_next(url: str) -> None:
    config = new_thread()
    with remote(url, "interrupts") as chain:
        list(chain.stream(first_turn("interrupts"), config, stream_mode="custom"))
        output = chain.invoke(EXAMPLES["interrupts"].turns[1], config)
    assert output["answers"] == ["yes"]
    assert output["__interrupt__"][0].value == HumanMessage("To whom?", id="whom")
