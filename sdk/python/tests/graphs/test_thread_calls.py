"""The requests about threads, and their answers."""

from typing import Any

import httpx
import orjson
import pytest
from streamserve_sdk.codec.serializer import WireSerializer
from streamserve_sdk.errors import ProtocolError, RequestRejected
from streamserve_sdk.graphs import thread_calls
from streamserve_sdk.graphs.thread_calls import PAGE, History
from streamserve_sdk.transport.wire import Reply, Request

URL = "http://test/graph"
REQUEST = Request("GET", f"{URL}/threads/one/state")


def config(**configurable: Any) -> Any:
    return {"configurable": {"thread_id": "one", **configurable}}


def answer(body: Any, status: int = 200) -> Reply:
    return Reply(status, httpx.Headers(), orjson.dumps(body))


def state(number: int) -> dict[str, Any]:
    checkpoint = {"thread_id": "one", "checkpoint_ns": "", "checkpoint_id": str(number)}
    fields = {"values": number, "next": [], "tasks": [], "metadata": {}, "created_at": "now", "interrupts": []}
    return {**fields, "checkpoint": checkpoint, "parent_checkpoint": None}


@pytest.mark.parametrize(
    ("thread_id", "path"),
    [("one", "one"), (7, "7"), ("a/b", "a%2Fb"), ("what?", "what%3F"), ("ä", "%C3%A4"), ("..", "%2E%2E")],
)
def test_a_threads_id_may_be_anything(thread_id: Any, path: str) -> None:
    made = thread_calls.state(URL, {"configurable": {"thread_id": thread_id}}, subgraphs=False)
    assert (made.method, made.url) == ("GET", f"{URL}/threads/{path}/state")


@pytest.mark.parametrize("nameless", [{}, {"configurable": {}}, {"configurable": {"thread_id": ""}}])
def test_a_config_without_a_thread_is_refused(nameless: Any) -> None:
    with pytest.raises(ValueError, match="thread_id"):
        thread_calls.state(URL, nameless, subgraphs=False)


def test_a_checkpoint_and_subgraphs_go_into_the_query() -> None:
    place = config(checkpoint_id="2", checkpoint_ns="sub:1|a", checkpoint_map={"": "1"}, other="x")
    query = httpx.URL(thread_calls.state(URL, place, subgraphs=True).url).params
    assert dict(query) == {"checkpoint_id": "2", "checkpoint_ns": "sub:1|a", "subgraphs": "true"}


def test_several_updates_are_sent_as_supersteps() -> None:
    one = thread_calls.update(URL, WireSerializer(), config(checkpoint_id="2"), [[({"pair": (1, 2)}, "node", None)]])
    assert orjson.loads(one.content or b"") == {
        "values": {"pair": [1, 2]},
        "as_node": "node",
        "task_id": None,
        "types": {"/pair": "tuple"},
        "checkpoint": {"checkpoint_id": "2"},
    }
    several = orjson.loads(thread_calls.update(URL, WireSerializer(), config(), [[(1,)], [(2, "b")]]).content or b"")
    assert [step["updates"][0]["values"] for step in several["supersteps"]] == [1, 2]
    assert "values" not in several


@pytest.mark.parametrize("code", ["unknown_thread", "unknown_checkpoint"])
def test_an_unknown_thread_has_an_empty_state(code: str) -> None:
    missing = answer({"detail": "none", "code": code}, 404)
    found = thread_calls.read_state(WireSerializer(), config(), REQUEST, missing)
    assert (found.values, found.created_at, found.config) == ({}, None, config())


def test_another_404_is_an_error() -> None:
    with pytest.raises(RequestRejected):
        thread_calls.read_state(WireSerializer(), config(), REQUEST, answer({"detail": "Not Found"}, 404))


@pytest.mark.parametrize("body", [[], {}, {"checkpoint": None}])
def test_an_update_without_checkpoint_is_a_protocol_error(body: Any) -> None:
    with pytest.raises(ProtocolError):
        thread_calls.read_update(REQUEST, answer(body))


def test_the_next_page_begins_before_the_last_state() -> None:
    history = History(URL, WireSerializer(), config(), {"step": 1}, None, PAGE + 5)
    pages = [list(range(100, 100 - PAGE, -1)), list(range(80, 75, -1))]
    asked = []
    for page in pages:
        request = history.request()
        assert request is not None
        asked.append(orjson.loads(request.content or b""))
        assert [found.values for found in history.take(request, answer([state(one) for one in page]))] == page
    assert [(one["limit"], one.get("before", {}).get("checkpoint_id")) for one in asked] == [(PAGE, None), (5, "81")]
    assert {"step": 1} == asked[0]["metadata"] == asked[1]["metadata"]
    assert history.request() is None


def test_a_short_page_is_the_last_one() -> None:
    history = History(URL, WireSerializer(), config(), None, None, None)
    request = history.request()
    assert request is not None
    assert len(list(history.take(request, answer([state(1)])))) == 1
    assert history.request() is None


@pytest.mark.parametrize("body", [{}, [1], "states"])
def test_a_history_without_states_is_a_protocol_error(body: Any) -> None:
    history = History(URL, WireSerializer(), config(), None, None, None)
    with pytest.raises(ProtocolError):
        list(history.take(REQUEST, answer(body)))
