"""Cancellation reaches the model: the provider's HTTP stream closes without garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnableParallel
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

from streamserve import Chain
from streamserve.api.services import services_in
from tests.fakes import Gate
from tests.runs.support import (
    AsyncHttpModel,
    EndlessUpstream,
    HttpModel,
    app_of,
    client_of,
    ended,
    endless_upstream,
    error_of,
    streaming,
)
from tests.servers import serving

Builder = Callable[[str], Runnable[Any, Any]]
MESSAGES = {"messages": [{"type": "human", "content": "x"}]}


def async_graph(url: str) -> Runnable[Any, Any]:
    model = AsyncHttpModel(url=url)

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()


def sync_graph(url: str, model: BaseChatModel | None = None) -> Runnable[Any, Any]:
    model = model or HttpModel(url=url)

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()


def openai(url: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=url, api_key="none", model="m", max_retries=0)  # type: ignore[arg-type]


CHAINS: dict[str, tuple[Builder, int]] = {
    "async": (lambda url: AsyncHttpModel(url=url), 1),
    "sync_only": (lambda url: HttpModel(url=url), 1),
    "sync_in_sequence": (lambda url: HttpModel(url=url) | StrOutputParser(), 1),
    "openai": (openai, 1),
    "parallel": (lambda url: RunnableParallel(a=AsyncHttpModel(url=url), b=HttpModel(url=url)), 2),
    "async_graph": (async_graph, 1),
    "openai_sync_graph": (lambda url: sync_graph(url, openai(url)), 1),
    "sync_graph": (sync_graph, 1),
}


@pytest.fixture
def upstream() -> Iterator[EndlessUpstream]:
    with endless_upstream() as server:
        yield server


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=CHAINS)
def served(request: pytest.FixtureRequest, upstream: EndlessUpstream, no_collector: None) -> Iterator[httpx.Client]:
    builder, request.node.calls = CHAINS[request.param]
    chains = {"endless": builder(upstream.url), "timed": Chain(runnable=builder(upstream.url), timeout=0.3)}
    with client_of(app_of(chains)) as client:
        yield client


def input_of(request: pytest.FixtureRequest) -> Any:
    return MESSAGES if "graph" in request.node.name else "x"


def opened(request: pytest.FixtureRequest, upstream: EndlessUpstream) -> None:
    for _ in range(request.node.calls):
        upstream.was_opened()


def closed(request: pytest.FixtureRequest, upstream: EndlessUpstream) -> None:
    for _ in range(request.node.calls):
        upstream.was_closed()


def test_a_cancel_closes_the_models_stream(
    request: pytest.FixtureRequest, served: httpx.Client, upstream: EndlessUpstream
) -> None:
    with streaming(served, "/endless/stream", input_of(request)) as reader:
        opened(request, upstream)
        reader.until(b"token")
        answer = served.post(f"/runs/{reader.run_id}/cancel?wait=5")
        closed(request, upstream)
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert error_of(reader.rest()[-1])["message"] == "The run was cancelled"


def test_the_last_reader_that_leaves_closes_the_models_stream(
    request: pytest.FixtureRequest, served: httpx.Client, upstream: EndlessUpstream
) -> None:
    with streaming(served, "/endless/stream", input_of(request)) as reader:
        opened(request, upstream)
        reader.until(b"token")
        run_id = reader.run_id
    closed(request, upstream)
    assert ended(served, run_id)["error"]["message"] == "The last reader left"


def test_a_deadline_closes_the_models_stream(
    request: pytest.FixtureRequest, served: httpx.Client, upstream: EndlessUpstream
) -> None:
    with streaming(served, "/timed/stream", input_of(request)) as reader:
        opened(request, upstream)
        blocks = reader.rest()
        closed(request, upstream)
    assert error_of(blocks[-1])["code"] == "timeout"
    assert error_of(blocks[-1])["status_code"] == 504


@pytest.mark.parametrize("endpoint", ["invoke", "batch"])
@pytest.mark.parametrize("kind", ["async", "openai", "async_graph"])
def test_a_call_without_a_stream_ends_when_its_caller_leaves(
    kind: str, endpoint: str, upstream: EndlessUpstream, no_collector: None
) -> None:
    builder, _ = CHAINS[kind]
    given: Any = MESSAGES if "graph" in kind else "x"
    chain = builder(upstream.url)
    if kind == "openai":
        chain = RunnableLambda(_joined(openai(upstream.url)))
    body = {"input": given} if endpoint == "invoke" else {"inputs": [given]}
    with serving(app_of({"endless": chain})) as url, httpx.Client(base_url=url, timeout=0.5) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"/endless/{endpoint}", json=body)
        upstream.was_opened()
        upstream.was_closed()


def _joined(model: Runnable[Any, Any]) -> Any:
    async def joined(given: Any) -> str:
        return "".join([chunk.text async for chunk in model.astream(given)])

    return joined


# Runs without readers


class Bench:
    """A chain that yields five numbers, each when the gate opens, under several policies."""

    def __init__(self, **settings: Any) -> None:
        self.gate = Gate()
        count = RunnableGenerator(self.count).with_types(input_type=Any, output_type=Any)
        chains = {
            "plain": count,
            "continuing": Chain(runnable=count, on_disconnect="continue"),
            "cancelling": Chain(runnable=count, on_disconnect="cancel"),
        }
        self.app = app_of(chains, **settings)

    async def count(self, inputs: Any) -> Any:
        async for _ in inputs:
            pass
        for number in range(5):
            await self.gate.await_()
            yield str(number)


def leave(client: httpx.Client, path: str, **headers: str) -> str:
    with streaming(client, path, **headers) as reader:
        reader.next()
        return reader.run_id


@pytest.mark.parametrize(
    ("path", "headers", "settings"),
    [
        ("/plain/stream", {"Run_On_Disconnect": "continue"}, {}),
        ("/plain/stream", {}, {"on_disconnect": "continue"}),
        ("/continuing/stream", {}, {}),
        ("/continuing/stream", {}, {"on_disconnect": "cancel"}),
        ("/cancelling/stream", {"Run_On_Disconnect": "continue"}, {}),
    ],
)
def test_a_run_continues_without_readers_if_the_policy_says_so(
    path: str, headers: dict[str, str], settings: dict[str, Any]
) -> None:
    bench = Bench(orphan_grace=0, **settings)
    with client_of(bench.app) as client:
        run_id = leave(client, path, **headers)
        bench.gate.open(5)
        assert ended(client, run_id)["status"] == "done"


@pytest.mark.parametrize(
    ("path", "headers", "settings"),
    [
        ("/plain/stream", {}, {}),
        ("/plain/stream", {"Idempotency_Key": "k"}, {}),
        ("/plain/stream_events", {}, {}),
        ("/continuing/stream", {"Run_On_Disconnect": "cancel"}, {}),
        ("/cancelling/stream", {}, {}),
        ("/cancelling/stream", {"Idempotency_Key": "k"}, {}),
        ("/plain/stream", {"Idempotency_Key": "k", "Run_On_Disconnect": "cancel"}, {}),
        ("/plain/stream", {"Idempotency_Key": "k"}, {"on_disconnect": "cancel"}),
    ],
)
def test_a_run_ends_without_readers_if_the_policy_says_so(
    path: str, headers: dict[str, str], settings: dict[str, Any]
) -> None:
    bench = Bench(orphan_grace=0, **settings)
    bench.gate.open()
    with client_of(bench.app) as client:
        run_id = leave(client, path, **headers)
        assert ended(client, run_id)["status"] == "cancelled"


def test_a_keyed_run_waits_for_its_reader_to_resume() -> None:
    bench = Bench(orphan_grace=60)
    headers = {"Idempotency_Key": "k", "Run_On_Disconnect": "cancel"}
    with client_of(bench.app) as client:
        run_id = leave(client, "/plain/stream", **headers)
        bench.gate.open(5)
        with streaming(client, "/plain/stream", **headers) as reader:
            assert reader.run_id == run_id
            assert reader.rest()[-1] == b"id: 7\nevent: end\ndata:\n\n"


def test_a_background_run_continues_without_readers() -> None:
    bench = Bench(orphan_grace=0)
    with client_of(bench.app) as client:
        answer = client.post("/plain/runs", json={"input": "x"})
        bench.gate.open(5)
        assert ended(client, answer.json()["run_id"])["status"] == "done"


def test_a_background_run_ends_unread_under_the_cancel_policy() -> None:
    bench = Bench(orphan_grace=0.05)
    with client_of(bench.app) as client:
        answer = client.post("/plain/runs", json={"input": "x"}, headers={"Run-On-Disconnect": "cancel"})
        assert ended(client, answer.json()["run_id"])["status"] == "cancelled"


def test_a_run_continues_while_one_reader_is_left() -> None:
    bench = Bench(orphan_grace=0)
    with client_of(bench.app) as client, streaming(client, "/plain/stream") as first:
        with streaming(client, f"/runs/{first.run_id}/stream", method="GET") as second:
            second.next()
        bench.gate.open(5)
        assert first.rest()[-1] == b"id: 7\nevent: end\ndata:\n\n"


def test_an_unknown_policy_is_refused_before_the_chain_runs() -> None:
    bench = Bench()
    with client_of(bench.app) as client:
        answer = client.post("/plain/stream", json={"input": "x"}, headers={"Run-On-Disconnect": "perhaps"})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert not services_in(bench.app).runs._live
