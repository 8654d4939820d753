"""Failing chains: one typed answer, one log record, and a connection that still works."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langchain_openai.chat_models.base import OpenAIContextOverflowError, OpenAIRateLimitError

from streamserve import Chain
from streamserve.errors.providers import UpstreamTruncated
from tests.runs.support import LIMIT, app_of, error_of, streaming
from tests.servers import serving

pytestmark = pytest.mark.filterwarnings("ignore:astream_log is deprecated")

SECRET = "sk-secret"
STREAMS = ("stream", "stream_log", "stream_events")
PLACES = ("before", "during", "after")
RATE_LIMIT = httpx.Response(429, request=httpx.Request("POST", "http://m"))
TOO_LONG = httpx.Response(400, request=httpx.Request("POST", "http://m"))
UPSTREAM = {
    "rate_limited": (OpenAIRateLimitError(SECRET, response=RATE_LIMIT, body=None), 429, "upstream_rate_limited"),
    "too_long": (
        OpenAIContextOverflowError(SECRET, response=TOO_LONG, body=None),
        400,
        "context_length_exceeded",
    ),
    "truncated": (UpstreamTruncated(SECRET), 502, "upstream_truncated"),
    "unreachable": (openai.APIConnectionError(message=SECRET, request=RATE_LIMIT.request), 502, "upstream_unreachable"),
    "own": (ValueError(SECRET), 500, "internal"),
}


def failing(place: str, error: BaseException) -> Any:
    """A chain that fails before, during or after its tokens."""

    async def say(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
        async for _ in inputs:
            pass
        if place == "before":
            raise error
        yield "one"
        if place == "during":
            raise error
        yield "two"
        raise error

    return RunnableGenerator(say)


async def fail_with_half_an_emoji(_given: Any) -> str:
    raise ValueError("half \ud83d")


async def fail_for_odd(number: int) -> int:
    if number % 2:
        raise ValueError(SECRET)
    return number


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    chains = {place: failing(place, RuntimeError(SECRET)) for place in PLACES}
    chains |= {name: failing("during", error) for name, (error, _, _) in UPSTREAM.items()}
    chains["odd"] = RunnableLambda(fail_for_odd)
    half = RunnableLambda(fail_with_half_an_emoji)
    chains["half"] = Chain(runnable=half, input_type=Any, output_type=Any, expose_errors=True)
    with serving(app_of(chains)) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


def the_record(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """The only record of a failure."""
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return record


@pytest.mark.parametrize("endpoint", STREAMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_failing_stream_has_one_typed_terminal_and_one_record(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, place: str, endpoint: str
) -> None:
    with streaming(client, f"/{place}/{endpoint}") as reader:
        blocks = reader.rest()
    error = error_of(blocks[-1])
    assert error == {
        "status_code": 500,
        "message": "Internal Server Error",
        "code": "internal",
        "retryable": False,
        "run_id": reader.run_id,
    }
    assert not any(b"event: end" in block or b"event: error" in block for block in blocks[:-1])
    assert SECRET.encode() not in b"".join(blocks)
    record = the_record(caplog)
    assert record.exc_info
    assert str(record.exc_info[1]) == SECRET
    assert (record.__dict__["run_id"], record.__dict__["chain"]) == (reader.run_id, place)


@pytest.mark.parametrize("endpoint", ["invoke", "batch"])
@pytest.mark.parametrize("place", PLACES)
def test_a_failing_call_has_one_typed_answer_and_one_record(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, place: str, endpoint: str
) -> None:
    body = {"input": "x"} if endpoint == "invoke" else {"inputs": ["x"]}
    answer = client.post(f"/{place}/{endpoint}", json=body)
    run_id = answer.headers["Run-Id"]
    assert answer.status_code == 500
    assert answer.json() == {
        "detail": "Internal Server Error",
        "code": "internal",
        "retryable": False,
        "run_id": run_id,
    }
    record = the_record(caplog)
    assert record.exc_info
    assert str(record.exc_info[1]) == SECRET
    assert (record.__dict__["run_id"], record.__dict__["chain"]) == (run_id, place)


@pytest.mark.parametrize("name", UPSTREAM)
def test_a_providers_failure_is_named_but_not_quoted(client: httpx.Client, name: str) -> None:
    _, status, code = UPSTREAM[name]
    with streaming(client, f"/{name}/stream") as reader:
        blocks = reader.rest()
    assert (error_of(blocks[-1])["status_code"], error_of(blocks[-1])["code"]) == (status, code)
    answer = client.post(f"/{name}/invoke", json={"input": "x"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert SECRET not in answer.text + b"".join(blocks).decode()


def test_the_connection_works_after_a_failure_200_of_200(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    endpoints = ("invoke", "batch", *STREAMS)
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    ports = set()
    with httpx.Client(base_url=client.base_url, timeout=LIMIT, limits=limits) as alone:
        for number in range(200):
            endpoint = endpoints[number % 5]
            alone.post(f"/during/{endpoint}", json={"inputs": ["x"]} if endpoint == "batch" else {"input": "x"})
            answer = alone.post("/odd/invoke", json={"input": 2 * number})
            assert answer.json()["output"] == 2 * number
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(ports) == 1


def test_a_batch_gives_each_item_its_result_or_its_error(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"inputs": [0, 1, 2, 3], "kwargs": {"return_exceptions": True}}
    answer = client.post("/odd/batch", json=body)
    assert answer.status_code == 200
    assert answer.json()["output"] == [0, None, 2, None]
    errors = answer.json()["errors"]
    assert [error and error["code"] for error in errors] == [None, "internal", None, "internal"]
    assert SECRET not in answer.text
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [(record.__dict__["run_id"], record.__dict__["chain"]) for record in failures] == [
        (answer.headers["Run-Id"], "odd")
    ] * 2


@pytest.mark.parametrize("endpoint", [*STREAMS, "invoke", "batch"])
def test_half_an_emoji_in_a_shown_text_is_replaced(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, endpoint: str
) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest's workers cannot send the text of such a record
    body: Any = {"inputs": ["x"], "kwargs": {"return_exceptions": True}} if endpoint == "batch" else {"input": "x"}
    answer = client.post(f"/half/{endpoint}", json=body)
    assert [answer.text.count('"half ?"'), answer.text.count('"internal"')] == [1, 1]
