"""The endpoints of a graph's threads: their answers, their errors and their OpenAPI description."""

from __future__ import annotations

import datetime as dt
import itertools
import operator
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import START, StateGraph, add_messages
from langgraph.types import interrupt
from langgraph_sdk import get_sync_client
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.api.threads.requests import MAX_PAGE
from streamserve.app import create_app
from streamserve.settings import Settings
from tests.fakes import Gate, greeting, registry_of
from tests.frames import ERROR_FIELDS
from tests.servers import serving

_threads = itertools.count(1)
JSON = {"Content-Type": "application/json"}
GATE = Gate()


class Letter(TypedDict, total=False):
    """The state of a graph that writes a letter and interrupts."""

    messages: Annotated[list[AnyMessage], add_messages]
    notes: Annotated[list[str], operator.add]
    due: dt.date


def letter() -> Any:
    async def write(_state: Letter) -> Letter:
        return {"messages": [AIMessage("Dear ...")], "due": dt.date(2026, 1, 2)}

    async def ask(_state: Letter) -> Letter:
        return {"notes": [interrupt("Send it?")]}

    builder = StateGraph(Letter).add_node(write).add_node(ask)
    return builder.add_edge(START, "write").add_edge("write", "ask").compile()


def broken() -> Any:
    """Return a graph whose edge fails for any state."""

    def keep(_state: Letter) -> Letter:
        return {}

    def fail(_state: Letter) -> str:
        raise OSError("a secret")

    return StateGraph(Letter).add_node(keep).add_edge(START, "keep").add_conditional_edges("keep", fail).compile()


def twins() -> Any:
    """Return a graph of two nodes that run at once."""

    def keep(_state: Letter) -> Letter:
        return {"notes": ["kept"]}

    builder = StateGraph(Letter).add_node("one", keep).add_node("two", keep)
    return builder.add_edge(START, "one").add_edge(START, "two").compile()


def waiting() -> Any:
    """Return a graph that waits until the gate opens."""

    async def wait(_state: Letter) -> Letter:
        await GATE.await_()
        return {"notes": ["waited"]}

    return StateGraph(Letter).add_node(wait).add_edge(START, "wait").compile()


async def guard(request: Request) -> None:
    """Accept a caller that sends a name."""
    name = request.headers.get("x-name")
    if not name:
        raise HTTPException(401)
    request.state.principal = name


@pytest.fixture(scope="module")
def app() -> FastAPI:
    chains = {
        "letter": Chain(runnable=letter()),
        "broken": Chain(runnable=broken()),
        "twins": Chain(runnable=twins()),
        "waiting": Chain(runnable=waiting()),
        "plain": Chain(runnable=greeting()),
    }
    return create_app(registry_of(chains), Settings(_env_file=None), guard=guard)


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serving(app) as url, httpx.Client(base_url=url, timeout=20, headers={"x-name": "ada"}) as client:
        yield client


@pytest.fixture
def thread(client: httpx.Client) -> str:
    """Return the path of a thread that waits for an answer."""
    name = f"thread-{next(_threads)}"
    body = {"input": {"messages": ["hello"]}, "config": {"configurable": {"thread_id": name}}}
    assert client.post("/letter/invoke", json=body).status_code == 200
    return f"/letter/threads/{name}"


def places(response: httpx.Response) -> list[list[Any]]:
    """Return the places that a 422 names."""
    assert response.status_code == 422, response.text
    body = response.json()
    assert body.keys() == ERROR_FIELDS
    assert body["code"] == "invalid_input"
    return [item["loc"] for item in body["detail"]]


def assert_error(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.json().keys() >= ERROR_FIELDS


def test_a_state_has_the_fields_of_langgraph_and_its_types(client: httpx.Client, thread: str) -> None:
    state = client.get(f"{thread}/state").json()
    assert [message["type"] for message in state["values"]["messages"]] == ["human", "ai"]
    assert state["next"] == ["ask"]
    assert state["values"]["due"] == "2026-01-02"
    assert state["types"] == {
        "/values/due": "date",
        "/tasks/0/interrupts/0": "interrupt",
        "/interrupts/0": "interrupt",
    }
    assert state["interrupts"] == state["tasks"][0]["interrupts"]
    assert state["interrupts"][0]["value"] == "Send it?"
    assert state["checkpoint"].keys() == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    assert (state["metadata"]["step"], state["metadata"]["source"]) == (1, "loop")


def test_a_state_is_found_by_its_checkpoint_in_three_ways(client: httpx.Client, thread: str) -> None:
    parent = client.get(f"{thread}/state").json()["parent_checkpoint"]
    answers = [
        client.get(f"{thread}/state", params={"checkpoint_id": parent["checkpoint_id"]}),
        client.get(f"{thread}/state/{parent['checkpoint_id']}"),
        client.post(f"{thread}/state/checkpoint", json={"checkpoint": parent}),
    ]
    assert [answer.json()["next"] for answer in answers] == [["write"]] * 3
    assert len({answer.content for answer in answers}) == 1


def test_a_history_is_paged_by_before(client: httpx.Client, thread: str) -> None:
    whole = client.get(f"{thread}/history").json()
    assert [state["metadata"]["step"] for state in whole] == [1, 0, -1]
    first = client.get(f"{thread}/history", params={"limit": 2}).json()
    before = first[-1]["checkpoint"]["checkpoint_id"]
    rest = client.get(f"{thread}/history", params={"limit": 2, "before": before}).json()
    assert [*first, *rest] == whole
    assert client.post(f"{thread}/history", json={"before": first[-1]["checkpoint"]}).json() == rest
    assert client.post(f"{thread}/history", json={"metadata": {"step": 0}}).json() == whole[1:2]
    assert client.get(f"{thread}/history", params={"before": whole[-1]["checkpoint"]["checkpoint_id"]}).json() == []


@pytest.mark.parametrize("message", [{"role": "user", "content": "again"}, ["user", "again"], "again"])
def test_an_update_takes_messages_in_all_forms(client: httpx.Client, thread: str, message: Any) -> None:
    answer = client.post(f"{thread}/state", json={"values": {"messages": message}, "as_node": "write"})
    assert answer.json()["checkpoint"].keys() == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    state = client.get(f"{thread}/state").json()
    assert state["checkpoint"] == answer.json()["checkpoint"]
    last = state["values"]["messages"][-1]
    assert (last["type"], last["content"]) == ("human", "again")


def test_an_update_reads_values_by_the_states_types(client: httpx.Client, thread: str) -> None:
    assert client.post(f"{thread}/state", json={"values": {"due": "2027-03-04"}}).status_code == 200
    state = client.get(f"{thread}/state").json()
    assert (state["values"]["due"], state["types"]["/values/due"]) == ("2027-03-04", "date")


UPDATE = {"values": {"notes": ["x"]}}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ([], ["body"]),
        ({}, ["body"]),
        ({**UPDATE, "supersteps": [{"updates": [UPDATE]}]}, ["body"]),
        ({**UPDATE, "colour": 1}, ["body", "colour"]),
        ({"values": 3}, ["body", "values"]),
        ({"values": {"notes": 3}}, ["body", "values", "notes"]),
        ({"values": {"nots": ["x"]}}, ["body", "values", "nots"]),
        ({"values": {"due": "tomorrow"}}, ["body", "values", "due"]),
        ({"values": {"messages": [{"role": "nobody", "content": "x"}]}}, ["body", "values", "messages", 0]),
        ({"values": {"messages": [{"role": "user"}]}}, ["body", "values", "messages", 0, "content"]),
        ({"values": {"__type__": "command", "goto": "nowhere"}}, ["body", "values", "goto"]),
        ({**UPDATE, "as_node": "nobody"}, ["body", "as_node"]),
        ({**UPDATE, "as_node": 3}, ["body", "as_node"]),
        ({**UPDATE, "checkpoint": {"thread_id": "another"}}, ["body", "checkpoint", "thread_id"]),
        ({**UPDATE, "checkpoint": {"checkpoint_id": "\0"}}, ["body", "checkpoint", "checkpoint_id"]),
        ({"values": {"notes": 3}, "as_node": "ask"}, ["body", "values", "notes"]),
        ({"supersteps": []}, ["body", "supersteps"]),
        ({"supersteps": [{"updates": []}]}, ["body", "supersteps", 0, "updates"]),
        (
            {"supersteps": [{"updates": [{**UPDATE, "as_node": "ask"}, {"values": {"notes": 3}, "as_node": "ask"}]}]},
            ["body", "supersteps", 0, "updates", 1, "values", "notes"],
        ),
    ],
)
def test_an_invalid_update_is_refused_and_changes_nothing(
    client: httpx.Client, thread: str, body: Any, place: list[Any]
) -> None:
    before = client.get(f"{thread}/history").content
    assert place in places(client.post(f"{thread}/state", json=body))
    assert client.get(f"{thread}/history").content == before


@pytest.mark.parametrize(
    "key",
    [
        *("__start__", "__end__", "__pregel_tasks", "__interrupt__", "__resume__", "__error__", "__input__", "nope"),
        *("branch:to:ask", "branch:to:write", "__no_writes__", "__return__"),
    ],
)
def test_a_key_outside_of_the_state_is_refused(client: httpx.Client, thread: str, key: str) -> None:
    before, name = client.get(f"{thread}/history").content, thread.rpartition("/")[2]
    command = {"__type__": "command", "update": {key: "ask"}}
    pairs = {"__type__": "command", "update": [["notes", ["x"]], [key, "ask"]]}
    for values in ({key: "ask"}, {"notes": ["x"], key: None}):
        answer = client.post(f"{thread}/state", json={"values": values, "as_node": "write"})
        assert places(answer) == [["body", "values", key]]
    assert places(client.post(f"{thread}/state", json={"values": command})) == [["body", "values", "update", key]]
    for sent in (command, pairs):
        asked = {"input": sent, "config": {"configurable": {"thread_id": name}}}
        assert places(client.post("/letter/invoke", json=asked)) == [["body", "input", "update", key]]
    assert client.get(f"{thread}/history").content == before


def test_an_ambiguous_update_asks_for_the_node(client: httpx.Client) -> None:
    body = {"input": {}, "config": {"configurable": {"thread_id": "twins"}}}
    assert client.post("/twins/invoke", json=body).status_code == 200
    assert places(client.post("/twins/threads/twins/state", json=UPDATE)) == [["body", "as_node"]]


@pytest.mark.parametrize(
    ("query", "place"), [("limit=0", "limit"), (f"limit={MAX_PAGE + 1}", "limit"), ("before=%00", "before")]
)
def test_an_invalid_search_is_refused_with_its_place(client: httpx.Client, thread: str, query: str, place: str) -> None:
    assert places(client.get(f"{thread}/history?{query}")) == [["query", place]]


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("history", {"limit": MAX_PAGE + 1}, ["body", "limit"]),
        ("history", {"metadata": 3}, ["body", "metadata"]),
        ("history", {"before": {"thread_id": "another"}}, ["body", "before", "thread_id"]),
        ("state/checkpoint", {}, ["body", "checkpoint"]),
        ("state/checkpoint", b"{", ["body", 1]),
    ],
)
def test_an_invalid_body_is_refused_with_its_place(
    client: httpx.Client, thread: str, path: str, body: Any, place: list[Any]
) -> None:
    sent: Any = {"content": body, "headers": JSON} if isinstance(body, bytes) else {"json": body}
    assert place in places(client.post(f"{thread}/{path}", **sent))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/state", None),
        ("GET", "/state/some", None),
        ("GET", "/history", None),
        ("POST", "/history", {}),
        ("POST", "/state/checkpoint", {"checkpoint": {}}),
        ("POST", "/state", {**UPDATE, "checkpoint_id": "some"}),
        ("DELETE", "", None),
    ],
)
def test_an_unknown_thread_has_a_404_code_of_its_own(client: httpx.Client, method: str, path: str, body: Any) -> None:
    assert_error(client.request(method, f"/letter/threads/unknown{path}", json=body), 404, "unknown_thread")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/state/some", None),
        ("GET", "/state?checkpoint_ns=some", None),
        ("GET", "/history?checkpoint_ns=some", None),
        ("POST", "/state", {**UPDATE, "checkpoint_id": "some"}),
        ("POST", "/state", {**UPDATE, "checkpoint": {"checkpoint_ns": "some"}}),
    ],
)
def test_an_unknown_checkpoint_has_a_404_code_of_its_own(
    client: httpx.Client, thread: str, method: str, path: str, body: Any
) -> None:
    assert_error(client.request(method, thread + path, json=body), 404, "unknown_checkpoint")


def test_a_deleted_thread_is_unknown_and_can_start_again(client: httpx.Client, thread: str) -> None:
    assert client.delete(thread).status_code == 204
    assert_error(client.get(f"{thread}/state"), 404, "unknown_thread")
    assert client.post(f"{thread}/state", json={**UPDATE, "as_node": "write"}).status_code == 200
    assert client.get(f"{thread}/state").json()["values"] == {"messages": [], "notes": ["x"]}


def test_an_error_of_the_graphs_own_code_hides_its_text(client: httpx.Client) -> None:
    answer = client.post("/broken/threads/one/state", json={**UPDATE, "as_node": "keep"})
    assert_error(answer, 500, "internal")
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/state"),
        ("POST", "/state"),
        ("GET", "/state/x"),
        ("GET", "/history"),
        ("POST", "/history"),
        ("DELETE", ""),
    ],
)
def test_no_route_of_a_thread_skips_the_guard(client: httpx.Client, thread: str, method: str, path: str) -> None:
    assert client.request(method, thread + path, headers={"x-name": ""}).status_code == 401


def test_only_graphs_have_threads(client: httpx.Client) -> None:
    assert client.get("/plain/threads/one/state").status_code == 404
    assert not [path for path in client.get("/openapi.json").json()["paths"] if path.startswith("/plain/threads")]


def test_every_route_is_documented_with_its_answers(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    found = {
        f"{method.upper()} {path.removeprefix('/letter/threads/{thread_id}')}": (
            set(one["responses"]),
            "requestBody" in one,
        )
        for path, methods in document["paths"].items()
        if path.startswith("/letter/threads/")
        for method, one in methods.items()
    }
    errors = {"404", "422", "4XX", "5XX"}
    reading = asking = errors | {"200"}
    assert found == {
        "GET /state": (reading, False),
        "POST /state": (asking | {"409", "503"}, True),
        "GET /state/{checkpoint_id}": (reading, False),
        "POST /state/checkpoint": (asking, True),
        "GET /history": (reading, False),
        "POST /history": (asking, True),
        "DELETE ": (errors | {"204", "409", "503"}, False),
    }
    body = document["paths"]["/letter/threads/{thread_id}/state"]["post"]["requestBody"]
    shared = document["components"]["requestBodies"]
    assert "$ref" not in str(shared[body["$ref"].rpartition("/")[2]] if "$ref" in body else body)


def test_langgraphs_own_client_reads_and_writes_threads(client: httpx.Client, thread: str) -> None:
    name = thread.rpartition("/")[2]
    url = str(client.base_url.join("/letter"))
    with get_sync_client(url=url, headers={"x-name": "ada"}) as langgraph:
        threads = langgraph.threads
        state = threads.get_state(name)
        assert threads.get_state(name, checkpoint=state["checkpoint"], subgraphs=True) == state
        changed = threads.update_state(name, {"notes": ["more"]}, as_node="write", checkpoint=state["checkpoint"])
        assert [one["values"].get("notes") for one in threads.get_history(name, limit=2)] == [["more"], []]
        assert threads.get_state(name)["checkpoint"] == changed["checkpoint"]
        threads.delete(name)
        with pytest.raises(Exception, match="no such thread"):
            threads.get_state(name)


def test_a_message_from_python_comes_back_unchanged(client: httpx.Client, thread: str) -> None:
    message = HumanMessage("typed", id="typed", additional_kwargs={"mark": 1})
    update = {"values": {"messages": [message.model_dump()]}, "as_node": "write"}
    assert client.post(f"{thread}/state", json=update).status_code == 200
    last = client.get(f"{thread}/state").json()["values"]["messages"][-1]
    assert HumanMessage.model_validate(last) == message


@pytest.mark.parametrize(("method", "path", "body"), [("POST", "/state", UPDATE), ("DELETE", "", None)])
def test_a_thread_with_a_live_run_cannot_be_changed_or_deleted(
    client: httpx.Client, method: str, path: str, body: Any
) -> None:
    name = f"busy-{next(_threads)}"
    start = {"input": {}, "config": {"configurable": {"thread_id": name}}}
    run_id = client.post("/waiting/runs", json=start).json()["run_id"]
    answer = client.request(method, f"/waiting/threads/{name}{path}", json=body)
    assert_error(answer, 409, "thread_busy")
    assert answer.json()["holder"] == run_id
    GATE.open()
    assert client.get(f"/runs/{run_id}/output?wait=10").json()["output"] == {"messages": [], "notes": ["waited"]}
    assert client.request(method, f"/waiting/threads/{name}{path}", json=body).is_success


def test_the_thread_of_another_principal_does_not_exist(client: httpx.Client, thread: str) -> None:
    bob, before = {"x-name": "bob"}, client.get(f"{thread}/history").content
    for method, path in (("GET", "/state"), ("GET", "/history"), ("DELETE", "")):
        assert_error(client.request(method, thread + path, headers=bob), 404, "unknown_thread")
    checkpoint = client.get(f"{thread}/state").json()["checkpoint"]
    taken = {**UPDATE, "checkpoint": checkpoint}
    assert_error(client.post(f"{thread}/state", json=taken, headers=bob), 404, "unknown_thread")
    assert client.post(f"{thread}/state", json=UPDATE, headers=bob).status_code == 200
    assert client.get(f"{thread}/history").content == before
    assert len(client.get(f"{thread}/history", headers=bob).json()) == 1
