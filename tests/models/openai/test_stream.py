"""ChatOpenAI's own stream and ours, side by side: every message chunk, callback, error and request is the same."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, closing
from typing import Any, cast
from uuid import UUID

import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI, StreamChunkTimeoutError
from typing_extensions import TypedDict

from streamserve.models.openai.chat import CompatibleChatOpenAI
from streamserve.models.openai.completions import ChunkChatOpenAI
from tests.limits import LIMIT
from tests.upstream.llama import Upstream
from tests.upstream.scripted import DONE, META, Reply, Requests, chat, event, pieces, scripted_server

RUN_ID = UUID(int=7)
RAW = "x-stainless-raw-response"
Make = Callable[..., ChatOpenAI]


def stock_compatible(**kwargs: Any) -> ChatOpenAI:
    return CompatibleChatOpenAI(fast_stream=False, **kwargs)


PAIRS: dict[str, tuple[Make, Make]] = {
    "ChatOpenAI": (ChatOpenAI, ChunkChatOpenAI),
    "CompatibleChatOpenAI": (stock_compatible, CompatibleChatOpenAI),
}
both = pytest.mark.parametrize("how", ["sync", "async"])
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


class Recorder(BaseCallbackHandler):
    """A recorder of a model's callbacks."""

    run_inline = True
    raise_error = True

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        self.seen.append(("token", token, described(chunk), kwargs))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.seen.append(("end", response.model_dump(), kwargs))

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.seen.append(("error", described(error), kwargs.get("run_id")))


def described(found: Any) -> Any:
    """Return all observable parts of a chunk or an error."""
    if isinstance(found, BaseException):
        kept = {name: value for name, value in vars(found).items() if name not in ("request", "response")}
        return type(found), str(found), kept, type(found.__cause__)
    return (type(found), found.model_dump()) if hasattr(found, "model_dump") else found


async def outcome_of(model: Any, how: str) -> list[Any]:
    """Return the chunks of a stream, its error and its callbacks."""
    recorder = Recorder()
    config = RunnableConfig(callbacks=[recorder], run_id=RUN_ID)
    seen: list[Any] = []
    try:
        if how == "sync":
            seen += (described(chunk) for chunk in model.stream("hi", config))
        else:
            async with asyncio.timeout(LIMIT):
                async for chunk in model.astream("hi", config):
                    seen.append(described(chunk))
    except Exception as error:
        seen.append(described(error))
    return [*seen, *recorder.seen]


def comparable(outcome: list[Any]) -> list[str]:
    """Return the same with the ids of runs and of llama.cpp's tool calls numbered in their order."""
    numbers: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        return numbers.setdefault(found[0], f"id {len(numbers)}")

    return [re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b\w{32}\b", number, repr(item)) for item in outcome]


def asked(requests: Requests) -> list[Any]:
    """Return the requests without the parts that must differ."""
    varying = (RAW, "host")
    return [(path, {k: v for k, v in head.items() if k not in varying}, body) for path, head, body in requests.seen]


Bind = Callable[[ChatOpenAI], Any]


@asynccontextmanager
async def connected(make: Make, base_url: str, **kwargs: Any) -> AsyncIterator[ChatOpenAI]:
    """Yield a model and close its connections after the block."""
    with openai.DefaultHttpxClient() as client:
        async with openai.DefaultAsyncHttpxClient() as async_client:
            clients = {"http_client": client, "http_async_client": async_client}
            yield make(base_url=base_url, api_key="key", model="gpt-4.1", **{"max_retries": 0, **clients, **kwargs})


async def compared(
    pair: tuple[Make, Make], how: str, *replies: Reply, bind: Bind = lambda model: model, **kwargs: Any
) -> tuple[list[Any], Requests]:
    """Compare both outcomes and requests, and return ours."""
    found = []
    for make in pair:
        with scripted_server(*replies) as server:
            async with connected(make, server.base_url, **kwargs) as model:
                found.append((await outcome_of(bind(model), how), server))
    (theirs, their_server), (ours, our_server) = found
    assert comparable(ours) == comparable(theirs)
    assert asked(our_server) == asked(their_server)
    assert not any(RAW in head for _, head, _ in their_server.seen if not kwargs.get("include_response_headers"))
    return ours, our_server


def is_fast(server: Requests) -> bool:
    return all(RAW in headers for _, headers, _ in server.seen)


def call(index: int | None, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [({} if index is None else {"index": index}) | more]}


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
LOGPROBS = {"content": [{"token": "Hé", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
START = chat({"role": "assistant", "content": ""})
TEXT = START + chat({"content": "Zwölf "}) + chat({"content": "日本 🎉\u2028\u0085"})
END = chat(finish="stop", system_fingerprint="fp", service_tier="flex") + DONE
BODIES: dict[str, bytes] = {
    "text": TEXT + END,
    "usage in a chunk of its own": TEXT + chat(finish="stop") + event({**META, "choices": [], "usage": USAGE}) + DONE,
    "usage in every chunk": chat({"content": "a"}, usage=USAGE) + chat(finish="stop", usage=USAGE) + DONE,
    "parallel tool calls": START
    + chat(call(0, id="a", type="function", function={"name": "add", "arguments": ""}))
    + chat(call(1, id="b", type="function", function={"name": "mul", "arguments": '{"x"'}))
    + chat(call(0, function={"arguments": '{"x": 1}'}))
    + chat(call(1, function={"arguments": ": 2}"}))
    + chat(finish="tool_calls")
    + DONE,
    "a tool call without an index": chat(call(None, id="a", function={"name": "add", "arguments": "{}"})) + END,
    "a tool call without a name": chat(call(0, id="a", function={"arguments": "{}"})) + END,
    "a tool call without a function": chat(call(0, id="a", function=None)) + END,
    "tool calls that are null": chat({"content": "a", "tool_calls": None}) + END,
    "a function call": chat({"function_call": {"arguments": "{}"}}) + END,
    "a null function call": chat({"content": "a", "function_call": None}) + END,
    "reasoning_content": chat({"reasoning_content": "Hm"}) + chat({"content": "a"}) + END,
    "reasoning": chat({"reasoning": "Hm", "content": None}) + chat({"content": "a"}) + END,
    "logprobs": chat({"content": "Hé"}, choice={"logprobs": LOGPROBS}) + END,
    "a refusal": chat({"refusal": "No."}) + chat(finish="content_filter") + DONE,
    "no choices first": event({**META, "choices": [], "prompt_filter_results": []}) + TEXT + END,
    "choices that are null": event({**META, "choices": None}) + TEXT + END,
    "choices that are missing": event(META) + TEXT + END,
    "a choice without a delta": TEXT + event({**META, "choices": [{"index": 0, "finish_reason": None}]}) + END,
    "a delta that is null": TEXT + event({**META, "choices": [{"index": 0, "delta": None}]}) + END,
    "two choices": event({**META, "choices": [{"index": i, "delta": {"content": str(i)}} for i in (1, 0)]}) + END,
    "another role": chat({"role": "system", "content": "a"}) + END,
    "fields that nobody knows": chat({"content": "a", "extra": {"b": [1]}}, timings={"n": 1}, type="x") + END,
    "NaN and half a surrogate": b'data: {"choices": [{"delta": {"content": "\\ud83d"}}], "n": NaN}\n\n' + END,
    "CRLF": (TEXT + END).replace(b"\n", b"\r\n"),
    "CR": (TEXT + END).replace(b"\n", b"\r"),
    "data over lines": b'data: {"choices": [{"index": 0,\ndata:"delta": {"content": "a"}}]}\n\n' + END,
    "comments, ids and types": b": hi\n\nid: 1\nevent: chunk\nretry: 5\nother\n" + TEXT + b":\n" + END,
    "nothing after the last line": TEXT + chat(finish="stop") + b"data: [DONE]",
    "no [DONE]": TEXT + chat(finish="stop"),
    "more after [DONE]": TEXT + END + TEXT,
    "a stream that stops": TEXT,
    "a stream that stops in an event": TEXT + b'data: {"choices": [{"del',
    "nothing": b"",
    "[DONE] only": DONE,
    "a body that is no event stream": b'{"choices": []}',
    "an error": TEXT + event({"error": {"message": "overloaded", "type": "server_error", "code": 503}}) + END,
    "an error of text": TEXT + event({"error": "overloaded"}) + END,
    "an error of an overflow": event({"error": {"message": "Input exceeds the context window"}}),
    "an error with a type": b'event: error\ndata: {"error": {"message": "gone"}}\n\n' + END,
    "a broken chunk": TEXT + b"data: {\n\n" + END,
    "bytes that are no text": TEXT + b'data: {"choices": "\xff"}\n\n' + END,
    "null": TEXT + b"data: null\n\n" + END,
    "a number": TEXT + b"data: 1\n\n" + END,
    "an event of a thread": b"event: thread.run\n" + TEXT + END,
}


@pairs
@both
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_gives_the_same_stream(pair: tuple[Make, Make], body: bytes, how: str) -> None:
    outcome, server = await compared(pair, how, Reply(pieces(body, 4096)))
    assert outcome
    assert is_fast(server)


@both
@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("name", ["text", "CRLF", "CR", "parallel tool calls", "an error", "data over lines"])
async def test_cuts_between_bytes_do_not_matter(name: str, size: int, how: str) -> None:
    await compared(PAIRS["ChatOpenAI"], how, Reply(pieces(BODIES[name], size)))


@both
@pytest.mark.parametrize(
    "kwargs",
    [
        {"include_response_headers": True},
        {"output_version": "v1"},
        {"stream_usage": True},
        {"stream_usage": False},
        {"stream_chunk_timeout": None},
        {"stream_chunk_timeout": 0},
        {"default_headers": {"x-mine": "1"}, "extra_body": {"k": 1}, "temperature": 0.5},
    ],
    ids=str,
)
async def test_an_argument_has_the_same_effect(kwargs: dict[str, Any], how: str) -> None:
    reply = Reply([BODIES["text"]], headers={"x-request-id": "r1"})
    _, server = await compared(PAIRS["ChatOpenAI"], how, reply, **kwargs)
    assert is_fast(server)


@both
async def test_a_request_is_retried_as_the_server_asks(how: str) -> None:
    busy = Reply([b'{"error": {"message": "slow down"}}'], status=429, headers={"Retry-After": "0.01"})
    _, server = await compared(PAIRS["ChatOpenAI"], how, busy, busy, Reply([BODIES["text"]]), max_retries=2)
    assert [head["x-stainless-retry-count"] for _, head, _ in server.seen] == ["0", "1", "2"]
    _, server = await compared(PAIRS["ChatOpenAI"], how, busy, max_retries=1)
    assert len(server.seen) == 2


@pairs
@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
async def test_a_refused_request_is_the_same_error(pair: tuple[Make, Make], status: int, how: str) -> None:
    body = b'{"error": {"message": "context_length_exceeded", "type": "exceed_context_size_error", "code": "c"}}'
    outcome, _ = await compared(pair, how, Reply([body], status=status, headers={"Content-Type": "application/json"}))
    assert issubclass(outcome[0][0], openai.APIStatusError)


@pairs
@both
async def test_a_connection_that_breaks_is_the_same_error(pair: tuple[Make, Make], how: str) -> None:
    outcome, _ = await compared(pair, how, Reply([TEXT], cut=True))
    assert any(isinstance(item[0], type) and issubclass(item[0], Exception) for item in outcome)


class Joke(TypedDict):
    """A joke."""

    setup: str


@both
@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
async def test_structured_output_is_the_same(method: Any, how: str) -> None:
    function = {"name": "Joke", "arguments": '{"setup": '}
    spoken = chat({"content": '{"setup": '}) + chat({"content": '"Knock"}'}) + chat(finish="stop")
    called = chat(call(0, id="a", function=function)) + chat(call(0, function={"arguments": '"Knock"}'}))
    body = called + chat(finish="tool_calls") if method == "function_calling" else spoken
    outcome, server = await compared(
        PAIRS["CompatibleChatOpenAI"],
        how,
        Reply([body + DONE]),
        bind=lambda model: model.with_structured_output(Joke, method=method, include_raw=True),
    )
    assert outcome[0]
    assert is_fast(server) is (method == "function_calling")


@both
async def test_the_responses_api_goes_the_stock_way(how: str) -> None:
    item = {"item_id": "m", "output_index": 0, "content_index": 0, "sequence_number": 1}
    delta = {"type": "response.output_text.delta", "delta": "Hi", "logprobs": [], **item}
    reply = Reply([b"event: response.output_text.delta\n" + event(delta)])
    outcome, server = await compared(PAIRS["ChatOpenAI"], how, reply, use_responses_api=True)
    assert outcome[0][1]["content"]
    assert [path for path, _, _ in server.seen] == ["/v1/responses"]
    assert not is_fast(server)


@pytest.mark.parametrize(
    "kwargs", [{}, {"model_kwargs": {"response_format": {"type": "json_object"}}}, {"use_responses_api": True}], ids=str
)
async def test_a_silent_model_times_out_despite_comments(kwargs: dict[str, Any]) -> None:
    outcome, _ = await compared(
        PAIRS["ChatOpenAI"], "async", Reply([TEXT], hang=True), stream_chunk_timeout=0.5, **kwargs
    )
    [found] = [item[2] for item in outcome if item[0] is StreamChunkTimeoutError]
    assert (found["timeout_s"], found["model_name"]) == (0.5, "gpt-4.1")


async def test_cancelling_closes_the_connection_to_the_model() -> None:
    arrived = asyncio.Event()

    async def read(model: ChatOpenAI) -> None:
        async for _ in model.astream("hi"):
            arrived.set()

    with scripted_server(Reply([TEXT], hang=True)) as server:
        async with asyncio.timeout(LIMIT), connected(ChunkChatOpenAI, server.base_url) as model:
            task = asyncio.create_task(read(model))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.left.wait, LIMIT)


@both
async def test_leaving_a_stream_closes_the_connection_to_the_model(how: str) -> None:
    with scripted_server(Reply([TEXT], hang=True)) as server:
        async with asyncio.timeout(LIMIT), connected(ChunkChatOpenAI, server.base_url) as model:
            if how == "sync":
                with closing(cast(Any, model.stream("hi"))) as stream:
                    next(stream)
            else:
                async with aclosing(cast(Any, model.astream("hi"))) as astream:
                    await anext(astream)
            assert await asyncio.to_thread(server.left.wait, LIMIT)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@both
@pytest.mark.parametrize("kind", ["llama_text", "llama_tools", "llama_reasoning"])
async def test_a_real_server_gives_the_same_stream(request: pytest.FixtureRequest, kind: str, how: str) -> None:
    upstream: Upstream = request.getfixturevalue(kind)
    found = []
    # Only the first answer is to a prompt that the server has not yet seen.
    for make in (ChatOpenAI, *itertools.chain(*PAIRS.values())):
        async with connected(make, upstream.base_url, stream_usage=True) as model:
            found.append(comparable(await outcome_of(model.bind_tools([add] if kind == "llama_tools" else []), how)))
    assert (found[2], found[4]) == (found[1], found[3])
    assert len(found[1]) > 3
