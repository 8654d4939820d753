"""Limits of a caller and of a worker; a refused request reaches no model and does not count."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from limits import parse_many

from deploy.services import free_port
from streamserve import Chain
from streamserve.api.services import services_in
from streamserve.serving.limits import Limits
from streamserve.settings import Settings
from tests.fakes import Gate
from tests.runs.support import app_of, caller, client_of, streaming
from tests.stores.servers import shared_cluster, shared_redis

ANN, BOB = {"X-Caller": "ann"}, {"X-Caller": "bob"}


class Model:
    """Counts its calls; says two tokens, the second when the gate opens."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = Gate()

    async def say(self, inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
        async for _ in inputs:
            pass
        self.calls += 1
        yield "one"
        await self.gate.await_()
        yield "two"


@pytest.fixture
def model() -> Model:
    return Model()


@contextmanager
def limited(model: Model, settings: dict[str, Any] | None = None, **record: Any) -> Iterator[httpx.Client]:
    chain = Chain(runnable=RunnableGenerator(model.say), input_type=Any, output_type=Any, **record)
    free = Chain(runnable=RunnableLambda(lambda value: value), input_type=Any, output_type=Any)
    with client_of(app_of({"chain": chain, "free": free}, guard=caller, **(settings or {}))) as client:
        yield client


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["retryable"] is True
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("by", ["record", "setting"])
def test_the_rate_is_limited_for_each_caller_and_chain(model: Model, by: str) -> None:
    rate = {"rate_limit": "3/hour"}
    model.gate.open(100)
    with limited(model, settings=rate if by == "setting" else None, **(rate if by == "record" else {})) as client:
        for _ in range(3):
            assert client.post("/chain/invoke", json={"input": 1}, headers=ANN).status_code == 200
        for path in ("/chain/invoke", "/chain/stream", "/chain/runs"):
            answer = client.post(path, json={"input": 1}, headers=ANN)
            assert refusal(answer) == (429, "rate_limited")
        assert int(answer.headers["Retry-After"]) <= 3600
        assert model.calls == 3
        assert client.post("/chain/invoke", json={"input": 1}, headers=BOB).status_code == 200
        assert client.post("/free/invoke", json={"input": 1}, headers=ANN).status_code == 200
        assert client.get("/chain/input_schema", headers=ANN).status_code == 200


async def test_what_was_refused_does_not_count() -> None:
    app = app_of({"free": RunnableLambda(lambda value: value)}, guard=caller, rate_limit="2/hour; 3/day")
    limits = services_in(app).limits
    assert isinstance(limits, Limits)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answers = [await client.post("/free/invoke", json={"input": 1}, headers=ANN) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429, 429]

    (day,) = parse_many("3/day")
    assert (await limits._window.get_window_stats(day, "ann", "free")).remaining == 1


def test_runs_above_the_maximum_are_refused_until_one_ends(model: Model) -> None:
    with limited(model, max_concurrency=1) as client:
        with streaming(client, "/chain/stream", X_Caller="ann") as reader:
            reader.until(b"one")
            for path in ("/chain/invoke", "/chain/stream", "/chain/runs"):
                assert refusal(client.post(path, json={"input": 1}, headers=ANN)) == (429, "too_many_runs")
            assert client.post("/chain/runs", json={"input": 1}, headers=BOB).status_code == 202
            assert client.post("/free/invoke", json={"input": 1}, headers=ANN).status_code == 200
            model.gate.open(2)
            reader.rest()
        model.gate.open(1)
        assert client.post("/chain/invoke", json={"input": 1}, headers=ANN).status_code == 200
        assert model.calls == 3


@pytest.mark.parametrize("limit", [{"max_concurrency": 1}, {"max_runs": 1}, {"rate_limit": "1/hour"}], ids=str)
@pytest.mark.parametrize("endpoint", ["stream", "runs", "invoke", "batch"])
def test_no_limit_refuses_a_repeat_which_joins_its_run(model: Model, limit: dict[str, Any], endpoint: str) -> None:
    path, body = f"/chain/{endpoint}?wait=0", {"inputs": [1]} if endpoint == "batch" else {"input": 1}
    with limited(model, limit) as client:
        sent = [client.post(path, json=body, headers={**ANN, "Idempotency-Key": "one"}) for _ in range(3)]
        assert [answer.is_success for answer in sent] == [True] * 3
        assert len({answer.headers["Run-Id"] for answer in sent}) == 1
        refused = client.post(path, json=body, headers={**ANN, "Idempotency-Key": "other"})
        assert refusal(refused)[0] in (429, 503)
        model.gate.open()
        assert client.get(f"/runs/{sent[0].headers['Run-Id']}/stream", headers=ANN).is_success
        assert model.calls == 1


@pytest.mark.parametrize("body", [b"{", b'{"input": 1, "config": 3}'])
def test_a_request_that_starts_no_run_gives_its_place_back(model: Model, body: bytes) -> None:
    model.gate.open(10)
    with limited(model, max_concurrency=1) as client:
        for _ in range(3):
            sent = {**ANN, "Content-Type": "application/json"}
            assert client.post("/chain/stream", content=body, headers=sent).status_code == 422
        assert client.post("/chain/invoke", json={"input": 1}, headers=ANN).status_code == 200


def test_a_worker_that_has_all_its_runs_refuses_everybody(model: Model) -> None:
    with limited(model, settings={"max_runs": 1}) as client:
        with streaming(client, "/chain/stream", X_Caller="ann") as reader:
            reader.until(b"one")
            assert refusal(client.post("/free/invoke", json={"input": 1}, headers=BOB)) == (503, "overloaded")
            assert client.get(f"/runs/{reader.run_id}", headers=ANN).status_code == 200
            model.gate.open()
            reader.rest()
        assert client.post("/free/invoke", json={"input": 1}, headers=BOB).status_code == 200


@pytest.mark.parametrize("said", ["often", "5/fortnight", "-1/minute"])
def test_a_rate_that_is_none_is_refused_where_it_is_declared(said: str) -> None:
    with pytest.raises(ValueError, match="STREAMSERVE_RATE_LIMIT"):
        Limits(Settings(rate_limit=said, _env_file=None))
    with pytest.raises(TypeError, match="rate_limit"):
        Chain(runnable=RunnableLambda(lambda value: value), rate_limit=said)


def test_a_place_to_count_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="STREAMSERVE_LIMITS_STORE"):
        Limits(Settings(limits_store="postgres://x", _env_file=None))


@pytest.mark.parametrize(
    "store", ["redis://host", "rediss://me:secret@host/1?a=b", "redis:///0", "redis+cluster://[::1]/"]
)
def test_a_redis_without_a_port_has_the_usual_one(store: str) -> None:
    Limits(Settings(store=store, _env_file=None))


@pytest.mark.parametrize("address", [shared_redis, shared_cluster], ids=["single", "cluster"])
def test_replicas_count_a_callers_requests_together_in_redis(address: Callable[[], str], model: Model) -> None:
    model.gate.open(100)
    settings = {"limits_store": address(), "rate_limit": "3/hour"}
    ann = {"X-Caller": str(uuid.uuid4())}  # the servers outlive this test
    with limited(model, settings) as one, limited(model, settings) as other:
        answers = [client.post("/chain/invoke", json={"input": 1}, headers=ann) for client in (one, other, one, other)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert refusal(answers[-1]) == (429, "rate_limited")


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "rediss+cluster"])
def test_no_run_starts_while_the_counter_of_requests_is_away(scheme: str, model: Model) -> None:
    settings = {"limits_store": f"{scheme}://127.0.0.1:{free_port()}", "rate_limit": "3/hour"}
    with limited(model, settings) as client:
        answer = client.post("/chain/invoke", json={"input": 1}, headers=ANN)
    assert refusal(answer) == (503, "store_unavailable")
    assert model.calls == 0
