"""A batch counts as the items that it runs at once: at most as many as the limits of runs leave; the others wait."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langgraph.graph import START, MessagesState, StateGraph

from streamserve import Chain
from tests.fakes import Gate
from tests.runs.support import LIMIT, app_of, caller, client_of

BATCH, BROKEN = 40, "broken"
KINDS = ["runnable", "sequence", "graph"]


class Crowd:
    """Counts the items that are inside; each leaves when the gate opens."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.inside = self.most = self.entered = 0
        self.reached: dict[int, Future[None]] = {}

    def when(self, inside: int) -> Future[None]:
        """Return a future that is done once so many items are inside."""
        return self.reached.setdefault(inside, Future())

    async def enter(self, value: Any) -> Any:
        if value == BROKEN:
            raise ValueError("broken")
        self.entered += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        if not self.when(self.inside).done():
            self.when(self.inside).set_result(None)
        try:
            await self.gate.await_()
        finally:
            self.inside -= 1
        return value

    async def answer(self, state: MessagesState) -> Any:
        await self.enter(1)
        return {"messages": [AIMessage("x")]}


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


@contextmanager
def limited(crowd: Crowd, kind: str = "runnable", **settings: Any) -> Iterator[httpx.Client]:
    lambda_ = RunnableLambda(crowd.enter)
    graph = StateGraph(MessagesState).add_node("answer", crowd.answer).add_edge(START, "answer").compile()
    made = {"runnable": lambda_, "sequence": RunnablePassthrough() | lambda_, "graph": graph}[kind]
    chain = made if kind == "graph" else Chain(runnable=made, input_type=Any, output_type=Any)
    with client_of(app_of({"chain": chain}, guard=caller, **settings)) as client:
        yield client


def batch(client: httpx.Client, kind: str = "runnable", **beside: Any) -> httpx.Response:
    one = {"messages": [["human", "x"]]} if kind == "graph" else 1
    return client.post("/chain/batch", json={"inputs": [one] * BATCH, **beside})


def crowded(crowd: Crowd, inside: int, client: httpx.Client, kind: str, **beside: Any) -> httpx.Response:
    """Send a batch; let its items leave once so many are inside."""
    crowd.reached.clear()
    with ThreadPoolExecutor() as threads:
        sent = threads.submit(batch, client, kind, **beside)
        try:
            crowd.when(inside).result(LIMIT)
        finally:
            crowd.gate.open(BATCH)
        return sent.result(LIMIT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{"max_concurrency": 2}, {"max_runs": 2}, {"max_concurrency": 9, "max_runs": 2}])
def test_a_batch_runs_as_many_items_as_there_are_places(crowd: Crowd, kind: str, settings: dict[str, int]) -> None:
    with limited(crowd, kind, **settings) as client:
        for _ in range(2):  # all places are given back
            assert len(crowded(crowd, 2, client, kind).json()["output"]) == BATCH
    assert crowd.most == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_asks_for_fewer_places_than_there_are(crowd: Crowd, kind: str) -> None:
    with limited(crowd, kind, max_concurrency=20) as client:
        assert crowded(crowd, 3, client, kind, config={"max_concurrency": 3}).status_code == 200
    assert crowd.most == 3


@pytest.mark.parametrize(
    ("settings", "refusal"), [({"max_concurrency": 3}, (429, "too_many_runs")), ({"max_runs": 3}, (503, "overloaded"))]
)
def test_items_of_a_batch_take_the_places_of_runs(
    crowd: Crowd, settings: dict[str, int], refusal: tuple[int, str]
) -> None:
    with limited(crowd, **settings) as client, ThreadPoolExecutor() as threads:
        try:
            alone = threads.submit(client.post, "/chain/invoke", json={"input": 1})
            crowd.when(1).result(LIMIT)
            many = threads.submit(batch, client)
            crowd.when(3).result(LIMIT)
            refused = client.post("/chain/invoke", json={"input": 1})
            assert (refused.status_code, refused.json()["code"]) == refusal
        finally:
            crowd.gate.open(BATCH + 1)
        assert [alone.result(LIMIT).status_code, many.result(LIMIT).status_code] == [200, 200]
        assert crowd.most == 3


def test_a_failed_batch_leaves_no_item_running(crowd: Crowd) -> None:
    with limited(crowd, max_concurrency=2) as client:
        answer = client.post("/chain/batch", json={"inputs": [1, BROKEN, *[1] * BATCH]})
        assert answer.status_code == 500
        crowd.gate.open()
        assert client.post("/chain/invoke", json={"input": 1}).status_code == 200
    assert crowd.inside == 0
    assert crowd.entered <= 4  # one begins in the place of the one that failed


def test_a_batch_with_places_keeps_its_exceptions(crowd: Crowd) -> None:
    crowd.gate.open(BATCH)
    with limited(crowd, max_concurrency=2) as client:
        body = {"inputs": [1, BROKEN, 3], "kwargs": {"return_exceptions": True}}
        answer = client.post("/chain/batch", json=body).json()
    assert answer["output"] == [1, None, 3]
    assert [error and error["code"] for error in answer["errors"]] == [None, "internal", None]
