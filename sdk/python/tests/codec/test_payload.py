"""The bodies of calls and of answers."""

from uuid import UUID

import httpx
import orjson
import pytest
from langchain_core.callbacks import CallbackManager
from langchain_core.runnables.config import ensure_config
from streamserve_sdk import ProtocolError, RunTimeout, WireSerializer
from streamserve_sdk.codec.payload import answer, body, for_server
from streamserve_sdk.transport.wire import Reply, Request

REQUEST = Request("POST", "http://user:s3cret@test/joke/invoke")


def test_local_parts_of_a_config_are_not_sent():
    config = {
        "tags": ["t"],
        "metadata": {"a": 1, "lock": object()},
        "callbacks": [object()],
        "run_id": object(),
        "run_name": "n",
        "recursion_limit": 7,
        "max_concurrency": None,
        "configurable": {
            "thread_id": "1",
            "checkpoint_id": "c",
            "send": print,
            "deep": [{"f": print, "x": 1}],
        },
    }
    assert for_server(config) == {
        "tags": ["t"],
        "metadata": {"a": 1},
        "run_name": "n",
        "recursion_limit": 7,
        "configurable": {"thread_id": "1", "checkpoint_id": "c", "deep": [{"x": 1}]},
    }


def test_the_keys_of_a_surrounding_graph_are_not_sent():
    config = {"configurable": {"__pregel_task_id": "t", "checkpoint_ns": "n", "thread_id": "1"}}
    assert for_server(config) == {"configurable": {"thread_id": "1", "__pregel_nested": True}}


def test_defaults_are_sent_for_a_surrounding_chain_only():
    filled = ensure_config({"configurable": {"a": 1}})
    assert for_server(filled) == {"configurable": {"a": 1}}
    assert for_server({**filled, "callbacks": CallbackManager([])}) == {"configurable": {"a": 1}}
    nested = {**filled, "callbacks": CallbackManager([], parent_run_id=UUID(int=1))}
    assert for_server(nested) == {"tags": [], "metadata": {}, "recursion_limit": 25, "configurable": {"a": 1}}


def test_a_thread_may_be_named_by_a_uuid():
    sent = orjson.loads(body(WireSerializer(), "input", None, {"configurable": {"thread_id": UUID(int=1)}}))
    assert sent["config"]["configurable"] == {"thread_id": "00000000-0000-0000-0000-000000000001"}


def test_the_serializer_writes_the_input():
    data = body(WireSerializer(), "inputs", [{1}], [{"tags": ["a"]}], kwargs={"stream_mode": "values"})
    assert orjson.loads(data) == {
        "inputs": [[1]],
        "config": [{"tags": ["a"]}],
        "kwargs": {"stream_mode": "values"},
        "types": {"/0": "set"},
    }


def test_a_serializer_of_the_caller_sends_no_types():
    class Own(WireSerializer.__mro__[1]):
        def dumps(self, obj):
            return b'"own"'

    assert orjson.loads(body(Own(), "input", {1}, {})) == {"input": "own", "config": {}}


@pytest.mark.parametrize("text", [b"[]", b"{}", b"<p>", b""])
def test_an_answer_without_output_is_a_protocol_error(text):
    with pytest.raises(ProtocolError) as caught:
        answer(WireSerializer(), REQUEST, Reply(200, httpx.Headers(), text))
    assert "s3cret" not in str(caught.value)


def test_a_rejection_has_the_class_of_its_code_and_a_run_id():
    text = b'{"detail":"too late","code":"timeout","retryable":true}'
    with pytest.raises(RunTimeout, match="too late") as caught:
        answer(WireSerializer(), REQUEST, Reply(504, httpx.Headers({"run-id": "r9"}), text))
    error = caught.value
    assert (error.code, error.retryable, error.run_id, error.response.status_code) == (
        "timeout",
        True,
        "r9",
        504,
    )
    assert "s3cret" not in f"{error} {error.request.url} {error.response.url}"


def test_types_beside_an_output_are_read():
    reply = Reply(200, httpx.Headers(), b'{"output":[[1],"AP8="],"types":{"/0":"set","/1":"bytes"}}')
    assert answer(WireSerializer(), REQUEST, reply).output == [{1}, b"\x00\xff"]


def test_the_caller_of_a_surrounding_server_stays_there() -> None:
    own = {"langgraph_auth_user": {"identity": "ann"}, "langgraph_auth_user_id": "ann", "streamserve_principal": "ann"}
    assert for_server({"configurable": {**own, "model": "small"}}) == {"configurable": {"model": "small"}}
