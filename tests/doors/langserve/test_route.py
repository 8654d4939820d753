"""Requests that make runs: Idempotency-Key, background runs, and a run id on every answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from langchain_core.runnables import RunnableGenerator, RunnableLambda

from streamserve.doors.langserve.request import REQUIRED
from tests.fakes import Gate
from tests.frames import config_hash
from tests.runs.support import LIMIT, app_of, caller, client_of, ended, streaming
from tests.servers import serving

KEY = {"Idempotency_Key": "3f0c"}


class Bench:
    """A served chain that says a number whenever the gate opens, five in all, and counts its calls."""

    def __init__(self, **settings: Any) -> None:
        self.gate = Gate()
        self.calls = 0
        chains = {"count": RunnableGenerator(self.count), "other": RunnableGenerator(self.count)}
        self.app = app_of(chains, caller, **settings)

    async def count(self, inputs: Any) -> Any:
        async for _ in inputs:
            pass
        self.calls += 1
        for number in range(5):
            await self.gate.await_()
            yield str(number)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def client(bench: Bench) -> Iterator[httpx.Client]:
    with serving(bench.app) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


def test_the_same_key_and_body_join_the_run(bench: Bench, client: httpx.Client) -> None:
    with streaming(client, "/count/stream", **KEY) as first:
        start = [first.next()]
        with streaming(client, "/count/stream", **KEY) as second:
            assert second.run_id == first.run_id
            assert second.response.headers["Run-Replay-From"] == "0"
            bench.gate.open(5)
            assert second.rest() == [*start, *first.rest()]
    assert bench.calls == 1


def test_two_requests_at_once_with_one_key_are_one_call(bench: Bench, client: httpx.Client) -> None:
    together = threading.Barrier(8)
    got: list[list[bytes]] = []

    def post() -> None:
        together.wait(LIMIT)
        with streaming(client, "/count/stream", **KEY) as reader:
            got.append(reader.rest())

    posts = [threading.Thread(target=post) for _ in range(8)]
    for thread in posts:
        thread.start()
    bench.gate.open(5)
    for thread in posts:
        thread.join(LIMIT)
    assert bench.calls == 1
    assert len(got[0]) == 7
    assert got == [got[0]] * 8


def test_a_key_joins_its_run_after_the_end_too(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    with streaming(client, "/count/stream", **KEY) as first:
        whole = first.rest()
    with streaming(client, "/count/stream", **KEY) as second:
        assert second.rest() == whole
    assert bench.calls == 1


def test_a_join_goes_on_from_the_last_event_id(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    with streaming(client, "/count/stream", **KEY) as first:
        whole = first.rest()
    with streaming(client, "/count/stream", **KEY, Last_Event_ID="4") as second:
        assert second.response.headers["Run-Replay-From"] == "4"
        assert second.rest() == whole[4:]


def test_a_join_at_the_end_has_nothing_to_send(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    with streaming(client, "/count/stream", **KEY) as first:
        first.rest()
    headers = {"Idempotency-Key": KEY["Idempotency_Key"], "Last-Event-ID": "7"}
    assert client.post("/count/stream", json={"input": "x"}, headers=headers).status_code == 204


@pytest.mark.parametrize("path", ["/count", f"/count/c/{config_hash({})}"], ids=["plain", "config"])
@pytest.mark.parametrize("endpoint", ["stream", "stream_log", "stream_events", "runs"])
def test_a_last_event_id_without_a_key_is_refused(bench: Bench, client: httpx.Client, path: str, endpoint: str) -> None:
    bench.gate.open(5)
    answer = client.post(f"{path}/{endpoint}", json={"input": "x"}, headers={"Last-Event-ID": "3"})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (400, "bad_request", False)
    assert "GET /runs/{run_id}/stream" in answer.json()["detail"]
    assert "Idempotency-Key" in answer.json()["detail"]
    assert bench.calls == 0


def test_an_empty_last_event_id_names_no_block(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    with streaming(client, "/count/stream", Last_Event_ID="") as reader:
        assert len(reader.rest()) == 7


def test_the_same_key_with_another_body_is_refused(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    with streaming(client, "/count/stream", **KEY) as reader:
        reader.rest()
    answer = client.post("/count/stream", json={"input": "y"}, headers={"Idempotency-Key": "3f0c"})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")
    assert bench.calls == 1


def test_a_body_in_another_order_is_the_same_body(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    for body in ('{"input": {"a": 1, "b": 2}, "config": {}}', '{"config":{},"input":{"b":2,"a":1}}'):
        assert client.post("/count/stream", content=body, headers=headers).status_code == 200
    assert bench.calls == 1


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/count/stream", {"X_Caller": "somebody else"}),
        ("/other/stream", {}),
        ("/count/stream_events", {}),
        (f"/count/c/{config_hash({'tags': ['a']})}/stream", {}),
    ],
    ids=["caller", "chain", "endpoint", "config"],
)
def test_a_key_is_the_callers_own_on_its_path(
    bench: Bench, client: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    bench.gate.open(10)
    runs = set()
    for target, more in (("/count/stream", {}), (path, headers)):
        with streaming(client, target, **KEY, **more) as reader:
            reader.rest()
            runs.add(reader.run_id)
    assert len(runs) == bench.calls == 2


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_that_is_none_is_refused(client: httpx.Client, key: str) -> None:
    answer = client.post("/count/stream", json={"input": "x"}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_bad_cursor_on_a_join_is_refused(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    for status in (200, 400):
        headers = {"Idempotency-Key": "k", "Last-Event-ID": "minus one"}
        assert client.post("/count/stream", json={"input": "x"}, headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/count", f"/count/c/{config_hash({})}"], ids=["plain", "config"])
def test_a_background_run_is_accepted_and_streamed_later(bench: Bench, client: httpx.Client, path: str) -> None:
    bench.gate.open(5)
    answer = client.post(f"{path}/runs", json={"input": "x"})
    run_id = answer.json()["run_id"]
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/runs/{run_id}/stream"
    assert answer.headers["Run-Id"] == run_id
    with streaming(client, answer.headers["Location"], method="GET") as reader:
        assert len(reader.rest()) == 7
    assert client.get(f"/runs/{run_id}/output").json()["output"] == "01234"


def test_a_background_run_with_a_key_is_made_once(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    made = [client.post("/count/runs", json={"input": "x"}, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert {answer.status_code for answer in made} == {202}
    (run_id,) = {answer.json()["run_id"] for answer in made}
    assert ended(client, run_id)["status"] == "done"
    assert bench.calls == 1


def test_every_answer_of_a_call_names_its_run(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(10)
    invoked = client.post("/count/invoke", json={"input": "x"})
    assert invoked.headers["Run-Id"] == invoked.json()["metadata"]["run_id"]
    assert client.post("/count/batch", json={"inputs": ["x"]}).headers["Run-Id"]
    refused = client.post("/count/invoke", json={})
    assert (refused.status_code, refused.headers["Run-Id"]) == (422, refused.json()["run_id"])


def test_metadata_headers_and_trace_share_one_run_id(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    with streaming(client, "/count/stream_events") as reader:
        first = reader.next()
        assert f'"run_id":"{reader.run_id}"'.encode() in first
        reader.rest()


def test_a_request_is_compared_with_its_own_route_only(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of({f"chain{number}": RunnableLambda(str) for number in range(20)})
    looked: list[str] = []
    matches = APIRoute.matches
    monkeypatch.setattr(APIRoute, "matches", lambda route, scope: looked.append(route.path) or matches(route, scope))
    with client_of(app) as client:
        assert client.post("/chain19/stream", json={"input": "x"}).status_code == 200
    assert looked == ["/chain19/stream"]
    place = next(place for place, route in enumerate(app.routes) if getattr(route, "path", "") == "/chain19/stream")
    assert place < 20 * len(REQUIRED)
