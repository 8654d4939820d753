"""Answers have the callbacks of every step if the record asks for them; else no chain has LangServe's aggregator."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.callbacks import BaseCallbackManager
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.graph import START, MessagesState, StateGraph
from langserve import RemoteRunnable as StockRunnable
from streamserve_sdk import RemoteRunnable

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import Conversation, Gate, GatedModel, Topic, registry_of

seen: list[str] = []


def note(value: Any, config: RunnableConfig) -> str:
    callbacks = config["callbacks"]
    assert isinstance(callbacks, BaseCallbackManager)
    seen[:] = [type(handler).__name__ for handler in callbacks.handlers]
    return "noted"


def node(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    return {"messages": [("ai", note(state, config))]}


def fail(_value: Any) -> None:
    raise ValueError("secret")


class Unknown:
    """A class that JSON does not know."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        return f"unknown {self.value}"


class Tracer(BaseTracer):
    """A tracer that keeps the runs at the top."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.runs.append(run)


tracer = Tracer()


def with_tracer(config: dict[str, Any], _request: Any) -> dict[str, Any]:
    return {**config, "callbacks": [tracer]}


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("on_") for event in events]


TOLD = [
    "chain_start",  # the chain
    "chain_start",  # its prompt
    "chain_end",
    "chat_model_start",
    "llm_end",
    "chain_start",  # its parser
    "chain_end",
    "chain_end",
]


@pytest.fixture(scope="module")
def app() -> FastAPI:
    graph = StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile()
    gate = Gate()
    gate.open(1000)
    told = ChatPromptTemplate.from_template("On {topic}") | GatedModel(tokens=["a", "b"], gate=gate) | StrOutputParser()
    chains = {
        "chain": Chain(runnable=RunnableLambda(note) | RunnableLambda(str), input_type=Topic),
        "graph": Chain(runnable=graph, input_type=Conversation),
        "told": Chain(runnable=told, callback_events=True),
        "acts": Chain(runnable=graph, callback_events=True),
        "backup": Chain(runnable=RunnableLambda(fail).with_fallbacks([RunnableLambda(str)]), callback_events=True),
        "unknown": Chain(runnable=RunnableLambda(Unknown) | RunnableLambda(str), callback_events=True),
        "config": Chain(runnable=RunnableLambda(note), callback_events=True, config=with_tracer),
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


def test_the_answer_of_a_call_has_the_callbacks_of_each_step(client: httpx.Client) -> None:
    answer = client.post("/told/invoke", json={"input": {"topic": "cats"}}).json()
    events = answer["callback_events"]
    assert answer["output"] == "ab"
    assert kinds(events) == TOLD
    top = events[0]
    assert (top["run_id"], top["parent_run_id"], top["inputs"]) == (
        answer["metadata"]["run_id"],
        None,
        {"topic": "cats"},
    )
    assert {event["parent_run_id"] for event in events if event["run_id"] != top["run_id"]} == {top["run_id"]}
    assert events[3]["messages"][0][0]["content"] == "On cats"
    assert events[-1]["outputs"] == "ab"


@pytest.mark.parametrize("kwargs", [{}, {"return_exceptions": True}], ids=["plain", "exceptions"])
def test_each_input_of_a_batch_has_its_own_callbacks(client: httpx.Client, kwargs: dict[str, Any]) -> None:
    body = {"inputs": [{"topic": "cats"}, {"topic": "dogs"}], "kwargs": kwargs}
    answer = client.post("/told/batch", json=body).json()
    assert [sorted(kinds(events)) for events in answer["callback_events"]] == [sorted(TOLD)] * 2
    asked = [events[0]["inputs"]["topic"] for events in answer["callback_events"]]
    assert asked == ["cats", "dogs"]
    run_ids = [events[0]["run_id"] for events in answer["callback_events"]]
    assert run_ids == answer["metadata"]["run_ids"]


def test_a_graph_has_callbacks_of_its_nodes(client: httpx.Client) -> None:
    answer = client.post("/acts/invoke", json={"input": {"messages": ["Hi"]}}).json()
    names = [event["kwargs"].get("name") for event in answer["callback_events"] if event["type"] == "on_chain_start"]
    assert "node" in names


def test_the_error_of_a_step_is_shown_without_its_text(client: httpx.Client) -> None:
    answer = client.post("/backup/invoke", json={"input": "cats"})
    (error,) = [event["error"] for event in answer.json()["callback_events"] if event["type"] == "on_chain_error"]
    assert answer.json()["output"] == "cats"
    assert (error["status_code"], error["code"]) == (500, "internal")
    assert "secret" not in answer.text


def test_a_value_without_json_between_steps_is_null(client: httpx.Client) -> None:
    answer = client.post("/unknown/invoke", json={"input": "cats"}).json()
    assert answer["output"] == "unknown cats"
    ends = [event for event in answer["callback_events"] if event["type"] == "on_chain_end"]
    assert [event["outputs"] for event in ends] == [None, "unknown cats", "unknown cats"]


def test_callbacks_of_the_records_config_stay(client: httpx.Client) -> None:
    tracer.runs.clear()
    answer = client.post("/config/invoke", json={"input": "cats"}).json()
    assert kinds(answer["callback_events"]) == ["chain_start", "chain_end"]
    assert [str(run.id) for run in tracer.runs] == [answer["metadata"]["run_id"]]


def replayed(remote: Any, chain: str) -> list[Any]:
    """Return the steps that a client reports below its own run, for a call and a batch."""
    seen = Tracer()
    remote.invoke({"topic": "cats"}, {"callbacks": [seen]})
    remote.batch([{"topic": "dogs"}], {"callbacks": [seen]})
    assert [run.name for run in seen.runs] == ["RemoteRunnable"] * 2
    assert [[step.name for step in run.child_runs] for run in seen.runs] == [[f"/{chain}"]] * 2
    return [[(step.run_type, step.name) for step in run.child_runs[0].child_runs] for run in seen.runs]


def test_a_client_replays_the_callbacks_below_its_own_run(client: httpx.Client) -> None:
    with RemoteRunnable(f"{client.base_url}/told") as remote:
        steps = [("prompt", "ChatPromptTemplate"), ("llm", "GatedModel"), ("parser", "StrOutputParser")]
        assert replayed(remote, "told") == [steps] * 2


def test_the_stock_client_replays_the_callbacks(client: httpx.Client) -> None:
    # LangServe can neither send nor read a model's own result in an event.
    remote = StockRunnable(f"{client.base_url}/unknown")
    assert replayed(remote, "unknown") == [[("chain", "Unknown"), ("chain", "str")]] * 2
    remote.sync_client.close()
