"""The guard: a team's own dependency, or no authentication, which answers this machine only."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request

from streamserve import Chain
from streamserve.app import create_app
from streamserve.auth import AuthError, Identity
from streamserve.auth.guard import is_loopback, named_by
from streamserve.settings import Settings
from tests.auth.support import CHAINS, SECRET, app_with
from tests.fakes import Topic, greeting, registry_of
from tests.servers import serving

TEAM = """
from fastapi import HTTPException, Request
from streamserve.auth import Identity

def by_header(request: Request) -> Identity:
    name = request.headers.get("X-User")
    if not name:
        raise HTTPException(401, "Who are you?")
    return Identity(name, frozenset(request.headers.get("X-Scopes", "").split()))
"""


def returns_a_name(request: Request) -> str:
    return "ann"


def sets_the_state(request: Request) -> None:
    request.state.principal = "ann"
    request.state.scopes = {"talk"}


def names_nobody() -> None:
    return None


def refuses() -> Identity:
    raise HTTPException(401, "no")


def get(
    app: FastAPI, path: str, host: str = "app.example", server: str | None = "app.example", **headers: str
) -> httpx.Response:
    """Send a request in process, as if the server listened on an address; None: it does not know its own."""

    async def reached(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "server": (server, 8000) if server else None}, receive, send)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(reached), base_url=f"http://{host}") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def guarded_by(guard: Any) -> FastAPI:
    return create_app(registry_of(CHAINS), Settings(_env_file=None), guard=guard)


def test_a_setting_names_the_teams_own_dependency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "team_auth_module.py").write_text(TEAM)
    monkeypatch.syspath_prepend(tmp_path)
    app = app_with(auth="team_auth_module:by_header")
    assert get(app, "/bot/input_schema").status_code == 401
    assert get(app, "/bot/input_schema", **{"X-User": "ann"}).status_code == 403
    assert get(app, "/bot/input_schema", **{"X-User": "ann", "X-Scopes": "talk"}).status_code == 200


@pytest.mark.parametrize(
    ("guard", "status"), [(returns_a_name, 200), (sets_the_state, 200), (names_nobody, 401), (refuses, 401)]
)
def test_a_dependency_must_name_the_caller(guard: Any, status: int) -> None:
    assert get(guarded_by(guard), "/greeting/input_schema").status_code == status


def has_named_scopes(request: Request) -> Identity:
    return Identity("ann", frozenset(request.headers["X-Scopes"].split()))


@pytest.mark.parametrize(
    ("scopes", "status"), [("", 403), ("read", 403), ("write", 403), ("read write", 200), ("read write more", 200)]
)
def test_a_caller_needs_each_scope_of_a_chain(scopes: str, status: int) -> None:
    chain = Chain(runnable=greeting(), input_type=Topic, scopes=["write", "read"])
    app = create_app(registry_of({"both": chain}), Settings(_env_file=None), guard=has_named_scopes)
    answer = get(app, "/both/input_schema", **{"X-Scopes": scopes})
    assert answer.status_code == status
    assert status == 200 or answer.json()["detail"] == "This needs the scopes: read, write"


def test_a_dependency_without_scopes_grants_none() -> None:
    assert get(guarded_by(returns_a_name), "/bot/input_schema").status_code == 403
    assert get(guarded_by(sets_the_state), "/bot/input_schema").status_code == 200


@pytest.mark.parametrize("said", ["nothing", "keys:", "jwt:x", "no.such:thing", "json:no_such", "json:__name__", ":"])
def test_an_invalid_auth_setting_stops_the_start(said: str) -> None:
    with pytest.raises(AuthError, match="STREAMSERVE_AUTH"):
        app_with(auth=said)


def test_a_guard_beside_the_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuthError, match="guard"):
        create_app(registry_of(CHAINS), Settings(_env_file=None, auth="keys:x"), guard=returns_a_name)


def test_a_missing_file_of_keys_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(AuthError, match="streamserve key new"):
        app_with(auth=f"keys:{tmp_path / 'none.json'}")


def test_tokens_without_their_extra_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streamserve.auth.json_web_tokens", None)
    with pytest.raises(AuthError, match=r"install streamserve\[jwt\]"):
        app_with(auth="jwt:")


async def test_a_name_alone_keeps_the_scopes_and_claims_beside() -> None:
    request = Request({"type": "http", "headers": [], "state": {"scopes": {"talk"}, "claims": {"team": "a"}}})
    check = named_by(returns_a_name).dependency
    assert check is not None
    await check(request, "ann")
    assert (request.state.principal, request.state.scopes, request.state.claims) == ("ann", {"talk"}, {"team": "a"})


def test_a_short_secret_stops_the_start() -> None:
    with pytest.raises(AuthError, match="STREAMSERVE_SECRET"):
        create_app(registry_of(CHAINS), Settings(_env_file=None, secret="short"))


# Without authentication


@pytest.mark.parametrize(
    ("server", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1", 200),
        ("127.0.0.1", "localhost", 200),
        ("::1", "[::1]", 200),
        ("::ffff:127.0.0.1", "app.localhost", 200),
        ("127.0.0.1", "evil.example", 403),  # another site's name that resolves to this machine
        ("127.0.0.1", "localhost.evil.example", 403),
        ("192.168.1.7", "192.168.1.7", 403),
        ("192.168.1.7", "localhost", 403),
        ("fe80::1", "localhost", 403),
    ],
)
def test_without_authentication_only_this_machine_is_answered(server: str, host: str, status: int) -> None:
    for path in ("/bot/input_schema", "/", "/openapi.json", "/runs/x"):
        expected = 404 if path == "/runs/x" and status == 200 else status
        assert get(app_with(), path, host, server).status_code == expected
    assert get(app_with(), "/healthz", host, server).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        {"X-Forwarded-For": "203.0.113.7"},
        {"X-Forwarded-For": "127.0.0.1"},  # a caller may have written it
        {"x-forwarded-HOST": "localhost"},
        {"X-Forwarded-Proto": "https"},
        {"Forwarded": "for=203.0.113.7"},
        {"Via": "1.1 proxy"},
        {"X-Real-IP": "203.0.113.7"},
    ],
    ids=str,
)
def test_without_authentication_a_proxy_is_refused(header: dict[str, str]) -> None:
    for path in ("/bot/input_schema", "/", "/openapi.json", "/runs/x"):
        answer = get(app_with(), path, "localhost", "127.0.0.1", **header)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "proxy" in answer.json()["detail"]
    assert get(app_with(insecure_public=True), "/bot/input_schema", "localhost", "127.0.0.1", **header).is_success


def test_a_proxy_that_names_nobody_is_known_by_its_host() -> None:
    with serving(app_with()) as url:
        assert httpx.get(f"{url}/bot/input_schema").status_code == 200
        for host in ("app.example", "203.0.113.7:8000", "[", ""):
            assert httpx.get(f"{url}/bot/input_schema", headers={"Host": host}).status_code == 403


def test_a_unix_socket_answers_local_hosts_only(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with serving(app_with(), uds=path), httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
        assert client.get("http://localhost/bot/input_schema").status_code == 200
        assert client.get("http://app.example/bot/input_schema").status_code == 403


def test_a_server_without_an_address_answers_local_hosts_only() -> None:
    assert get(app_with(), "/bot/input_schema", "localhost", None).status_code == 200
    assert get(app_with(), "/bot/input_schema", "app.example", None).status_code == 403


def test_insecure_public_answers_everybody() -> None:
    assert get(app_with(insecure_public=True), "/bot/input_schema", "app.example", "192.168.1.7").status_code == 200


def test_documentation_may_be_public() -> None:
    app = guarded_by(refuses)
    assert get(app, "/openapi.json").status_code == 401
    public = create_app(registry_of(CHAINS), Settings(_env_file=None, public_docs=True), guard=refuses)
    assert get(public, "/openapi.json").status_code == get(public, "/docs").status_code == 200
    assert "/bot/invoke" in get(public, "/openapi.json").text
    assert get(public, "/bot/input_schema").status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "chains.example", ""])
def test_a_public_address_without_authentication_stops_the_start(host: str) -> None:
    async def start(app: FastAPI) -> None:
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(AuthError, match="STREAMSERVE_AUTH"):
        asyncio.run(start(app_with(host=host)))
    asyncio.run(start(app_with(host=host, insecure_public=True)))
    asyncio.run(start(create_app(registry_of(CHAINS), Settings(_env_file=None, host=host), guard=returns_a_name)))


def test_the_command_refuses_a_public_address(tmp_path: Path) -> None:
    (tmp_path / "chains").mkdir()
    command = [sys.executable, "-m", "streamserve.cli", "serve", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Error: STREAMSERVE_HOST=0.0.0.0: This server has no authentication" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "a.localhost"])
def test_loopback_names_are_recognized(host: str) -> None:
    assert is_loopback(host)


def test_no_page_or_document_shows_the_secret() -> None:
    with serving(app_with()) as url:
        for path in ("/", "/openapi.json", "/docs"):
            assert SECRET not in httpx.get(url + path).text


def test_a_call_in_process_needs_no_authentication() -> None:
    app = create_app(registry_of(CHAINS), Settings(_env_file=None))
    assert get(app, "/greeting/input_schema").status_code == 200
    assert get(app, "/greeting/input_schema", **{"X-Forwarded-For": "1.2.3.4"}).status_code == 403
