"""The output of a run equals the output of /invoke."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.runnables import RunnableGenerator, RunnableLambda, RunnableParallel
from langchain_core.runnables.utils import AddableDict

from tests.fakes import Gate, GatedModel, echo_graph
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
    "graph": (echo_graph(), MESSAGES),
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    app = app_of({name: chain for name, (chain, _) in CHAINS.items()})
    with serving(app) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


def without_ids(value: Any) -> Any:
    """Return a value without message ids, which differ from call to call."""
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key != "id"}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


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
