"""The callbacks of a served chain have LangServe's event aggregator only where its events are read."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from langserve.callbacks import AsyncEventAggregatorCallback

from streamserve import Chain
from streamserve.app import create_app
from streamserve.serving.stream_callbacks import without_aggregator
from tests.fakes import Conversation, Topic, registry_of
from tests.observed import AsyncRecorder

seen: list[str] = []


def note(value: Any, config: RunnableConfig) -> str:
    callbacks = config["callbacks"]
    assert isinstance(callbacks, BaseCallbackManager)
    seen[:] = [type(handler).__name__ for handler in callbacks.handlers]
    return "noted"


def node(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    return {"messages": [("ai", note(state, config))]}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    graph = StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile()
    chains = {
        "chain": Chain(runnable=RunnableLambda(note) | RunnableLambda(str), input_type=Topic),
        "graph": Chain(runnable=graph, input_type=Conversation),
    }
    return create_app(registry_of(chains))


@pytest.mark.parametrize("name", ["chain", "graph"])
@pytest.mark.parametrize(
    ("endpoint", "aggregated"), [("invoke", True), ("batch", True), ("stream", False), ("stream_events", False)]
)
def test_a_stream_has_no_aggregator(client: httpx.Client, name: str, endpoint: str, aggregated: bool) -> None:
    value = {"topic": "cats"} if name == "chain" else {"messages": [{"role": "user", "content": "Hi"}]}
    body = {"inputs": [value]} if endpoint == "batch" else {"input": value}
    seen[:] = ["nothing"]
    assert client.post(f"/{name}/{endpoint}", json=body).status_code == 200
    assert ("AsyncEventAggregatorCallback" in seen) is aggregated
    assert seen != ["nothing"]


def test_other_handlers_stay() -> None:
    mine = AsyncRecorder()
    given: RunnableConfig = {"callbacks": [mine, AsyncEventAggregatorCallback()], "tags": ["a"]}
    assert without_aggregator(given) == {"callbacks": [mine], "tags": ["a"]}
    assert len(given["callbacks"]) == 2  # type: ignore[arg-type]


def test_a_manager_keeps_its_other_handlers() -> None:
    mine, manager = AsyncRecorder(), AsyncCallbackManager([])
    for handler in (mine, AsyncEventAggregatorCallback()):
        manager.add_handler(handler, inherit=True)
    reduced = (without_aggregator({"callbacks": manager}) or {}).get("callbacks")
    assert isinstance(reduced, AsyncCallbackManager)
    assert reduced.handlers == reduced.inheritable_handlers == [mine]
    assert len(manager.handlers) == 2


@pytest.mark.parametrize("config", [None, {}, {"callbacks": None}, {"callbacks": []}])
def test_a_config_without_handlers_is_the_same(config: RunnableConfig | None) -> None:
    assert without_aggregator(config) is config
