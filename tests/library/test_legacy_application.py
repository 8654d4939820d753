"""One application behaves the same with LangServe and, with another import, with StreamServe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import langserve
import pytest
from langserve import RemoteRunnable

import streamserve
from tests.frames import events
from tests.library.legacy import ORIGIN, State, make_app
from tests.limits import LIMIT
from tests.servers import serving

ANN, BOB = ({"Authorization": f"Bearer token-of-{name}"} for name in ("ann", "bob"))
HELLO = "/api/v1/hello"


@pytest.fixture(params=[langserve.add_routes, streamserve.add_routes], ids=["langserve", "streamserve"], scope="module")
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with serving(make_app(request.param, State())) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=ANN, timeout=LIMIT) as client:
        yield client


def test_a_known_caller_gets_an_answer(client: httpx.Client) -> None:
    answer = client.post(f"{HELLO}/invoke", json={"input": {"text": "cats"}}, headers={"X-Tenant": "acme"})
    assert answer.json()["output"] == "Hello cats of acme"
    assert set(answer.json()["metadata"]) == {"run_id", "feedback_tokens"}


@pytest.mark.parametrize("path", ["hello/invoke", "hello/stream", "hello/input_schema", "hello/playground/", "whoami"])
def test_the_teams_dependency_refuses_strangers(client: httpx.Client, path: str) -> None:
    method = "POST" if path.endswith(("invoke", "stream")) else "GET"
    refused = client.request(method, f"/api/v1/{path}", json={"input": {"text": "x"}}, headers={"Authorization": "no"})
    assert (refused.status_code, refused.json()["detail"]) == (401, "Who are you?")
    assert refused.headers["WWW-Authenticate"] == "Bearer"


def test_the_stock_client_streams(url: str) -> None:
    hello: Any = RemoteRunnable(f"{url}{HELLO}", headers=ANN)
    assert list(hello.stream({"text": "cats"})) == ["Hello", " ", "cats", " of ", "none"]


def test_a_stream_has_langserves_events(client: httpx.Client) -> None:
    found = events(client.post(f"{HELLO}/stream", json={"input": {"text": "cats"}}))
    assert [kind for kind, _ in found][1:] == ["data"] * 5 + ["end"]


def test_invalid_input_is_a_422_that_names_the_place(client: httpx.Client) -> None:
    answer = client.post(f"{HELLO}/invoke", json={"input": {"text": 5}})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-1] == "text"


def test_schemas_of_the_chain_are_served(client: httpx.Client) -> None:
    assert client.get(f"{HELLO}/input_schema").json()["properties"]["text"]["type"] == "string"
    assert client.get(f"{HELLO}/output_schema").json()["type"] == "string"
    assert client.get(f"{HELLO}/config_schema").status_code == 200


def test_the_playground_knows_its_path(client: httpx.Client) -> None:
    page = client.get(f"{HELLO}/playground/")
    assert page.headers["content-type"].startswith("text/html")


def test_endpoints_can_be_left_out(client: httpx.Client) -> None:
    assert client.post(f"{HELLO}/batch", json={"inputs": []}).status_code == 404
    assert client.post("/open/stream", json={"input": "x"}).status_code == 404
    assert client.post("/open/invoke", json={"input": "x"}, headers={"Authorization": ""}).json()["output"] == "x!"


def test_the_text_of_an_exception_is_hidden(client: httpx.Client) -> None:
    answer = client.post("/api/v1/failing/stream", json={"input": "x"})
    kind, error = events(answer)[-1]
    assert (kind, error["status_code"]) == ("error", 500)
    assert "secret" not in answer.text


def test_other_routes_of_the_team_stay(client: httpx.Client) -> None:
    assert client.get("/ping").json() == {"opened": True, "said": "hi!"}
    assert client.get("/api/v1/whoami").json() == {"user": "ann"}
    assert client.get("/nothing").json() == {"detail": "Not Found"}


@pytest.mark.parametrize("path", ["/ping", f"{HELLO}/input_schema"])
def test_the_teams_middleware_sees_every_answer(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers={"Origin": ORIGIN})
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["X-Process"]


def test_a_browser_may_ask_before_it_posts(client: httpx.Client) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Authorization": ""}
    assert client.options(f"{HELLO}/stream", headers=asked).status_code == 200


def test_openapi_has_the_chains_and_the_teams_routes(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {f"{HELLO}/invoke", f"{HELLO}/stream", "/open/invoke", "/ping", "/api/v1/whoami"} <= set(paths)
    assert f"{HELLO}/batch" not in paths


def test_a_method_that_does_not_exist_is_the_applications_answer(client: httpx.Client) -> None:
    assert client.get(f"{HELLO}/invoke").json() == {"detail": "Method Not Allowed"}


@pytest.mark.parametrize("add_routes", [langserve.add_routes, streamserve.add_routes], ids=["langserve", "streamserve"])
def test_mistakes_in_the_call_are_named(add_routes: Callable[..., None]) -> None:
    app = make_app(add_routes, State())
    chain: Any = langserve.RemoteRunnable("http://127.0.0.1:1/")
    with pytest.raises(TypeError, match="Runnable"):
        add_routes(app, "no chain")
    with pytest.raises(ValueError, match="path"):
        add_routes(app, chain, path="joke")
    with pytest.raises(ValueError, match="already exists"):
        add_routes(app, chain, path="/open")
    with pytest.raises(ValueError, match="nothing"):
        add_routes(app, chain, path="/x", enabled_endpoints=["nothing"])
