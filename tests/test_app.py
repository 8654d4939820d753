"""create_app: the chains as one application, its OpenAPI document and its errors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.app import create_app, create_default_app
from streamserve.catalog.registry import BrokenModules, discover
from streamserve.fast_paths import noted
from streamserve.private_names.langchain_core import WATCHED
from streamserve.settings import Settings
from tests.conftest import Team
from tests.fakes import Conversation, Topic, echo, echo_graph, greeting, registry_of
from tests.frames import ERROR_FIELDS, events
from tests.servers import serving

ENDPOINTS = ("invoke", "batch", "stream", "stream_log", "stream_events")
SCHEMAS = ("input_schema", "output_schema", "config_schema")
SECRET = "sk-secret"
WORKING = """
    from langchain_core.runnables import RunnableLambda
    from streamserve import Chain
    chain = Chain(runnable=RunnableLambda(lambda given: given))
"""


async def fail(given: Any) -> str:
    raise RuntimeError(SECRET)


async def make_what_has_no_json(given: Any) -> Any:
    return object()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    chains = {
        "greeting": Chain(runnable=greeting(), input_type=Topic, examples=[{"topic": "cats"}]),
        "graph": Chain(runnable=echo_graph(), examples=[{"messages": [{"type": "human", "content": "hi"}]}]),
        "chat": Chain(runnable=RunnableLambda(echo), input_type=Conversation, output_type=str),
        "hidden": Chain(runnable=greeting(), input_type=Topic, playground=None),
        "failing": Chain(runnable=RunnableLambda(fail), input_type=Topic),
        "odd": Chain(runnable=RunnableLambda(make_what_has_no_json), input_type=Topic),
    }
    return create_app(registry_of(chains))


# Start


def test_a_broken_module_stops_the_start_with_one_report(team: Team) -> None:
    bad = team.write("bad.py", "import no_such_module\n")
    worse = team.write("worse.py", "x = 1\nraise ValueError('no')\n")
    team.write("joke.py", WORKING)
    with pytest.raises(BrokenModules) as raised:
        create_app(team.discover())
    assert f"{bad}:1: ModuleNotFoundError" in str(raised.value)
    assert f"{worse}:2: ValueError: no" in str(raised.value)


def test_development_serves_the_chains_that_load(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    bad = team.write("bad.py", "import no_such_module\n")
    team.write("joke.py", WORKING)
    with serving(create_app(team.discover(), Settings(dev=True))) as url, httpx.Client(base_url=url) as client:
        assert client.post("/joke/invoke", json={"input": "hi"}).json()["output"] == "hi"
        assert client.get("/bad/input_schema").status_code == 404
    assert f"left out: {bad}:1: ModuleNotFoundError" in caplog.text


def test_settings_serve_a_folder_without_a_server_file(team: Team) -> None:
    team.write("joke.py", WORKING)
    with serving(create_default_app()) as url:
        assert httpx.post(f"{url}/joke/invoke", json={"input": "hi"}).json()["output"] == "hi"


def test_an_application_without_chains_is_healthy() -> None:
    with serving(create_app(registry_of({}))) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(f"{url}/").status_code == 200


def test_the_server_is_alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").json() == {"status": "ready"}


def test_verbose_readiness_names_the_fast_paths(client: httpx.Client) -> None:
    assert client.get("/readyz?verbose").json() == {
        "status": "ready",
        "fast_paths": {path.name: "on" for path in noted()},
    }
    assert {f"langchain {piece}" for piece in WATCHED} | {"message lines"} <= {path.name for path in noted()}


def test_the_home_page_names_every_chain(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert all(name in page.text for name in ("greeting", "graph", "chat", "hidden"))


# Routes


@pytest.mark.parametrize("name", ["greeting", "graph", "chat"])
def test_a_chain_has_a_playground(client: httpx.Client, name: str) -> None:
    page = client.get(f"/{name}/playground/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", ["playground", "playground/", "c/N4XyA/playground/", "playground/index.html"])
def test_a_chain_can_have_no_playground(client: httpx.Client, path: str) -> None:
    assert client.get(f"/hidden/{path}").status_code == 404
    assert client.post("/hidden/invoke", json={"input": {"topic": "cats"}}).status_code == 200


def test_a_playground_serves_no_file_outside_its_folder(client: httpx.Client) -> None:
    assert client.get("/greeting/playground/..%2f..%2fversion.py").status_code == 404


@pytest.mark.parametrize("path", ["playground/nothing.js", "c/N4XyA/playground/nothing.js"])
def test_a_missing_file_of_a_playground_is_a_typed_answer(client: httpx.Client, path: str) -> None:
    assert client.get(f"/greeting/{path}").json()["code"] == "not_found"


# Failures


def test_the_text_of_a_chains_error_stays_in_the_log(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    for path, body in (("invoke", {"input": {"topic": "x"}}), ("batch", {"inputs": [{"topic": "x"}]})):
        response = client.post(f"/failing/{path}", json=body)
        assert response.status_code == 500
        assert set(response.json()) == ERROR_FIELDS
        assert response.json()["code"] == "internal"
        assert SECRET not in response.text
    assert SECRET in caplog.text


@pytest.mark.parametrize("endpoint", ["stream", "stream_log", "stream_events"])
@pytest.mark.parametrize("name", ["failing", "odd"])
def test_a_failing_stream_ends_in_one_error(client: httpx.Client, name: str, endpoint: str) -> None:
    response = client.post(f"/{name}/{endpoint}", json={"input": {"topic": "x"}})
    found = events(response)
    assert [kind for kind, _ in found].count("error") == 1
    kind, data = found[-1]
    assert (kind, data["status_code"]) == ("error", 500)
    assert SECRET not in response.text


def test_an_output_without_a_json_form_is_named(client: httpx.Client) -> None:
    response = client.post("/odd/invoke", json={"input": {"topic": "x"}})
    assert (response.status_code, response.json()["code"]) == (500, "invalid_output")


def test_a_failure_keeps_the_connection(app: FastAPI) -> None:
    ports: set[Any] = set()

    def note_port(response: httpx.Response) -> None:
        ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))

    hooks: dict[str, Any] = {"response": [note_port]}
    with serving(app) as url, httpx.Client(base_url=url, event_hooks=hooks) as client:
        for _ in range(10):
            assert client.post("/failing/invoke", json={"input": {"topic": "x"}}).status_code == 500
            assert client.post("/greeting/invoke", json={"input": {"topic": "x"}}).status_code == 200
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/nothing/invoke", 404, "not_found"),
        ("GET", "/greeting/invoke", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_plain_http_errors_have_the_same_shape(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert set(response.json()) == ERROR_FIELDS


# OpenAPI


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    with serving(app) as url:
        answer = httpx.get(f"{url}/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_openapi_names_the_path_that_a_proxy_serves(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app, root_path="/ai")
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/ai/openapi.json")).json()["servers"] == [{"url": "/ai"}]


def test_openapi_names_every_endpoint_of_every_chain(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    for name in ("greeting", "graph", "chat", "hidden"):
        assert all("post" in document["paths"][f"/{name}/{endpoint}"] for endpoint in ENDPOINTS)
        assert all("get" in document["paths"][f"/{name}/{schema}"] for schema in SCHEMAS)
    hashed = document["paths"]["/{chain}/c/{config_hash}/{endpoint}"]["post"]
    parameters = {found["name"]: found for found in (_found(document, item) for item in hashed["parameters"])}
    assert {*ENDPOINTS, "runs"} == {*parameters["endpoint"]["schema"]["enum"]}
    assert {"/healthz", "/readyz"} <= set(document["paths"])


def test_openapi_says_which_answers_are_event_streams(document: dict[str, Any]) -> None:
    for path, operation in _operations(document):
        endpoint = path.rpartition("/")[2]
        if endpoint in ENDPOINTS and not path.startswith("/runs/"):
            kind = "text/event-stream" if endpoint.startswith("stream") else "application/json"
            assert set(_found(document, operation["responses"]["200"])["content"]) == {kind}, path


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    counted = Counter(operation["operationId"] for _, operation in _operations(document))
    assert [name for name, times in counted.items() if times > 1] == []


def test_every_parameter_of_a_path_is_described(document: dict[str, Any]) -> None:
    for path, operation in _operations(document):
        parameters = [_found(document, item) for item in operation.get("parameters", ())]
        described = {item["name"] for item in parameters if item["in"] == "path"}
        assert described == {part[1:-1] for part in path.split("/") if part.startswith("{")}, path


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    references = list(_references(document))
    assert references
    for reference in references:
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("name", "example"), [("greeting", '"cats"'), ("graph", '"hi"')])
def test_examples_are_in_the_schema_of_the_body(
    document: dict[str, Any], name: str, example: str, endpoint: str
) -> None:
    body = _body(document, f"/{name}/{endpoint}")
    schemas = json.dumps(list(_reached(document, body)))
    assert example in schemas


def test_models_of_one_name_in_two_chains_stay_apart() -> None:
    def chain(kind: Any) -> Chain:
        class Input(BaseModel):
            value: kind

        return Chain(runnable=RunnableLambda(str), input_type=Input)

    app = create_app(registry_of({"numbers": chain(int), "words": chain(str)}))
    document = app.openapi()
    with serving(app) as url, httpx.Client(base_url=url) as client:
        assert client.post("/words/invoke", json={"input": {"value": "a"}}).status_code == 200
        assert client.post("/numbers/invoke", json={"input": {"value": "a"}}).status_code == 422
    for name, kind in (("numbers", "integer"), ("words", "string")):
        body = _body(document, f"/{name}/invoke")
        values = [
            s["properties"]["value"]["type"] for s in _reached(document, body) if "value" in s.get("properties", {})
        ]
        assert values == [kind]


def test_chains_whose_outputs_are_typed_dicts_stay_apart() -> None:
    class First(TypedDict):
        one: str

    class Second(TypedDict):
        two: int

    def chain(make: Any, kind: Any) -> Chain:
        return Chain(runnable=RunnableLambda(str) | RunnableLambda(make), input_type=Topic, output_type=kind)

    chains = {"first": chain(lambda _: {"one": "a"}, First), "second": chain(lambda _: {"two": 2}, Second)}
    with serving(create_app(registry_of(chains))) as url, httpx.Client(base_url=url) as client:
        outputs = [client.post(f"/{name}/invoke", json={"input": {"topic": "x"}}).json()["output"] for name in chains]
    assert outputs == [{"one": "a"}, {"two": 2}]


def test_the_chains_of_the_repository_have_a_whole_document() -> None:
    registry = discover("chains").require_whole()
    paths = create_app(registry).openapi()["paths"]
    assert {f"{entry.path}/stream" for entry in registry.chains.values()} <= set(paths)


def _found(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return a part of the document, or the component that it refers to."""
    node: Any = document
    for name in part["$ref"].removeprefix("#/").split("/") if "$ref" in part else ():
        node = node[name]
    return node if "$ref" in part else part


def _body(document: dict[str, Any], path: str) -> Any:
    return _found(document, document["paths"][path]["post"]["requestBody"])["content"]["application/json"]["schema"]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    for value in node if isinstance(node, list) else ():
        yield from _references(value)


def _reached(document: dict[str, Any], start: Any) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    waiting = [*_references(start)]
    while waiting:
        if (reference := waiting.pop()) not in seen:
            seen.add(reference)
            schema = document["components"]["schemas"][reference.rpartition("/")[2]]
            waiting.extend(_references(schema))
            yield schema
