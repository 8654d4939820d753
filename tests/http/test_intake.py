"""Bounds of a request: too large, too slow or not declared as JSON is refused, and the caller learns why."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from streamserve_sdk import RemoteRunnable

from streamserve import Chain
from streamserve.app import create_app
from streamserve.http import protocol as http_protocol
from streamserve.http.intake import MAX_QUERY_FIELDS
from streamserve.http.protocol import MAX_HEAD, BoundedHead
from streamserve.settings import Settings
from tests.fakes import GatedModel, Topic, greeting, registry_of
from tests.faults.attacks import BOMB, request
from tests.frames import ERROR_FIELDS, config_hash
from tests.limits import LIMIT
from tests.servers import serving

BODY = {"input": {"topic": "cats"}}
BOUNDS: dict[str, Any] = {
    "max_body_bytes": 50_000,
    "max_header_bytes": 5_000,
    "body_timeout": 0.3,
    "max_json_depth": 10,
    "max_json_items": 100,
    "max_batch": 3,
    "max_config_hash": 3500,
    "cors_origins": "https://app.example.com, https://b.example.com/",
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = create_app(
        registry_of({"greeting": Chain(runnable=greeting(), input_type=Topic)}), Settings(**BOUNDS, _env_file=None)
    )
    with serving(app, http=BoundedHead) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert set(answer.json()) == ERROR_FIELDS


def conversation(url: str, *parts: bytes) -> bytes:
    """Return what the server answers to raw bytes until it closes the connection."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=LIMIT) as connection:
        for part in parts:
            connection.sendall(part)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_body_that_is_declared_too_large_is_refused_unread(url: str) -> None:
    answer = conversation(url, request("/greeting/invoke", b"", declared=10**12))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer


def test_a_body_that_grows_too_large_is_refused_while_it_arrives(client: httpx.Client) -> None:
    parts = (b" " * 10_000 for _ in range(10))
    headers = {"Content-Type": "application/json"}
    assert_refused(client.post("/greeting/invoke", content=parts, headers=headers), 413, "body_too_large")


def test_a_body_as_large_as_it_may_be_is_taken(client: httpx.Client) -> None:
    text = "c" * (BOUNDS["max_body_bytes"] - len('{"input":{"topic":""}}'))
    answer = client.post("/greeting/invoke", json={"input": {"topic": text}})
    assert answer.status_code == 200
    assert len(answer.request.content) == BOUNDS["max_body_bytes"]


@pytest.mark.parametrize("endpoint", ["invoke", "stream"])
def test_a_body_that_does_not_come_is_given_up(url: str, endpoint: str) -> None:
    answer = conversation(url, request(f"/greeting/{endpoint}", b'{"input"', declared=40))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"body_timeout"' in answer
    assert b'"retryable":true' in answer


def test_headers_that_are_too_large_are_refused(client: httpx.Client) -> None:
    answer = client.post("/greeting/invoke", json=BODY, headers={"X-Long": "a" * BOUNDS["max_header_bytes"]})
    assert_refused(answer, 431, "headers_too_large")


@pytest.mark.parametrize(("more", "status"), [(0, 404), (1, 400)])
def test_a_query_may_have_as_many_fields_as_its_bound(client: httpx.Client, more: int, status: int) -> None:
    answer = client.get(f"/runs/x?{'&'.join(['a=b'] * (MAX_QUERY_FIELDS + more))}")
    assert answer.status_code == status
    assert not more or answer.json()["code"] == "bad_request"


def test_a_head_that_never_ends_closes_the_connection(url: str) -> None:
    assert conversation(url, b"GET / HTTP/1.1\r\nX-Long: ", b"a" * (MAX_HEAD + 1)).startswith(b"HTTP/1.1 400")


@pytest.fixture
def impatient_with_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.2)


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nX-Slow: "])
@pytest.mark.usefixtures("impatient_with_heads")
def test_a_head_that_does_not_come_closes_the_connection(url: str, begun: bytes) -> None:
    assert conversation(url, begun) == b""


@pytest.mark.usefixtures("impatient_with_heads")
def test_the_limit_of_a_head_is_not_that_of_a_body(url: str) -> None:
    answer = conversation(url, request("/greeting/invoke", b'{"input"', declared=40))
    assert answer.startswith(b"HTTP/1.1 408")  # after `body_timeout`, which is longer


@pytest.mark.parametrize("after", [b"\r\n", b"\r\n\r\n", b"GET /healthz HTTP/1.1\r\nX-Slow: "])
@pytest.mark.usefixtures("impatient_with_heads")
def test_bytes_after_a_body_do_not_cut_its_stream(monkeypatch: pytest.MonkeyPatch, after: bytes) -> None:
    model, looked = GatedModel(tokens=["one", "two"]), threading.Event()
    look = BoundedHead._end

    def seen(self: BoundedHead) -> None:
        look(self)
        looked.set()

    monkeypatch.setattr(BoundedHead, "_end", seen)
    app = create_app(registry_of({"gated": Chain(runnable=model, input_type=str)}), Settings(_env_file=None))
    with serving(app, http=BoundedHead, timeout_keep_alive=0) as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port), timeout=LIMIT) as connection:
            connection.sendall(request("/gated/stream", b'{"input":"x"}'))
            model.gate.open()
            answer = b""
            while b"one" not in answer:
                answer += connection.recv(65536)
            connection.sendall(after)
            assert looked.wait(LIMIT)
            model.gate.open()
            answer += b"".join(iter(lambda: connection.recv(65536), b""))
    assert [b"two" in answer, b"event: end" in answer] == [True, True]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx"]
)
def test_what_a_form_of_another_site_can_send_is_refused(client: httpx.Client, kind: str) -> None:
    answer = client.post("/greeting/invoke", content=b'{"input": {"topic": "x"}}', headers={"Content-Type": kind})
    assert_refused(answer, 415, "unsupported_media_type")


def test_a_body_without_a_declared_type_is_refused(client: httpx.Client) -> None:
    assert_refused(client.post("/greeting/invoke", content=b'{"input": {"topic": "x"}}'), 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON ; charset=utf-8"])
def test_json_is_taken_whatever_stands_beside_it(client: httpx.Client, kind: str) -> None:
    answer = client.post("/greeting/invoke", content=b'{"input": {"topic": "x"}}', headers={"Content-Type": kind})
    assert answer.json()["output"] == "About x."


@pytest.mark.parametrize(
    ("endpoint", "body", "place", "kind"),
    [
        ("invoke", b'{"input": ' + b"[" * 11 + b"]" * 11 + b"}", ["body"], "too_deep"),
        ("invoke", b'{"input": [' + b"1," * 101 + b"1]}", ["body"], "too_long"),
        ("invoke", b'{"input": [' + b"1," * 20_000 + b"1]}", ["body"], "too_long"),
        ("batch", b'{"inputs": [{}, {}, {}, {}]}', ["body", "inputs"], "too_long"),
    ],
)
def test_json_that_has_more_than_it_may_is_refused(
    client: httpx.Client, endpoint: str, body: bytes, place: list[str], kind: str
) -> None:
    answer = client.post(f"/greeting/{endpoint}", content=body, headers={"Content-Type": "application/json"})
    assert_refused(answer, 422, "invalid_input")
    assert [(item["loc"], item["type"]) for item in answer.json()["detail"]] == [(place, kind)]


def test_of_duplicate_keys_the_last_counts(client: httpx.Client) -> None:
    body = b'{"input": {"topic": "a"}, "input": {"topic": "b", "topic": "c"}}'
    answer = client.post("/greeting/invoke", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["output"] == "About c."


@pytest.mark.parametrize("found", [BOMB, config_hash("[" * 3000), "A" * 3501, "%3Cscript%3E", config_hash({}) + "%22"])
@pytest.mark.parametrize("page", ["invoke", "input_schema", "playground/"])
def test_a_hostile_config_in_the_path_is_refused(client: httpx.Client, found: str, page: str) -> None:
    path = f"/greeting/c/{found}/{page}"
    assert_refused(client.post(path, json=BODY) if page == "invoke" else client.get(path), 400, "bad_request")


TEMPLATES = ["{", "{}", "{other}", "{topic.__class__}", "{topic:>99999}", "{topic!r:>{topic}99999}"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("in_path", [True, False])
def test_a_configured_prompt_that_does_not_fit_is_a_422(client: httpx.Client, template: str, in_path: bool) -> None:
    config = {"configurable": {"template": template}}
    path = f"/greeting/c/{config_hash(config)}" if in_path else "/greeting"
    body = BODY if in_path else {**BODY, "config": config}
    assert_refused(client.post(f"{path}/invoke", json=body), 422, "invalid_input")
    streamed = client.post(f"{path}/stream", json=body)
    assert '"invalid_input"' in streamed.text


@pytest.mark.parametrize("path", ["%00", "a" * 3000, "assets", "..%2f..%2fpyproject.toml"])
def test_a_playground_file_that_cannot_be_is_not_found(client: httpx.Client, path: str) -> None:
    assert client.get(f"/greeting/playground/{path}").status_code == 404


@pytest.mark.parametrize("coding", ["gzip", "deflate, gzip", "br", "x", "IDENTITY, gzip"])
def test_an_encoded_body_is_a_415_that_names_what_is_taken(client: httpx.Client, coding: str) -> None:
    for endpoint in ("invoke", "batch", "stream", "stream_log", "stream_events", "runs"):
        answer = client.post(f"/greeting/{endpoint}", json=BODY, headers={"Content-Encoding": coding})
        assert_refused(answer, 415, "unsupported_media_type")
        assert "Content-Encoding" in answer.json()["detail"]
        assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_that_is_declared_as_it_is_passes(client: httpx.Client, coding: str) -> None:
    assert client.post("/greeting/invoke", json=BODY, headers={"Content-Encoding": coding}).status_code == 200


def test_an_allowed_origin_sees_the_headers_it_needs(client: httpx.Client) -> None:
    asked = {"Origin": "https://b.example.com"}
    answer = client.post("/greeting/stream", json=BODY, headers=asked)
    assert answer.headers["access-control-allow-origin"] == asked["Origin"]
    assert {"Run-Id", "Content-Location", "Location", "Run-Replay-From", "Retry-After"} <= set(
        answer.headers["access-control-expose-headers"].split(", ")
    )
    refused = client.post("/greeting/invoke", content=b"x", headers=asked)
    assert refused.status_code == 415
    assert refused.headers["access-control-allow-origin"] == asked["Origin"]


def test_another_origin_is_allowed_nothing(client: httpx.Client) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.post("/greeting/invoke", json=BODY, headers=asked).headers
    assert client.options("/greeting/invoke", headers=asked).status_code == 400


@pytest.mark.parametrize("count", [0, 3, 4, 8])
async def test_the_client_splits_a_batch_to_the_servers_limit(url: str, count: int) -> None:
    inputs, right = [{"topic": str(n)} for n in range(count)], [f"About {n}." for n in range(count)]
    async with RemoteRunnable(f"{url}/greeting") as remote:
        assert await remote.abatch(inputs) == right
        assert await asyncio.to_thread(remote.batch, inputs) == right


def test_the_client_halves_a_batch_whose_body_is_too_large(url: str) -> None:
    inputs = [{"topic": "x" * 20_000}] * 3
    with RemoteRunnable(f"{url}/greeting") as remote:
        assert len(remote.batch(inputs)) == 3
