"""The callbacks of a served chain have no event aggregator of LangServe's, whose events nobody reads."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import Conversation, Topic, registry_of

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
@pytest.mark.parametrize("endpoint", ["invoke", "batch", "stream", "stream_events"])
def test_a_call_has_no_aggregator(client: httpx.Client, name: str, endpoint: str) -> None:
    value = {"topic": "cats"} if name == "chain" else {"messages": [{"role": "user", "content": "Hi"}]}
    body = {"inputs": [value]} if endpoint == "batch" else {"input": value}
    seen[:] = ["nothing"]
    assert client.post(f"/{name}/{endpoint}", json=body).status_code == 200
    assert "AsyncEventAggregatorCallback" not in seen
    assert seen != ["nothing"]
