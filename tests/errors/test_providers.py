"""Failing providers, from their own answer over ChatOpenAI, the chain and the server to the caller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from deploy.services import free_port
from streamserve import Chain
from streamserve.models import chat_model
from tests.runs.support import app_of, client_of
from tests.upstream.scripted import Reply, chat, event, scripted_server

pytestmark = pytest.mark.usefixtures("each_transport")

SECRET = "sk-provider-secret"
QUESTION = {"input": "hello"}


def refused(status: int, headers: dict[str, str] | None = None, **error: Any) -> Reply:
    body = json.dumps({"error": {"message": f"{SECRET} is at its limit", **error}}).encode()
    return Reply([body], status, {"Content-Type": "application/json", "Connection": "close", **(headers or {})})


def in_stream(error: object) -> Reply:
    return Reply([chat({"content": "half"}) + event({"error": error})])


PAGE = {"Content-Type": "text/html", "Connection": "close"}
REFUSALS = {
    "rate limit": (refused(429, {"Retry-After": "7"}), 429, "upstream_rate_limited", True, "7"),
    "rate limit by a date": (refused(429, {"Retry-After": "Mon, 23 Nov 2026 10:00:00 GMT"}), 429, None, True, None),
    "rate limit for a year": (refused(429, {"Retry-After": "31536000"}), 429, None, True, "3600"),
    "rate limit for less than no time": (refused(429, {"Retry-After": "-5"}), 429, None, True, None),
    "no money": (refused(429, code="insufficient_quota"), 502, "upstream_rejected", False, None),
    "key": (refused(401), 502, "upstream_authentication", False, None),
    "permission": (refused(403), 502, "upstream_authentication", False, None),
    "unknown model": (refused(404), 502, "upstream_rejected", False, None),
    "argument": (refused(400), 502, "upstream_rejected", False, None),
    "context": (refused(400, code="context_length_exceeded"), 400, "context_length_exceeded", False, None),
    "content": (refused(400, code="content_filter"), 400, "content_filtered", False, None),
    "failure": (refused(503, {"Retry-After": "2"}), 502, "upstream", True, "2"),
    "no credit": (refused(402), 502, "upstream_rejected", False, None),
    "too large": (refused(413), 502, "upstream_rejected", False, None),
    "slow": (refused(408), 504, "upstream_timeout", True, None),
    "conflict": (refused(409), 502, "upstream", True, None),
    "rate limit in a stream": (in_stream({"message": SECRET, "code": 429}), 429, "upstream_rate_limited", True, None),
    "rate limit by its type": (in_stream({"type": "rate_limit_error"}), 429, "upstream_rate_limited", True, None),
    "no credit in a stream": (in_stream({"code": 402}), 502, "upstream_rejected", False, None),
    "no money in a stream": (in_stream({"code": "insufficient_quota"}), 502, "upstream_rejected", False, None),
    "context in a stream": (
        in_stream({"code": 400, "type": "exceed_context_size_error"}),
        400,
        "context_length_exceeded",
        False,
        None,
    ),
    "failure in a stream": (in_stream({"code": 500, "type": "server_error"}), 502, "upstream", True, None),
    "broken JSON in a stream": (Reply([b"data: {\n\n"]), 502, "upstream", True, None),
    "text in a stream": (in_stream(SECRET), 502, "upstream", True, None),
    "unknown model as success": (refused(200, code="model_not_found"), 502, "upstream_rejected", False, None),
    "rate limit as success": (refused(200, code=429), 429, "upstream_rate_limited", True, None),
    "failure as success": (refused(200), 502, "upstream", True, None),
    "page": (Reply([b"<html>\n\nlog in</html>\n\n"], headers=PAGE), 502, "upstream", True, None),
    "no choices": (Reply([b"{}"], headers={"Content-Type": "application/json"}), 502, "upstream", True, None),
    "half an object": (Reply([b'{"err'], headers={"Content-Type": "application/json"}), 502, "upstream", True, None),
    "cut": (Reply([chat({"content": "half"})], cut=True), 502, None, True, None),
    "no end": (
        Reply([chat({"content": "half"})], headers={"Connection": "close"}),
        502,
        "upstream_truncated",
        True,
        None,
    ),
}


@contextmanager
def asking(base_url: str, **options: Any) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("STREAMSERVE_MODEL", raising=False)
        environment.setenv("OPENAI_BASE_URL", base_url)
        model = chat_model(api_key=SECRET, model="m", max_retries=0, **options)
    with client_of(app_of({"chain": model})) as client:
        yield client


def failure_of(client: httpx.Client) -> tuple[httpx.Response, dict[str, Any]]:
    """Return the answer of /invoke, and the data of the stream's terminal block."""
    stream = client.post("/chain/stream", json=QUESTION).text
    data = stream.rpartition("event: error\ndata: ")[2]
    assert SECRET not in stream
    return client.post("/chain/invoke", json=QUESTION), json.loads(data)


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_a_providers_refusal_is_told_with_its_kind_and_its_pause(
    case: tuple[Reply, int, str | None, bool, str | None],
) -> None:
    reply, status, code, retryable, pause = case
    streams_only = not reply.headers.get("Content-Type")  # /invoke asks for no stream
    with scripted_server(reply) as upstream, asking(upstream.base_url) as client:
        answer, event = failure_of(client)
    assert (event["status_code"], event["retryable"]) == (status, retryable)
    assert code in (None, event["code"])
    if streams_only:
        return
    assert answer.status_code == status
    assert answer.json()["code"] == event["code"]
    assert answer.headers.get("Retry-After") == pause
    assert SECRET not in answer.text


def test_a_provider_that_is_not_there_is_unreachable() -> None:
    with asking(f"http://127.0.0.1:{free_port()}/v1") as client:
        answer, event = failure_of(client)
    assert answer.status_code == event["status_code"] == 502
    assert answer.json()["code"] == event["code"] == "upstream_unreachable"


def test_a_provider_that_says_nothing_is_a_timeout() -> None:
    with scripted_server(Reply(hang=True)) as upstream, asking(upstream.base_url, stream_chunk_timeout=0.2) as client:
        stream = client.post("/chain/stream", json=QUESTION).text
    assert json.loads(stream.rpartition("event: error\ndata: ")[2])["code"] == "upstream_timeout"


@pytest.mark.parametrize("expose", [False, True])
def test_a_chains_own_text_is_shown_only_if_its_record_says_so(expose: bool) -> None:
    def fail(_: Any) -> AIMessage:
        raise ValueError(f"the vault says {SECRET}")

    chain = Chain(runnable=RunnableLambda(fail), input_type=Any, output_type=Any, expose_errors=expose)
    with client_of(app_of({"chain": chain})) as client:
        answer = client.post("/chain/invoke", json=QUESTION)
        stream = client.post("/chain/stream", json=QUESTION).text
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert (SECRET in answer.text, SECRET in stream) == (expose, expose)
