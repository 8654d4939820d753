"""Share tokens: each opens one run, for some actions, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from streamserve.auth.shares import MAX_QUERY, MAX_TIME, STATE, ShareTokens
from streamserve.auth.signing import Signer
from tests.auth.support import SECRET, keys_in
from tests.servers import serving

INPUT = {"input": {"messages": [{"type": "human", "content": "hi"}]}}


class Owner:
    """Two clients: ann, who owns runs and shares them, and `guest`, who has no credential."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"X-API-Key": key})
        self.guest = httpx.Client(base_url=url)

    def run(self) -> str:
        return self.http.post("/bot/stream", json=INPUT).headers["Run-Id"]

    def share(self, run: str, **wanted: Any) -> Any:
        answer = self.http.post(f"/runs/{run}/share", json=wanted)
        assert answer.status_code == 201, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    app, keys = keys_in(tmp_path_factory.mktemp("keys"))
    with serving(app, log_config=None) as url:
        owner = Owner(url, keys["the right one"])
        with owner.http, owner.guest:
            yield owner


def test_a_guest_with_the_token_reads_the_run(owner: Owner) -> None:
    run = owner.run()
    shared = owner.share(run)
    stream = owner.guest.get(shared["url"])
    assert stream.status_code == 200
    assert stream.text.count("id: ") > 2
    assert owner.guest.get(shared["url"], headers={"Last-Event-ID": "2"}).text.count("id: ") < stream.text.count("id: ")
    assert owner.guest.get(f"/runs/{run}?token={shared['token']}").json()["status"] == "done"
    assert owner.guest.get(f"/runs/{run}/output?wait=1&token={shared['token']}").status_code == 200


@pytest.mark.parametrize(("allow", "status"), [(["read"], 403), (["cancel"], 200), (["read", "cancel"], 200)])
def test_only_a_token_with_that_permission_cancels(owner: Owner, allow: list[str], status: int) -> None:
    run = owner.run()
    token = owner.share(run, allow=allow)["token"]
    assert owner.guest.post(f"/runs/{run}/cancel?token={token}").status_code == status


def test_a_token_that_only_cancels_does_not_read(owner: Owner) -> None:
    run = owner.run()
    token = owner.share(run, allow=["cancel"])["token"]
    assert owner.guest.get(f"/runs/{run}/stream?token={token}").status_code == 403


def test_a_token_opens_nothing_else(owner: Owner) -> None:
    run, other = owner.run(), owner.run()
    token = owner.share(run, allow=["read", "cancel"])["token"]
    assert owner.guest.get(f"/runs/{other}/stream?token={token}").status_code == 403
    for method, path in (
        ("POST", f"/runs/{run}/share"),
        ("DELETE", f"/runs/{run}"),
        ("POST", "/bot/invoke"),
        ("GET", "/bot/input_schema"),
        ("GET", "/"),
    ):
        assert owner.guest.request(method, f"{path}?token={token}").status_code == 401
    for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"streamserve_session={token}"}):
        assert owner.guest.get(f"/runs/{run}", headers=headers).status_code == 401


def test_a_share_token_expires(owner: Owner) -> None:
    run = owner.run()
    token = Signer(SECRET.encode()).sign("share", {"run": run, "principal": "ann", "allow": ["read"]}, time.time() - 1)
    refused = owner.guest.get(f"/runs/{run}?token={token}")
    assert (refused.status_code, refused.json()["detail"]) == (401, "The share token has expired")


def test_a_changed_or_foreign_share_token_is_invalid(owner: Owner) -> None:
    run = owner.run()
    token = owner.share(run)["token"]
    content = {"run": run, "principal": "ann", "allow": ["read"]}
    forged = Signer(b"x" * 32).sign("share", content, time.time() + 60)
    session = Signer(SECRET.encode()).sign("session", content, time.time() + 60)
    body, _, mac = token.rpartition(".")
    for wrong in (forged, session, f"{body}A.{mac}", body, "", "x", f"{body}.{mac[:-2]}", "%00", "a" * 9000):
        assert owner.guest.get(f"/runs/{run}", params={"token": wrong}).status_code == 401


def test_a_caller_cannot_share_another_principals_run(owner: Owner) -> None:
    assert owner.http.post(f"/runs/{'0' * 8}-0000-4000-8000-{'0' * 12}/share", json={}).status_code == 404


@pytest.mark.parametrize(
    "wanted", [{"allow": []}, {"allow": ["delete"]}, {"expires_in": 0}, {"expires_in": MAX_TIME + 1}, {"allow": "read"}]
)
def test_invalid_permissions_of_a_token_are_refused(owner: Owner, wanted: Any) -> None:
    assert owner.http.post(f"/runs/{owner.run()}/share", json=wanted).status_code == 422


@pytest.mark.parametrize(
    ("query", "left", "token"),
    [
        ("token=a", "", "a"),
        ("after=1&token=a&wait=2", "after=1&wait=2", "a"),
        ("token=a&after=1&to%6Ben=b", "after=1", "a"),
        ("token=a%2B", "", "a+"),
        ("tokens=a&x=token", "tokens=a&x=token", None),
        ("", "", None),
        (f"token=a&x={'y' * (MAX_QUERY - 10)}", f"x={'y' * (MAX_QUERY - 10)}", "a"),
        (f"token=a&x={'y' * (MAX_QUERY - 9)}", f"token=a&x={'y' * (MAX_QUERY - 9)}", None),
    ],
    ids=lambda value: f"{value!s:.24}",
)
async def test_the_token_moves_from_the_query_to_the_scope(query: str, left: str, token: str | None) -> None:
    reached: list[Any] = []

    async def app(scope: Any, *_: Any) -> None:
        reached.append(scope)

    scope: Any = {"type": "http", "query_string": query.encode()}
    await ShareTokens(app)(scope, None, None)  # type: ignore[arg-type]
    assert reached == [scope]
    assert (scope["query_string"].decode(), scope.get("state", {}).get(STATE)) == (left, token)


@pytest.mark.parametrize("name", ["token", "to%6ben", "%74%6f%6B%65%6e"])
def test_no_log_shows_the_token(owner: Owner, caplog: pytest.LogCaptureFixture, name: str) -> None:
    caplog.set_level("DEBUG")
    caplog.set_level("INFO", "uvicorn.access")
    run = owner.run()
    token = owner.share(run)["token"]
    for path in (f"/runs/{run}/stream", f"/runs/{run}/nothing", "/nothing", "/bot/stream"):
        owner.guest.get(f"{path}?{name}={token}&after=1")
    said = [record.getMessage() + str(record.__dict__) for record in caplog.records if record.name != "httpx"]
    assert any(f"/runs/{run}/stream?after=1" in line for line in said)  # uvicorn's access log
    assert not any(token in line for line in said)
