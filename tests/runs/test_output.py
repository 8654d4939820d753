"""The output of a run equals the output of /invoke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import httpx
import orjson
import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser, StrOutputParser
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableBranch,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.runnables.utils import AddableDict
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import interrupt
from pydantic import BaseModel

from streamserve.runs.output import output_of
from streamserve.stores import Outcome, RunRecord
from streamserve.stores.memory import MemoryStore
from streamserve.wire.blocks import data_block, end_block
from streamserve.wire.serializer import split_types, typed_line
from tests.fakes import Gate, GatedModel, echo_graph
from tests.generated_chains import Person, Point, Tool, chains
from tests.observed import without_ids
from tests.runs.support import LIMIT, app_of
from tests.servers import serving

pytestmark = pytest.mark.filterwarnings("ignore:astream_log is deprecated")

TEXT = ("Tokens ", "", "arrive\u2028", "one by one.")
JSON = ('{"a": [1', ', 2], "b": ', '"c\u2028"}')
MESSAGES = {"messages": [{"type": "human", "content": "hi"}]}


def says(*tokens: str) -> GatedModel:
    gate = Gate()
    gate.open(1000)
    return GatedModel(tokens=tokens, gate=gate)


async def summed(inputs: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for _ in inputs:
        pass
    for chunk in (b"\xff", b"\x00", b"\xfe"):
        yield chunk


async def addable(inputs: AsyncIterator[Any]) -> AsyncIterator[AddableDict]:
    async for _ in inputs:
        pass
    yield AddableDict(docs=["d"])
    yield AddableDict(answer="x")
    yield AddableDict(answer="y")


class Asked(TypedDict, total=False):
    question: str
    answer: str


class Answer(TypedDict):
    answer: str


class AskedModel(BaseModel):
    question: str
    answer: str = ""
    unset: int = 1


@dataclass
class AskedDataclass:
    question: str
    answer: str = ""
    unset: int = 1


def answer(_state: Any) -> dict[str, str]:
    return {"answer": "yes"}


def approve(state: Asked) -> dict[str, str]:
    return {"answer": interrupt({"approve": state["question"]})}


def graph_of(state: Any, step: Any, *, checkpointer: Any = None, **schemas: Any) -> Pregel[Any]:
    graph = StateGraph(state, **schemas).add_node("step", step).add_edge(START, "step")
    return graph.compile(checkpointer=checkpointer)


def values_graph() -> Pregel[Any]:
    graph = graph_of(Asked, answer)
    graph.stream_mode = "values"
    return graph


asked_graph = graph_of(Asked, answer)


def as_object(_: Any) -> object:
    return object()


async def asks(question: str) -> Any:
    return await asked_graph.ainvoke({"question": question})


CHAINS: dict[str, tuple[Any, Any]] = {
    "text": (says(*TEXT) | StrOutputParser(), "x"),
    "message": (says(*TEXT), "x"),
    "snapshots": (says(*JSON) | JsonOutputParser(), "x"),
    "addable": (RunnableGenerator(addable), "x"),
    "parallel": (RunnableParallel(a=says(*TEXT) | StrOutputParser(), b=RunnableLambda(lambda _: 1)), "x"),
    "number": (RunnableLambda(lambda _: 7), "x"),
    "list": (RunnableLambda(lambda _: [1, {"a": None}]), "x"),
    "none": (RunnableLambda(lambda _: None), "x"),
    "growing list": (says('[{"n": "a', '"}, {"n"', ': "b"}]') | JsonOutputParser(), "x"),
    "growing number": (says("1", "2", "3") | JsonOutputParser(), "x"),
    "patches": (says(*JSON) | JsonOutputParser(diff=True), "x"),
    "growing object": (says('{"name": "A', 'nn", "age": 3', "1}") | PydanticOutputParser(pydantic_object=Person), "x"),
    "parallel snapshots": (
        RunnableParallel(text=says(*TEXT) | StrOutputParser(), data=says(*JSON) | JsonOutputParser(), said=says(*TEXT)),
        "x",
    ),
    "assigned": (
        says(*JSON) | JsonOutputParser() | RunnablePassthrough.assign(more=RunnableLambda(str) | says(*TEXT)),
        "x",
    ),
    "bytes": (RunnableGenerator(summed), "x"),
    "look-alike object": (RunnableLambda(lambda _: Tool()), "x"),
    "look-alike dataclass": (RunnableLambda(lambda _: [Point(1)]), "x"),
    "graph": (echo_graph(), MESSAGES),
    "interrupted graph": (graph_of(Asked, approve, checkpointer=InMemorySaver()), {"question": "x"}),
    "graph with an output schema": (graph_of(Asked, answer, output_schema=Answer), {"question": "x"}),
    "graph of a pydantic state": (graph_of(AskedModel, answer), {"question": "x"}),
    "values of a graph": (RunnablePassthrough[Any]() | values_graph(), {"question": "x"}),
    "function that calls a graph": (RunnableLambda(asks), "x"),
}


# LangChain streams a graph in a chain as the updates of its nodes.
WITHOUT_OUTPUT: dict[str, Any] = {
    "last": RunnablePassthrough[Any]() | echo_graph(),
    "bound": RunnableBinding(bound=echo_graph()),
    "branch": RunnableBranch((lambda _: True, echo_graph()), RunnableLambda(str)),
    "map": RunnableParallel(graph=echo_graph(), text=RunnableLambda(str)),
}
# What is asked for: the endpoint, and what its body has beside the input.
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "stream": ("stream", {}),
    "runs": ("runs", {}),
    "log": ("stream_log", {}),
    "log of nobody": ("stream_log", {"include_names": ["nobody"]}),
    "events": ("stream_events", {}),
    "events of nobody": ("stream_events", {"include_names": ["nobody"]}),
    "events of version 3": ("stream_events", {"kwargs": {"version": "v3"}}),
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    more = {
        **WITHOUT_OUTPUT,
        "dataclass": graph_of(AskedDataclass, answer),
        "object": says(*TEXT) | RunnableLambda(as_object),
    }
    app = app_of({**{name: chain for name, (chain, _) in CHAINS.items()}, **more})
    with serving(app) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("asked", ASKED)
def test_the_output_of_a_run_equals_the_output_of_invoke(client: httpx.Client, name: str, asked: str) -> None:
    _, given = CHAINS[name]
    endpoint, more = ASKED[asked]
    invoked = client.post(f"/{name}/invoke", json={"input": given})
    run_id = client.post(f"/{name}/{endpoint}", json={"input": given, **more}).headers["Run-Id"]
    output = client.get(f"/runs/{run_id}/output?wait={LIMIT}")
    assert (invoked.status_code, output.status_code) == (200, 200), output.text
    expected = invoked.json()["output"]
    if (name, asked) == ("message", "events of version 3"):  # in process, such a message has content blocks
        text = {"type": "text", "text": expected["content"], "index": 0}
        expected = {**expected, "content": [text], "response_metadata": {"output_version": "v1"}}
    assert without_ids(output.json()["output"]) == without_ids(expected)
    assert output.json()["metadata"]["run_id"] == output.headers["Run-Id"] == run_id


def test_version_3_does_not_tell_the_output_of_a_dataclass(client: httpx.Client) -> None:
    body = {"input": {"question": "x"}}
    for kwargs, status in [({}, 200), ({"version": "v3"}, 409)]:
        answer = client.post("/dataclass/stream_events", json={**body, "kwargs": kwargs})
        assert client.get(f"/runs/{answer.headers['Run-Id']}/output?wait={LIMIT}").status_code == status


def test_events_end_well_without_a_json_form_of_the_output(client: httpx.Client) -> None:
    body = {"input": "x", "include_types": ["chat_model"]}
    answer = client.post("/object/stream_events", json=body)
    assert ("event: end" in answer.text, "event: error" in answer.text) == (True, False)
    assert client.get(f"/runs/{answer.headers['Run-Id']}/output?wait={LIMIT}").json()["code"] == "no_output"


@pytest.mark.parametrize("name", WITHOUT_OUTPUT)
@pytest.mark.parametrize("asked", ASKED)
def test_updates_of_a_graph_in_a_chain_are_no_output(client: httpx.Client, name: str, asked: str) -> None:
    endpoint, more = ASKED[asked]
    run_id = client.post(f"/{name}/{endpoint}", json={"input": MESSAGES, **more}).headers["Run-Id"]
    output = client.get(f"/runs/{run_id}/output?wait={LIMIT}")
    assert (output.status_code, output.json()["code"]) == (409, "no_output")


async def test_other_tasks_run_while_an_output_is_merged() -> None:
    store = MemoryStore()
    record, _ = await store.acquire(RunRecord("r", "chain", "stream", "nobody", 0.0))
    lines = (typed_line(AIMessageChunk("a")) for _ in range(3000))
    blocks = [data_block(number, line) for number, line in enumerate(lines, 1)]
    await store.append("r", 1, 1, [*blocks, end_block(3001)], Outcome("done"))
    turns, ended = 0, asyncio.Event()

    async def take_turns() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    output = await output_of(store, record)
    ended.set()
    await other
    assert output is not None
    assert orjson.loads(output[0])["content"] == "a" * 3000
    assert turns > 3


@generated(st.lists(chains, min_size=20, max_size=20))
@settings(max_examples=6, deadline=None)
def test_stream_output_invoke_and_the_chain_agree(made: list[Runnable[Any, Any]]) -> None:
    named = {f"chain-{number}": chain for number, chain in enumerate(made)}
    with serving(app_of(dict(named))) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        for name, chain in named.items():
            check_agreement(client, name, chain)


def check_agreement(client: httpx.Client, name: str, chain: Runnable[Any, Any]) -> None:
    """Compare one of 120 chains in process with its stream, its run's output and its invoke over HTTP."""
    body = {"input": "Hi"}
    try:
        chunks, whole = asyncio.run(in_process(chain))
    except RuntimeError:  # in process, fallbacks take a stream without chunks for a failure
        return
    streamed = client.post(f"/{name}/stream", json=body)
    sent = [without_mark(data_of(block)) for block in streamed.content.split(b"\n\n") if b"event: data" in block]
    invoked = client.post(f"/{name}/invoke", json=body).json()
    # The branches of a map send their chunks in any order.
    assert sorted(map(orjson.dumps, sent)) == sorted(map(orjson.dumps, map(without_mark, chunks)))
    assert shown(invoked) == whole
    others = [client.post(f"/{name}/{endpoint}", json={**body, **more}) for endpoint, more in ASKED.values()]
    for answer in (streamed, *others):
        output = client.get(f"/runs/{answer.headers['Run-Id']}/output?wait={LIMIT}").json()
        assert shown(output) == whole, answer.url


async def in_process(chain: Runnable[Any, Any]) -> tuple[list[Any], Any]:
    chunks = [of_line(typed_line(chunk)) async for chunk in chain.astream("Hi")]
    return chunks, of_line(typed_line(await chain.ainvoke("Hi")))


def without_mark(chunk: list[Any]) -> list[Any]:
    data, types = chunk
    return [data, {place: name for place, name in types.items() if place or name not in ("dict", "snapshot")}]


def data_of(block: bytes) -> Any:
    return of_line(block.partition(b"\ndata: ")[2])


def of_line(line: bytes) -> Any:
    data, types = split_types(line)
    return [without_ids(orjson.loads(data)), orjson.loads(types or b"{}")]


def shown(answer: Any) -> Any:
    return [without_ids(answer["output"]), answer.get("types", {})]
