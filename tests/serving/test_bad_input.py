"""Bad input is answered with 4xx, one shape and the exact place, on every endpoint."""

from __future__ import annotations

from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.runnables import RunnableLambda

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import Conversation, Topic, echo, echo_graph, greeting, registry_of
from tests.frames import ERROR_FIELDS, config_hash, events
from tests.servers import serving

Place = list[str | int]

ENDPOINTS = ("invoke", "batch", "stream", "stream_log", "stream_events")
EMPTY_HASH = config_hash({})
ROUTES = [f"{prefix}{endpoint}" for prefix in ("", f"c/{EMPTY_HASH}/") for endpoint in ENDPOINTS]
HUMAN = b'{"type": "human", "content": "hi"}'
CONVERSATION = b'{"messages": [' + HUMAN + b"]}"
GOOD = {"greeting": b'{"topic": "cats"}', "chat": CONVERSATION, "graph": CONVERSATION}


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


class Case(NamedTuple):
    """A body and the place that the answer must name."""

    sent: bytes
    place: Place


# The whole body; the number after "body" is the offset at which the parser stopped.
BODIES = {
    "empty": Case(b"", ["body", 0]),
    "invalid JSON": Case(b'{"input": ', ["body", 10]),
    "text after the JSON": Case(b"{} x", ["body", 3]),
    "bad UTF-8": Case(b'{"input": "\xff"}', ["body", 0]),
    "UTF-16": Case('{"input": "x"}'.encode("utf-16"), ["body", 0]),
    "NaN": Case(b'{"input": NaN}', ["body", 10]),
    "infinity": Case(b'{"input": -Infinity}', ["body", 11]),
    "a number of 5,000 digits": Case(b'{"input": ' + b"9" * 5000 + b"}", ["body", 10]),
    "10,000 nested lists": Case(b'{"input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", ["body"]),
    "10,000 nested objects": Case(b'{"input": ' + nested(10_000) + b"}", ["body"]),
    "a lone surrogate": Case(b'{"input": "\\ud800"}', ["body", 11]),
    "null": Case(b"null", ["body"]),
    "a list": Case(b"[]", ["body"]),
    "a text": Case(b'"topic"', ["body"]),
    "a number": Case(b"3", ["body"]),
}

# One input of the chain `greeting`; the place is inside this input.
INPUTS = {
    "null": Case(b"null", []),
    "a text": Case(b'"cats"', []),
    "a list": Case(b"[]", []),
    "missing field": Case(b"{}", ["topic"]),
    "misspelt field": Case(b'{"topc": "cats"}', ["topic"]),
    "null field": Case(b'{"topic": null}', ["topic"]),
    "wrong type": Case(b'{"topic": 3}', ["topic"]),
    "over 64 bits": Case(b'{"topic": 18446744073709551616}', ["topic"]),
    "1,000 digits with an exponent": Case(b'{"topic": 1e308}', ["topic"]),
    "200 nested lists": Case(b"[" * 200 + b"]" * 200, []),
    "200 nested objects": Case(b'{"topic": ' + nested(200) + b"}", ["topic"]),
}

# What stands beside the input.
BESIDE = {
    "config a text": Case(b'"config": "fast"', ["body", "config"]),
    "config a number": Case(b'"config": 3', ["body", "config"]),
    "configurable of the wrong type": Case(b'"config": {"configurable": 3}', ["body", "config", "configurable"]),
    "configurable field of the wrong type": Case(
        b'"config": {"configurable": {"template": 3}}', ["body", "config", "configurable", "template"]
    ),
    "configurable field nested": Case(
        b'"config": {"configurable": {"template": ' + nested(200) + b"}}",
        ["body", "config", "configurable", "template"],
    ),
    "unknown configurable field": Case(
        b'"config": {"configurable": {"template": "On {topic}", "templte": "x"}}',
        ["body", "config", "configurable", "templte"],
    ),
    "thread of a chain that has none": Case(
        b'"config": {"configurable": {"thread_id": "1"}}', ["body", "config", "configurable", "thread_id"]
    ),
    "unknown config key": Case(b'"config": {"temperature": 2}', ["body", "config", "temperature"]),
    "callbacks": Case(b'"config": {"callbacks": []}', ["body", "config", "callbacks"]),
    "tags a text": Case(b'"config": {"tags": "a"}', ["body", "config", "tags"]),
    "metadata a list": Case(b'"config": {"metadata": []}', ["body", "config", "metadata"]),
    "a run name that is a number": Case(b'"config": {"run_name": 3}', ["body", "config", "run_name"]),
    "no concurrency": Case(b'"config": {"max_concurrency": 0}', ["body", "config", "max_concurrency"]),
    "a recursion limit that is a text": Case(
        b'"config": {"recursion_limit": "9"}', ["body", "config", "recursion_limit"]
    ),
    "kwargs a list": Case(b'"kwargs": [1]', ["body", "kwargs"]),
    "kwargs a text": Case(b'"kwargs": "stop"', ["body", "kwargs"]),
    "long config key": Case(b'"config": {"%s": 1}' % (b"k" * 9000), ["body", "config", "k" * 300]),
    "long tag": Case(b'"config": {"tags": ["%s"]}' % (b"x" * 140_000), ["body", "config", "tags"]),
    "long metadata": Case(b'"config": {"metadata": {"a": "%s"}}' % (b"x" * 140_000), ["body", "config", "metadata"]),
    "long run name": Case(b'"config": {"run_name": "%s"}' % (b"x" * 140_000), ["body", "config", "run_name"]),
    "long kwargs key": Case(b'"kwargs": {"%s": {}}' % (b"k" * 9000), ["body", "kwargs", "k" * 300]),
    "unknown kwargs": Case(b'"kwargs": {"temperature": 2}', ["body", "kwargs", "temperature"]),
    "a diff that is a text": Case(b'"kwargs": {"diff": "no"}', ["body", "kwargs", "diff"]),
    "stream_mode for a chain": Case(b'"kwargs": {"stream_mode": "values"}', ["body", "kwargs", "stream_mode"]),
}

# The second message of a conversation; the place is inside this message.
MESSAGES = {
    "a number": Case(b"3", []),
    "null": Case(b"null", []),
    "an empty list": Case(b"[]", []),
    "a list of one": Case(b'["human"]', []),
    "a pair with an unknown role": Case(b'["robot", "hi"]', []),
    "a pair whose content is a number": Case(b'["human", 3]', ["content", "str"]),
    "unknown role": Case(b'{"role": "robot", "content": "hi"}', []),
    "role a number": Case(b'{"role": 3, "content": "hi"}', []),
    "role an object": Case(b'{"role": {"a": 1}, "content": "hi"}', []),
    "a role without content": Case(b'{"role": "user"}', ["content"]),
    "a role with content of the wrong type": Case(b'{"role": "user", "content": {"a": 1}}', ["content", "str"]),
    "a role with nested content": Case(b'{"role": "user", "content": ' + nested(200) + b"}", ["content", "str"]),
    "a name of the wrong type": Case(b'{"role": "user", "content": "hi", "name": [1]}', ["name"]),
    "a tool's role without an id": Case(b'{"role": "tool", "content": "hi"}', []),
    "tool calls that are none": Case(b'{"role": "assistant", "content": "", "tool_calls": [3]}', []),
    "a tool call whose arguments are no JSON": Case(
        b'{"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": '
        b'{"name": "f", "arguments": "{"}}]}',
        [],
    ),
    "neither type nor role": Case(b'{"content": "hi"}', ["role"]),
    "unknown type": Case(b'{"type": "robot", "content": "hi"}', []),
    "type a number": Case(b'{"type": 3, "content": "hi"}', []),
    "no content": Case(b'{"type": "human"}', ["human", "content", "str"]),
    "content an object": Case(b'{"type": "human", "content": {"a": 1}}', ["human", "content", "str"]),
    "content nested": Case(b'{"type": "human", "content": ' + nested(200) + b"}", ["human", "content", "str"]),
    "a tool without an id": Case(b'{"type": "tool", "content": "hi"}', []),
    "a removal of nothing": Case(b'{"type": "remove"}', []),
}

# The whole input of a graph.
STATES = {
    "a text": Case(b'"hi"', []),
    "a list": Case(b"[]", []),
    "no messages": Case(b"{}", ["messages"]),
    "messages null": Case(b'{"messages": null}', ["messages"]),
    "messages an object": Case(b'{"messages": {"a": 1}}', ["messages", "role"]),
    "messages a number": Case(b'{"messages": 3}', ["messages"]),
    "a command for a parent": Case(b'{"__type__": "command", "graph": "__parent__"}', ["graph"]),
    "a command with an unknown field": Case(b'{"__type__": "command", "resumes": 1}', ["resumes"]),
    "a command that says nothing": Case(b'{"__type__": "command"}', []),
    "a command that resumes with null": Case(b'{"__type__": "command", "resume": null}', []),
    "a command that goes to a number": Case(b'{"__type__": "command", "goto": 3}', ["goto"]),
    "a command that goes to an unknown node": Case(b'{"__type__": "command", "goto": ["answer", "x"]}', ["goto", 1]),
    "a command that sends to an unknown node": Case(
        b'{"__type__": "command", "goto": {"node": "x", "arg": 1}}', ["goto"]
    ),
    "a command that goes to an object": Case(b'{"__type__": "command", "goto": [{"node": "answer"}]}', ["goto", 0]),
    "a command that updates no field": Case(b'{"__type__": "command", "update": "hi"}', ["update"]),
    "a command that updates with a bad message": Case(
        b'{"__type__": "command", "update": {"messages": ["hi", {"role": "robot", "content": "x"}]}}',
        ["update", "messages", 1],
    ),
    "a command that updates with bad pairs": Case(
        b'{"__type__": "command", "update": [["messages", [3]]]}', ["update", "messages", 0]
    ),
}

GRAPH_BESIDE = {
    "unknown mode": Case(b'"kwargs": {"stream_mode": "tokens"}', ["body", "kwargs", "stream_mode"]),
    "mode not allowed": Case(b'"kwargs": {"stream_mode": "debug"}', ["body", "kwargs", "stream_mode"]),
    "no mode": Case(b'"kwargs": {"stream_mode": []}', ["body", "kwargs", "stream_mode"]),
    "mode nested": Case(b'"kwargs": {"stream_mode": ["values", ["values"]]}', ["body", "kwargs", "stream_mode"]),
    "mode an object": Case(b'"kwargs": {"stream_mode": {"a": 1}}', ["body", "kwargs", "stream_mode"]),
    "thread a fraction": Case(
        b'"config": {"configurable": {"thread_id": 3.5}}', ["body", "config", "configurable", "thread_id"]
    ),
    "thread a boolean": Case(
        b'"config": {"configurable": {"thread_id": true}}', ["body", "config", "configurable", "thread_id"]
    ),
    "unknown configurable field": Case(
        b'"config": {"configurable": {"thread_id": "1", "thraed_id": "2"}}',
        ["body", "config", "configurable", "thraed_id"],
    ),
    "unknown config key": Case(b'"config": {"thread_id": "1"}', ["body", "config", "thread_id"]),
    "unknown kwargs": Case(b'"kwargs": {"control": {}}', ["body", "kwargs", "control"]),
}

HASHES = {
    "broken": Case(b"%20%00%C3%BC", []),
    "cut": Case(config_hash({"configurable": {"template": "On {topic}"}})[:9].encode(), []),
    "not JSON": Case(config_hash("no json").encode(), []),
    "a list": Case(config_hash([]).encode(), []),
    "null": Case(config_hash("null").encode(), []),
    "10,000 nested lists": Case(config_hash("[" * 10_000 + "]" * 10_000).encode(), []),
    "250,000 characters": Case(config_hash({"configurable": {"template": "{:" * 125_000}}).encode(), []),
    "wrong type": Case(
        config_hash({"configurable": {"template": 3}}).encode(), ["path", "config_hash", "configurable", "template"]
    ),
    "unknown field": Case(
        config_hash({"configurable": {"templte": "x"}}).encode(), ["path", "config_hash", "configurable", "templte"]
    ),
    "unknown key": Case(config_hash({"temperature": 2}).encode(), ["path", "config_hash", "temperature"]),
    "configurable a number": Case(config_hash({"configurable": 3}).encode(), ["path", "config_hash", "configurable"]),
}


def each(cases: dict[str, Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


each_route = pytest.mark.parametrize("route", ROUTES, ids=[route.replace(EMPTY_HASH, "hash") for route in ROUTES])
each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS)
each_conversation = pytest.mark.parametrize("chain", ["chat", "graph"])


@pytest.fixture(scope="module")
def app() -> FastAPI:
    chains = {
        "greeting": Chain(runnable=greeting(), input_type=Topic),
        "chat": Chain(runnable=RunnableLambda(echo), input_type=Conversation, output_type=str),
        "graph": Chain(runnable=echo_graph()),
    }
    return create_app(registry_of(chains))


def post(client: httpx.Client, path: str, body: bytes) -> httpx.Response:
    return client.post(path, content=body, headers={"Content-Type": "application/json"})


def with_input(route: str, chain: str, given: bytes, beside: bytes = b"") -> bytes:
    """A body whose second input is the given one where the route takes several."""
    rest = b", " + beside if beside else b""
    if route.endswith("batch"):
        return b'{"inputs": [' + GOOD[chain] + b", " + given + b"]" + rest + b"}"
    return b'{"input": ' + given + rest + b"}"


def place_of_input(route: str, *inside: str | int) -> Place:
    return ["body", *(("inputs", 1) if route.endswith("batch") else ("input",)), *inside]


def assert_refused(response: httpx.Response, *, place: Place | None = None, status: int = 422) -> None:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == ERROR_FIELDS
    assert body["retryable"] is False
    assert (
        body["code"] == {422: "invalid_input", 400: "bad_request", 404: "not_found", 405: "method_not_allowed"}[status]
    )
    if place is not None:
        assert all(set(item) == {"loc", "msg", "type"} and item["msg"] for item in body["detail"])
        assert place in [item["loc"] for item in body["detail"]]


@each_route
@each(BODIES)
def test_a_body_that_is_no_request(client: httpx.Client, route: str, case: Case) -> None:
    assert_refused(post(client, f"/greeting/{route}", case.sent), place=case.place)


@each_route
def test_a_body_without_its_input(client: httpx.Client, route: str) -> None:
    field = "inputs" if route.endswith("batch") else "input"
    assert_refused(post(client, f"/greeting/{route}", b'{"config": {}}'), place=["body", field])


@each_route
@each(INPUTS)
def test_an_input_that_does_not_fit(client: httpx.Client, route: str, case: Case) -> None:
    response = post(client, f"/greeting/{route}", with_input(route, "greeting", case.sent))
    assert_refused(response, place=place_of_input(route, *case.place))


@each_route
@each(BESIDE)
def test_a_config_or_argument_that_does_not_fit(client: httpx.Client, route: str, case: Case) -> None:
    response = post(client, f"/greeting/{route}", with_input(route, "greeting", GOOD["greeting"], case.sent))
    assert_refused(response, place=case.place)


@each_conversation
@each_route
@each(MESSAGES)
def test_a_message_that_does_not_fit(client: httpx.Client, chain: str, route: str, case: Case) -> None:
    given = b'{"messages": [' + HUMAN + b", " + case.sent + b"]}"
    response = post(client, f"/{chain}/{route}", with_input(route, chain, given))
    assert_refused(response, place=place_of_input(route, "messages", 1, *case.place))


@each_route
@each(STATES)
def test_a_state_that_does_not_fit_a_graph(client: httpx.Client, route: str, case: Case) -> None:
    response = post(client, f"/graph/{route}", with_input(route, "graph", case.sent))
    assert_refused(response, place=place_of_input(route, *case.place))


@each_route
@each(GRAPH_BESIDE)
def test_a_config_or_argument_that_does_not_fit_a_graph(client: httpx.Client, route: str, case: Case) -> None:
    response = post(client, f"/graph/{route}", with_input(route, "graph", GOOD["graph"], case.sent))
    assert_refused(response, place=case.place)


@each_endpoint
@each(HASHES)
def test_a_config_hash_that_does_not_fit(client: httpx.Client, endpoint: str, case: Case) -> None:
    path = f"/greeting/c/{case.sent.decode()}/{endpoint}"
    response = post(client, path, with_input(endpoint, "greeting", GOOD["greeting"]))
    if case.place:
        assert_refused(response, place=case.place)
    else:
        assert_refused(response, status=400)


@pytest.mark.parametrize("page", ["input_schema", "output_schema", "config_schema", "playground/"])
@each(HASHES)
def test_a_config_hash_that_does_not_fit_a_schema_or_page(client: httpx.Client, page: str, case: Case) -> None:
    response = client.get(f"/greeting/c/{case.sent.decode()}/{page}")
    if case.place:
        assert_refused(response, place=case.place)
    else:
        assert_refused(response, status=400)


@each_route
def test_an_unknown_chain(client: httpx.Client, route: str) -> None:
    assert_refused(post(client, f"/nothing/{route}", with_input(route, "greeting", b"{}")), status=404)


@each_route
def test_a_wrong_method(client: httpx.Client, route: str) -> None:
    assert_refused(client.put(f"/greeting/{route}", content=b"{}"), status=405)


@pytest.mark.parametrize("sent", [b'{"inputs": 3}', b'{"inputs": {"topic": "cats"}}', b'{"inputs": null}'])
@pytest.mark.parametrize("prefix", ["", f"c/{EMPTY_HASH}/"], ids=["plain", "hash"])
def test_inputs_that_are_no_list(client: httpx.Client, prefix: str, sent: bytes) -> None:
    assert_refused(post(client, f"/greeting/{prefix}batch", sent), place=["body", "inputs"])


def test_every_bad_input_of_a_batch_is_named(client: httpx.Client) -> None:
    response = post(client, "/greeting/batch", b'{"inputs": [{"topic": 1}, {"topic": "cats"}, {}, null]}')
    assert [item["loc"] for item in response.json()["detail"]] == [
        ["body", "inputs", 0, "topic"],
        ["body", "inputs", 2, "topic"],
        ["body", "inputs", 3],
    ]


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (b"[{}, 3]", ["body", "config", 1]),
        (b"[{}, null]", ["body", "config", 1]),
        (b'[{}, {"configurable": {"templte": ""}}]', ["body", "config", 1, "configurable", "templte"]),
        (b'[{}, {"temperature": 2}]', ["body", "config", 1, "temperature"]),
        (b'[{}, {"configurable": {"template": 3}}]', ["body", "config", 1, "configurable", "template"]),
    ],
)
def test_a_config_of_a_batch_that_does_not_fit(client: httpx.Client, config: bytes, place: Place) -> None:
    sent = with_input("batch", "greeting", GOOD["greeting"], b'"config": ' + config)
    assert_refused(post(client, "/greeting/batch", sent), place=place)


def test_a_batch_with_another_number_of_configs(client: httpx.Client) -> None:
    sent = with_input("batch", "greeting", GOOD["greeting"], b'"config": [{}]')
    assert_refused(post(client, "/greeting/batch", sent))


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in ENDPOINTS if endpoint != "batch"])
def test_a_list_of_configs_is_for_batches_only(client: httpx.Client, endpoint: str) -> None:
    sent = with_input(endpoint, "greeting", GOOD["greeting"], b'"config": [{}]')
    assert_refused(post(client, f"/greeting/{endpoint}", sent), place=["body", "config"])


@pytest.mark.parametrize("endpoint", ["stream_log", "stream_events"])
def test_a_filter_that_does_not_fit(client: httpx.Client, endpoint: str) -> None:
    sent = with_input(endpoint, "greeting", GOOD["greeting"], b'"include_names": 3')
    assert_refused(post(client, f"/greeting/{endpoint}", sent), place=["body", "include_names"])


@each_endpoint
@pytest.mark.parametrize("given", [b"null", b'{"__type__": "command", "resume": 1}'])
def test_a_graph_that_has_nothing_to_go_on_from(client: httpx.Client, endpoint: str, given: bytes) -> None:
    sent = b'{"inputs": [%s]}' if endpoint == "batch" else b'{"input": %s}'
    assert_refused(post(client, f"/graph/{endpoint}", sent % given), place=["body"])


@each_route
@pytest.mark.parametrize("beside", [b'"config": null', b'"config": {}', b'"kwargs": null', b'"kwargs": {}', b'"x": 1'])
def test_null_counts_as_absent_beside_the_input(client: httpx.Client, route: str, beside: bytes) -> None:
    response = post(client, f"/greeting/{route}", with_input(route, "greeting", GOOD["greeting"], beside))
    assert response.status_code == 200
    assert "About cats." in response.text


@each_route
def test_200_levels_of_valid_nesting_are_served(client: httpx.Client, route: str) -> None:
    given = b'{"messages": [{"type": "human", "content": "hi", "additional_kwargs": ' + nested(200) + b"}]}"
    response = post(client, f"/chat/{route}", with_input(route, "chat", given))
    assert response.status_code == 200, response.text
    assert "hi" in response.text


def test_the_next_request_on_the_same_connection_is_served(app: FastAPI) -> None:
    ports: set[Any] = set()

    def note_port(response: httpx.Response) -> None:
        ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))

    hooks: dict[str, Any] = {"response": [note_port]}
    with serving(app) as url, httpx.Client(base_url=url, event_hooks=hooks) as client:
        for route in ROUTES:
            for case in BODIES.values():
                assert post(client, f"/greeting/{route}", case.sent).status_code == 422
                served = client.post("/greeting/stream", json={"input": {"topic": "cats"}})
                assert events(served)[-1][0] == "end"
    assert len(ports) == 1, "the connection was closed and made anew"
