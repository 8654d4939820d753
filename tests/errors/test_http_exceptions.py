"""An HTTPException of a chain: its status, detail and headers, on every endpoint."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import HTTPException
from langchain_core.runnables import RunnableGenerator, RunnableLambda

from tests.runs.support import LIMIT, app_of
from tests.servers import serving

pytestmark = pytest.mark.filterwarnings("ignore:astream_log is deprecated")

BUSY = HTTPException(429, "busy", {"Retry-After": "7", "X-Queue": "3"})
UNPAID = HTTPException(402, {"plan": "free"})
LATER = HTTPException(503, "later", {"Retry-After": "Mon, 30 Nov 2026 10:00:00 GMT"})


def raising(error: HTTPException) -> Any:
    async def fail(_: Any) -> str:
        raise error

    return RunnableLambda(fail)


async def half(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for _ in inputs:
        pass
    yield "half"
    raise BUSY


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    chains = {"busy": raising(BUSY), "unpaid": raising(UNPAID), "later": raising(LATER)}
    with (
        serving(app_of({**chains, "half": RunnableGenerator(half)})) as url,
        httpx.Client(base_url=url, timeout=LIMIT) as client,
    ):
        yield client


def terminal_of(stream: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stream.rpartition("event: error\ndata: ")[2])
    return found


@pytest.mark.parametrize("endpoint", ["stream", "stream_log", "stream_events"])
@pytest.mark.parametrize("chain", ["busy", "half"])
def test_a_streams_terminal_has_the_status(client: httpx.Client, chain: str, endpoint: str) -> None:
    answer = client.post(f"/{chain}/{endpoint}", json={"input": "x"})
    assert terminal_of(answer.text) == {
        "status_code": 429,
        "message": "busy",
        "code": "error",
        "retryable": True,
        "retry_after": 7.0,
        "run_id": answer.headers["Run-Id"],
    }


@pytest.mark.parametrize(("endpoint", "body"), [("invoke", {"input": "x"}), ("batch", {"inputs": ["x", "y"]})])
def test_an_answer_has_the_status_and_headers(client: httpx.Client, endpoint: str, body: Any) -> None:
    answer = client.post(f"/busy/{endpoint}", json=body)
    assert (answer.status_code, answer.headers["Retry-After"], answer.headers["X-Queue"]) == (429, "7", "3")
    run_id = answer.headers["Run-Id"]
    assert answer.json() == {"detail": "busy", "code": "error", "retryable": True, "run_id": run_id}


def test_a_background_run_tells_the_exception(client: httpx.Client) -> None:
    run_id = client.post("/busy/runs", json={"input": "x"}).json()["run_id"]
    answer = client.get(f"/runs/{run_id}/output", params={"wait": LIMIT})
    assert (answer.status_code, answer.json()["detail"], answer.json()["code"]) == (409, "busy", "error")
    assert terminal_of(client.get(f"/runs/{run_id}/stream").text)["status_code"] == 429


def test_the_detail_may_be_any_json(client: httpx.Client) -> None:
    answer = client.post("/unpaid/invoke", json={"input": "x"})
    assert (answer.status_code, answer.json()["detail"], answer.json()["retryable"]) == (402, {"plan": "free"}, False)
    error = terminal_of(client.post("/unpaid/stream", json={"input": "x"}).text)
    assert (error["status_code"], error["message"]) == (402, '{"plan": "free"}')


def test_a_date_stays_the_pause(client: httpx.Client) -> None:
    answer = client.post("/later/invoke", json={"input": "x"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "Mon, 30 Nov 2026 10:00:00 GMT")
