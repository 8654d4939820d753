"""The output of a run equals the output of /invoke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser, StrOutputParser
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.runnables.utils import AddableDict

from streamserve.runs.output import output_of
from streamserve.stores import Outcome, RunRecord
from streamserve.stores.memory import MemoryStore
from streamserve.wire.blocks import data_block, end_block
from streamserve.wire.serializer import split_types, typed_line
from tests.fakes import Gate, GatedModel, echo_graph
from tests.generated_chains import Person, Point, Tool, chains
from tests.observed import without_ids
from tests.runs.support import LIMIT, app_of, streaming
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
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    app = app_of({name: chain for name, (chain, _) in CHAINS.items()})
    with serving(app) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("endpoint", ["stream", "runs"])
def test_the_output_of_a_run_equals_the_output_of_invoke(client: httpx.Client, name: str, endpoint: str) -> None:
    _, given = CHAINS[name]
    invoked = client.post(f"/{name}/invoke", json={"input": given})
    run_id = client.post(f"/{name}/{endpoint}", json={"input": given}).headers["Run-Id"]
    output = client.get(f"/runs/{run_id}/output?wait={LIMIT}")
    assert (invoked.status_code, output.status_code) == (200, 200), output.text
    assert without_ids(output.json()["output"]) == without_ids(invoked.json()["output"])
    assert output.json()["metadata"]["run_id"] == output.headers["Run-Id"] == run_id


@pytest.mark.parametrize("endpoint", ["stream_log", "stream_events"])
def test_a_run_without_chunks_has_no_output(client: httpx.Client, endpoint: str) -> None:
    with streaming(client, f"/text/{endpoint}") as reader:
        reader.rest()
    answer = client.get(f"/runs/{reader.run_id}/output")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_output")


async def test_other_tasks_run_while_an_output_is_merged() -> None:
    store = MemoryStore()
    record, _ = await store.acquire(RunRecord("r", "chain", "stream", "nobody", 0.0))
    lines = (typed_line(AIMessageChunk("a")).decode() for _ in range(3000))
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
    sent = [data_of(block) for block in streamed.content.split(b"\n\n") if b"event: data" in block]
    output = client.get(f"/runs/{streamed.headers['Run-Id']}/output?wait={LIMIT}").json()
    invoked = client.post(f"/{name}/invoke", json=body).json()
    # The branches of a map send their chunks in any order.
    assert sorted(map(orjson.dumps, sent)) == sorted(map(orjson.dumps, chunks))
    assert shown(output) == shown(invoked) == whole


async def in_process(chain: Runnable[Any, Any]) -> tuple[list[Any], Any]:
    chunks = [of_line(typed_line(chunk)) async for chunk in chain.astream("Hi")]
    return chunks, of_line(typed_line(await chain.ainvoke("Hi")))


def data_of(block: bytes) -> Any:
    return of_line(block.partition(b"\ndata: ")[2])


def of_line(line: bytes) -> Any:
    data, types = split_types(line)
    return [without_ids(orjson.loads(data)), orjson.loads(types or b"{}")]


def shown(answer: Any) -> Any:
    return [without_ids(answer["output"]), answer.get("types", {})]
