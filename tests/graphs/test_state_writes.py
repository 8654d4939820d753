"""Values that a graph's reducers refuse are the caller's error, and leave the thread as it was."""

from __future__ import annotations

import operator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.messages import AIMessage, AnyMessage, RemoveMessage
from langgraph.channels.base import BaseChannel
from langgraph.graph import START, StateGraph, add_messages
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import registry_of
from tests.frames import events

ENDPOINTS = ("invoke", "batch", "stream", "stream_log", "stream_events", "stream_events v3", "runs")
UNKNOWN = {"type": "remove", "id": "nope"}
REFUSED = "The graph does not take this value: "

each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS)


def extend(kept: list[str], new: list[str]) -> list[str]:
    """Add to a list in place, as reducers of real graphs do."""
    kept.extend(new)
    return kept


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    total: Annotated[int, operator.add]
    log: Annotated[list[str], extend]
    one: str


def answer(state: State) -> State:
    if state.get("one") == "remove":
        return {"messages": [RemoveMessage("nope")]}
    return {"messages": [AIMessage("hi")]}


GRAPH = StateGraph(State).add_node(answer).add_edge(START, "answer").compile()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(registry_of({"talk": Chain(runnable=GRAPH)}))


def ask(client: httpx.Client, endpoint: str, given: Any, thread: str) -> tuple[int, str, str]:
    """Return status, code and text of the error, wherever the endpoint shows it."""
    path, _, version = endpoint.partition(" ")
    body: dict[str, Any] = {"inputs": [{"one": "x"}, given]} if path == "batch" else {"input": given}
    configs = [{"configurable": {"thread_id": f"{thread} {number}"}} for number in (1, 2)]
    body["config"] = configs if path == "batch" else configs[1]
    found = client.post(f"/talk/{path}", json={**body, "kwargs": {"version": version}} if version else body)
    status = found.status_code
    if path == "runs":
        found = client.get(f"/runs/{found.json()['run_id']}/output?wait=10")
        assert found.status_code == 409
        status = 422
    if path in ("invoke", "batch", "runs"):
        (first,) = found.json()["detail"]
        return status, found.json()["code"], f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    kind, error = events(found)[-1]
    assert kind == "error"
    return error["status_code"], error["code"], error["message"]


@each_endpoint
def test_the_removal_of_an_unknown_message_is_refused(client: httpx.Client, endpoint: str) -> None:
    status, code, text = ask(client, endpoint, {"messages": ["x", UNKNOWN]}, f"removal {endpoint}")
    assert (status, code) == (422, "invalid_input")
    place = "body.inputs.1.messages" if endpoint == "batch" else "body.input.messages"
    assert text.startswith(f"{place}: {REFUSED}Attempting to delete")


@each_endpoint
@pytest.mark.parametrize(
    ("update", "place"),
    [
        ({"messages": [UNKNOWN]}, "update.messages"),
        ({"total": "x"}, "update.total"),
        ([["messages", ["x"]], ["messages", [UNKNOWN]]], "update.1.messages"),
        ([["one", "a"], ["one", "b"]], "update.1.one"),
    ],
    ids=["removal", "type", "pairs", "twice"],
)
def test_a_refused_command_leaves_its_thread(client: httpx.Client, endpoint: str, update: Any, place: str) -> None:
    thread = f"command {endpoint} {place}"
    config = {"configurable": {"thread_id": f"{thread} 2"}}
    client.post("/talk/invoke", json={"input": {"messages": ["x"]}, "config": config})
    status, code, text = ask(client, endpoint, {"__type__": "command", "update": update, "goto": "answer"}, thread)
    assert (status, code) == (422, "invalid_input")
    assert f".{place}: {REFUSED}" in text
    again = client.post("/talk/invoke", json={"input": {"messages": ["y"]}, "config": config})
    assert [message["content"] for message in again.json()["output"]["messages"]] == ["x", "hi", "y", "hi"]


@each_endpoint
def test_a_value_that_a_reducer_refuses_is_named(client: httpx.Client, endpoint: str) -> None:
    status, code, text = ask(client, endpoint, {"total": "x"}, f"type {endpoint}")
    assert (status, code) == (422, "invalid_input")
    assert f".total: {REFUSED}unsupported operand" in text


def test_a_known_message_is_removed(client: httpx.Client) -> None:
    config = {"configurable": {"thread_id": "known"}}
    for sent in ([{"type": "human", "content": "x", "id": "1"}], [{"type": "remove", "id": "1"}]):
        answer = client.post("/talk/invoke", json={"input": {"messages": sent}, "config": config})
    assert [message["content"] for message in answer.json()["output"]["messages"]] == ["hi", "hi"]


def test_a_removal_by_a_node_is_the_graph_s_error(client: httpx.Client) -> None:
    answer = client.post("/talk/invoke", json={"input": {"one": "remove"}})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")


def test_a_reducer_that_changes_its_value_keeps_no_text(client: httpx.Client) -> None:
    sent = {"values": {"log": ["secret"]}, "as_node": "answer"}
    assert client.post("/talk/threads/of%20ann/state", json=sent).status_code == 200
    log = GRAPH.channels["log"]
    assert isinstance(log, BaseChannel)
    assert log.get() == []
