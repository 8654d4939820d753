"""Browser sessions: they begin with a key, end with it, and are useless to other sites."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from streamserve.auth import sessions
from streamserve.auth.keys import KeyFile
from streamserve.auth.sessions import COOKIE
from tests.auth.support import AUDIENCE, ISSUER, SCOPE, SECRET, app_with, token
from tests.servers import serving

INPUT = {"input": {"topic": "cats"}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    file = KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")
    file.add("nobody")
    return file


@pytest.fixture(scope="module")
def url(file: KeyFile) -> Iterator[str]:
    with serving(app_with(auth=f"keys:{file.path}")) as url:
        yield url


@pytest.fixture
def key(file: KeyFile) -> str:
    return file.add("ann", [SCOPE])


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def session(client: httpx.Client, key: str) -> httpx.Client:
    client.post("/session", json={"key": key}).raise_for_status()
    return client


def test_a_browser_without_a_session_gets_the_sign_in_page(client: httpx.Client) -> None:
    for path in ("/", "/bot/playground/", "/docs"):
        page = client.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
        assert page.status_code == 401
        assert 'type="password"' in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        # The page reveals no chain.
        assert "bot" not in page.text
    assert client.get("/", headers={"Accept": "application/json"}).json()["code"] == "unauthenticated"


def test_a_session_begins_with_a_key_and_opens_the_pages(client: httpx.Client, key: str) -> None:
    begun = client.post("/session", json={"key": key})
    assert begun.json()["principal"] == "ann"
    cookie = begun.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/;" in f"{cookie};"
    assert "Secure" not in cookie
    assert begun.headers["Cache-Control"] == "no-store"
    assert key not in cookie + begun.text
    assert 'id="bot"' in client.get("/").text
    assert client.get("/bot/playground/").status_code == 200
    assert client.post("/greeting/invoke", json=INPUT).json()["output"] == "About cats."


def test_over_https_the_cookie_is_secure(file: KeyFile, key: str) -> None:
    with serving(app_with(auth=f"keys:{file.path}", root_path="/ai"), forwarded_allow_ips="*", root_path="/ai") as url:
        begun = httpx.post(f"{url}/session", json={"key": key}, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in begun.headers["Set-Cookie"]
    assert "Path=/ai" in begun.headers["Set-Cookie"]


@pytest.mark.parametrize("body", [{"key": "streamserve_no"}, {"key": "x" * 43}])
def test_a_wrong_key_begins_no_session(client: httpx.Client, body: Any) -> None:
    refused = client.post("/session", json=body)
    assert refused.status_code == 401
    assert body["key"] not in refused.text
    assert COOKIE not in client.cookies


def test_an_answer_does_not_repeat_a_malformed_key(client: httpx.Client) -> None:
    refused = client.post("/session", json={"key": ["a secret"]})
    assert refused.status_code == 422
    assert "a secret" not in refused.text


def test_a_form_of_another_site_begins_no_session(client: httpx.Client, key: str) -> None:
    text = json.dumps({"key": key})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        refused = client.post("/session", content=text, headers={"Content-Type": kind})
        assert refused.status_code in (415, 422)
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert client.post("/session", json={"key": key}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://any"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://this.example", "Host": "this.example"}, 200),
        ({"Origin": "http://this.example", "Host": "this.example:8000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 200),
    ],
    ids=str,
)
def test_only_pages_of_this_server_may_use_the_session_to_write(
    session: httpx.Client, headers: dict[str, str], status: int
) -> None:
    assert session.post("/greeting/invoke", json=INPUT, headers=headers).status_code == status


def test_a_session_ends_with_its_key(session: httpx.Client, file: KeyFile, key: str) -> None:
    assert session.get("/bot/input_schema").status_code == 200
    file.revoke(key.split("_")[1])
    assert session.get("/bot/input_schema").status_code == 401


def test_a_wrong_key_in_a_header_is_refused_despite_a_session(session: httpx.Client) -> None:
    assert session.get("/bot/input_schema", headers={"X-API-Key": "no"}).status_code == 401


def test_signing_out_deletes_the_cookie(session: httpx.Client) -> None:
    assert session.delete("/session").status_code == 204
    assert session.get("/bot/input_schema").status_code == 401


def test_a_session_expires(file: KeyFile, key: str) -> None:
    with serving(app_with(auth=f"keys:{file.path}", session_time=1e-6)) as url, httpx.Client(base_url=url) as client:
        client.post("/session", json={"key": key}).raise_for_status()
        refused = client.get("/bot/input_schema")
    assert (refused.status_code, refused.json()["detail"]) == (401, "The session token has expired")


def test_a_session_ends_no_later_than_its_key(client: httpx.Client, file: KeyFile, key: str) -> None:
    soon = time.time() + 60
    begun = client.post("/session", json={"key": file.add("ann", expires_at=soon)})
    assert begun.json()["expires_at"] == soon
    assert client.post("/session", json={"key": key}).json()["expires_at"] > soon


def test_a_session_of_a_token_ends_with_it() -> None:
    jwt = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_secret": SECRET}
    soon = time.time() + 60
    with serving(app_with(auth="jwt:", **jwt)) as url, httpx.Client(base_url=url) as client:
        begun = client.post("/session", json={"key": token(key=SECRET, algorithm="HS256", exp=soon, scope=SCOPE)})
        assert begun.json()["expires_at"] == soon
        assert client.get("/bot/input_schema").status_code == 200


def test_a_token_too_large_for_a_cookie_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    jwt = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_secret": SECRET}
    with serving(app_with(auth="jwt:", **jwt)) as url, httpx.Client(base_url=url) as client:
        body = {"key": token(key=SECRET, algorithm="HS256", exp=int(time.time()) + 60, teams=["team"] * 10)}
        client.post("/session", json=body).raise_for_status()
        length = len(client.cookies[COOKIE])
        for limit, status in ((length, 200), (length - 1, 400)):
            monkeypatch.setattr(sessions, "MAX_LENGTH", limit)
            assert client.post("/session", json=body).status_code == status


def test_the_document_names_the_answers_of_the_session(file: KeyFile) -> None:
    document = app_with(auth=f"keys:{file.path}").openapi()
    path, shared = document["paths"]["/session"], document["components"]["responses"]
    for method, success in (("post", "200"), ("delete", "204")):
        answers = path[method]["responses"]
        found = {
            status: (shared[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer)["description"]
            for status, answer in answers.items()
        }
        assert {status for status in found if status.startswith("2")} == {success}
        assert "cookie" in found["400"]
        assert "401: a missing or invalid credential" in found["4XX"]
        assert "another site" in found["403"]


@pytest.mark.parametrize("cookie", ["", "x", "e30.e30", "." * 9, "a" * 5000])
def test_a_forged_session_is_invalid(client: httpx.Client, cookie: str) -> None:
    assert client.get("/bot/input_schema", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 401
