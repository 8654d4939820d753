"""The table of authorization: every kind of route by every kind of credential, for keys and for tokens."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from tests.auth.support import app_with, issuing, keys_in, tokens_from
from tests.servers import serving

INPUT = {"messages": [{"type": "human", "content": "hi"}]}
WHO = ["nothing", "a wrong key", "an expired one", "without the scope", "of another principal", "the right one"]

#                                                        nothing wrong expired scope other right
TABLE: dict[tuple[str, str], tuple[int, ...]] = {
    ("POST", "/bot/invoke"):                              (401, 401, 401, 403, 200, 200),
    ("POST", "/bot/c/N4XyA/invoke"):                      (401, 401, 401, 403, 200, 200),
    ("POST", "/bot/batch"):                               (401, 401, 401, 403, 200, 200),
    ("POST", "/bot/stream"):                              (401, 401, 401, 403, 200, 200),
    ("POST", "/bot/stream_log"):                          (401, 401, 401, 403, 200, 200),
    ("POST", "/bot/stream_events"):                       (401, 401, 401, 403, 200, 200),
    ("POST", "/bot/runs"):                                (401, 401, 401, 403, 202, 202),
    ("GET", "/bot/input_schema"):                         (401, 401, 401, 403, 200, 200),
    ("GET", "/bot/output_schema"):                        (401, 401, 401, 403, 200, 200),
    ("GET", "/bot/config_schema"):                        (401, 401, 401, 403, 200, 200),
    ("GET", "/bot/playground/index.html"):                (401, 401, 401, 403, 200, 200),
    ("GET", "/bot/threads/{thread}/state"):               (401, 401, 401, 403, 404, 200),
    ("POST", "/bot/threads/{thread}/state"):              (401, 401, 401, 403, 200, 200),  # begins bob's own
    ("POST", "/bot/threads/{thread}/state/checkpoint"):   (401, 401, 401, 403, 404, 200),
    ("GET", "/bot/threads/{thread}/history"):             (401, 401, 401, 403, 404, 200),
    ("POST", "/bot/threads/{thread}/history"):            (401, 401, 401, 403, 404, 200),
    ("DELETE", "/bot/threads/{thread}"):                  (401, 401, 401, 403, 404, 204),
    ("GET", "/runs/{run}"):                               (401, 401, 401, 403, 404, 200),
    ("GET", "/runs/{run}/stream"):                        (401, 401, 401, 403, 404, 200),
    ("GET", "/runs/{run}/output"):                        (401, 401, 401, 403, 404, 200),
    ("POST", "/runs/{run}/cancel"):                       (401, 401, 401, 403, 404, 200),
    ("POST", "/runs/{run}/share"):                        (401, 401, 401, 403, 404, 201),
    ("DELETE", "/runs/{run}"):                            (401, 401, 401, 403, 404, 204),
    ("POST", "/greeting/invoke"):                         (401, 401, 401, 200, 200, 200),
    ("GET", "/"):                                         (401, 401, 401, 200, 200, 200),
    ("GET", "/docs"):                                     (401, 401, 401, 200, 200, 200),
    ("GET", "/openapi.json"):                             (401, 401, 401, 200, 200, 200),
    ("DELETE", "/session"):                               (401, 401, 401, 204, 204, 204),
    ("GET", "/healthz"):                                  (200, 200, 200, 200, 200, 200),
    ("GET", "/readyz"):                                   (200, 200, 200, 200, 200, 200),
}  # fmt: skip
BODIES: dict[str, Any] = {
    "/bot/batch": {"inputs": [INPUT]},
    "/bot/threads/{thread}/state": {"values": INPUT},
    "/bot/threads/{thread}/state/checkpoint": {"checkpoint": {}},
    "/bot/threads/{thread}/history": {},
    "/runs/{run}/share": {},
    "/greeting/invoke": {"input": {"topic": "cats"}},
}
# Routes without a guard: probes, the static files of the pages, and the sign-in.
PUBLIC = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/static/{name}"), ("POST", "/session")}

_numbers = itertools.count(1)


@dataclass
class Server:
    client: httpx.Client
    credentials: dict[str, str]

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.credentials[who]}"} if who != "nothing" else {}

    def ask(self, who: str, method: str, path: str) -> httpx.Response:
        """Send a request; a path with {run} or {thread} gets a new one of ann's."""
        run = thread = ""
        if "{run}" in path:
            run = self._made("/bot/stream", {"input": INPUT}).headers["Run-Id"]
        if "{thread}" in path:
            thread = f"t{next(_numbers)}"
            self._made("/bot/invoke", {"input": INPUT, "config": {"configurable": {"thread_id": thread}}})
        body = BODIES.get(path, {"input": INPUT}) if method == "POST" else None
        at = path.format(run=run, thread=thread)
        return self.client.request(method, at, json=body, headers=self.headers(who))

    def _made(self, path: str, body: Any) -> httpx.Response:
        return self.client.post(path, json=body, headers=self.headers("the right one")).raise_for_status()


@pytest.fixture(scope="module", params=["keys", "tokens"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with issuing() as issuer:
        if request.param == "keys":
            app, credentials = keys_in(tmp_path_factory.mktemp("keys"))
        else:
            app, credentials = tokens_from(issuer.url)
        with serving(app) as url, httpx.Client(base_url=url, timeout=10) as client:
            yield Server(client, credentials)


@pytest.mark.parametrize(("method", "path"), TABLE, ids=lambda value: str(value))
@pytest.mark.parametrize("who", WHO)
def test_a_cell_of_the_authorization_table(server: Server, method: str, path: str, who: str) -> None:
    expected = TABLE[method, path][WHO.index(who)]
    response = server.ask(who, method, path)
    assert response.status_code == expected, response.text
    if expected in (401, 403, 404):
        codes = {401: "unauthenticated", 403: "forbidden", 404: response.json()["code"]}
        assert response.json()["code"] == codes[expected]
        assert response.json().keys() == {"detail", "code", "retryable", "run_id"}
    if expected == 401:
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert ("invalid_token" in response.headers["WWW-Authenticate"]) == (who != "nothing")


def every_route(app: FastAPI) -> list[tuple[str, str]]:
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert len(routes) == len(app.routes), "something is mounted that this test does not see"
    return [(method, route.path) for route in routes for method in sorted(route.methods or ())]


@pytest.mark.parametrize("query", ["", "?token=x", "?token="])
def test_no_route_answers_without_a_credential(server: Server, query: str) -> None:
    guarded = [pair for pair in every_route(app_with()) if pair not in PUBLIC and ("GET", pair[1]) not in PUBLIC]
    assert len(guarded) > 60
    assert {("GET", "/"), ("GET", "/openapi.json"), ("GET", "/runs/{run_id}/stream")} <= set(guarded)
    for method, path in guarded:
        at = path.replace(":path", "").replace("{", "").replace("}", "")
        # Without a body, because the guard comes before any of it is read.
        response = server.client.request(method, at + query)
        assert response.status_code == 401, (method, path, response.text)


def test_the_key_may_come_in_either_header(server: Server) -> None:
    right = server.credentials["the right one"]
    for headers in ({"X-API-Key": right}, {"Authorization": f"bearer {right}"}):
        assert server.client.get("/bot/input_schema", headers=headers).status_code == 200
    for headers in ({"X-API-Key": "no"}, {"Authorization": f"Basic {right}"}, {"Authorization": "Bearer x"}):
        assert server.client.get("/bot/input_schema", headers=headers).status_code == 401


def test_idempotency_keys_are_separate_per_principal(server: Server) -> None:
    runs = [
        server.client.post(
            "/bot/stream", json={"input": INPUT}, headers={**server.headers(who), "Idempotency-Key": "the same"}
        ).headers["Run-Id"]
        for who in ("the right one", "the right one", "of another principal")
    ]
    assert runs[0] == runs[1] != runs[2]


def test_threads_of_one_name_are_separate_per_principal(server: Server) -> None:
    config = {"configurable": {"thread_id": "ours"}}
    for who, text in (("the right one", "from ann"), ("of another principal", "from bob")):
        said = {"messages": [{"type": "human", "content": text}]}
        server.client.post("/bot/invoke", json={"input": said, "config": config}, headers=server.headers(who))
    state = server.client.get("/bot/threads/ours/state", headers=server.headers("of another principal"))
    assert "from bob" in state.text
    assert "from ann" not in state.text


def test_the_home_page_shows_what_the_caller_may_call(server: Server) -> None:
    pages = {who: server.client.get("/", headers=server.headers(who)).text for who in WHO[3:]}
    assert all("/greeting" in page for page in pages.values())
    assert 'id="bot"' in pages["the right one"]
    assert 'id="bot"' not in pages["without the scope"]


def test_the_document_shows_what_the_caller_may_call(server: Server) -> None:
    found = {who: server.client.get("/openapi.json", headers=server.headers(who)).json() for who in WHO[3:]}
    narrow, whole = found["without the scope"], found["the right one"]
    assert "bot" not in json.dumps(narrow).lower()
    assert narrow["paths"] == {path: of for path, of in whole["paths"].items() if not path.startswith("/bot")}
    schemas = whole["components"]["schemas"]
    assert [name for name in schemas if "bot" in name.lower()]
    assert [name for name in narrow["components"]["schemas"] if "bot" in name.lower()] == []
    assert (
        set(re.findall(r'"#/components/schemas/([^"]*)"', json.dumps(narrow))) <= narrow["components"]["schemas"].keys()
    )
    assert narrow["components"]["schemas"].items() <= schemas.items()
    assert narrow["components"]["securitySchemes"] == whole["components"]["securitySchemes"]


def test_the_page_of_the_document_names_no_chain(server: Server) -> None:
    pages = {server.client.get("/docs", headers=server.headers(who)).text for who in WHO[3:]}
    (page,) = pages
    assert 'data-document="/openapi.json"' in page
    assert "bot" not in page


def test_no_log_or_answer_shows_a_credential(server: Server, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level("DEBUG")
    for who, (method, path) in itertools.product(
        WHO[1:], [("GET", "/"), ("GET", "/runs/{run}"), ("POST", "/bot/invoke")]
    ):
        response = server.ask(who, method, path)
        assert server.credentials[who] not in response.text + str(response.headers)
    for record in caplog.records:
        said = record.getMessage() + str(record.__dict__)
        assert not any(credential in said for credential in server.credentials.values())
    assert any("refused: " in record.getMessage() for record in caplog.records)
