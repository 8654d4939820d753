"""Servers that differ from OpenAI's: what they refuse, and what they send in another form."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage

from streamserve.errors.providers import UpstreamTruncated
from streamserve.models import chat_model
from tests.models.openai.test_chat import add, joined
from tests.upstream.scripted import DONE, META, Reply, Requests, chat, event, scripted_server

pytestmark = pytest.mark.usefixtures("each_transport")

both = pytest.mark.parametrize("how", ["sync", "async"])
JSON = {"Content-Type": "application/json"}
ANSWER = Reply([chat({"role": "assistant", "content": "hi"}) + chat(finish="stop") + DONE])


def model_of(server: Requests, **environment: str) -> BaseChatModel:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STREAMSERVE_MODEL", "OPENAI_API_KEY"):
            patch.delenv(name, raising=False)
        for name, value in {"OPENAI_BASE_URL": server.base_url, **environment}.items():
            patch.setenv(name, value)
        return chat_model(max_retries=0)


async def streamed(model: Any, how: str, question: Any = "hi") -> AIMessageChunk:
    if how == "sync":
        return joined(list(model.stream(question)))
    return joined([chunk async for chunk in model.astream(question)])


def refusal(status: int, place: str) -> Reply:
    detail = [{"type": "extra_forbidden", "loc": ["body", place], "input": "stream_options"}]
    return Reply([json.dumps({"detail": detail}).encode()], status, JSON)


@both
@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_without_stream_options_streams(status: int, how: str) -> None:
    with scripted_server(refusal(status, "stream_options"), ANSWER) as server:
        model = model_of(server)
        assert [(await streamed(model, how)).text for _ in range(2)] == ["hi", "hi"]
    assert ["stream_options" in body for _, _, body in server.seen] == [True, False, False]


@both
async def test_another_refusal_does_not_turn_usage_off(how: str) -> None:
    with scripted_server(refusal(422, "messages"), refusal(422, "messages"), ANSWER) as server:
        model = model_of(server)
        with pytest.raises(openai.UnprocessableEntityError):
            await streamed(model, how)
        assert (await streamed(model, how)).text == "hi"
    assert ["stream_options" in body for _, _, body in server.seen] == [True, False, True]


async def test_a_server_that_takes_stream_options_is_asked_once() -> None:
    with scripted_server(ANSWER) as server:
        assert (await streamed(model_of(server), "async")).text == "hi"
    assert ["stream_options" in body for _, _, body in server.seen] == [True]


COUNTS = {
    "prompt_tokens": 3.0,
    "completion_tokens": 2.0,
    "total_tokens": 5.0,
    "prompt_tokens_details": {"cached_tokens": 1.0},
}


@both
@pytest.mark.parametrize("own_chunk", [True, False])
async def test_token_counts_may_be_floats(own_chunk: bool, how: str) -> None:
    last = [chat(finish="stop"), event({**META, "choices": [], "usage": COUNTS})]
    end = last if own_chunk else [chat(finish="stop", usage=COUNTS)]
    with scripted_server(Reply([chat({"content": "one"}), chat({"content": "two"}), *end, DONE])) as server:
        usage = (await streamed(model_of(server), how)).usage_metadata
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (3, 2, 5)
    assert usage["input_token_details"] == {"cache_read": 1}
    assert not any(isinstance(count, float) for count in usage.values())


CALL = [{"index": 0, "id": "call-1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}]
QUESTION = HumanMessage("1 + 2?")
RESULT = ToolMessage("3", tool_call_id="call-1")


def thought(field: str) -> Reply:
    return Reply(
        [chat({field: "I "}), chat({field: "add."}), chat({"tool_calls": CALL}), chat(finish="tool_calls"), DONE]
    )


def sent_reasoning(server: Requests) -> list[dict[str, str]]:
    """Return the reasoning in each message of the last request."""
    return [{k: v for k, v in sent.items() if "reasoning" in k} for sent in server.seen[-1][2]["messages"]]


@both
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_goes_back_in_a_tool_loop(field: str, how: str) -> None:
    with scripted_server(thought(field), ANSWER) as server:
        model = model_of(server).bind_tools([add])
        call = await streamed(model, how, [QUESTION])
        answer = await streamed(model, how, [QUESTION, call, RESULT])
        assert sent_reasoning(server) == [{}, {field: "I add."}, {}]
        await streamed(model, how, [QUESTION, call, RESULT, answer, HumanMessage("And 3 + 4?")])
        assert sent_reasoning(server) == [{}] * 5


async def test_no_server_gets_the_reasoning_of_another() -> None:
    kept = {"reasoning_content": "I add."}
    call = AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "call-1"}], additional_kwargs=kept)
    call.response_metadata["model_provider"] = "deepseek"
    with scripted_server(ANSWER) as server:
        await streamed(model_of(server), "async", [QUESTION, call, RESULT])
        assert sent_reasoning(server) == [{}] * 3


@both
@pytest.mark.parametrize("end", [DONE, b""])
async def test_a_server_may_never_send_a_finish_reason(end: bytes, how: str) -> None:
    with scripted_server(Reply([chat({"content": "hi"}), end] if end else [chat({"content": "hi"})])) as server:
        assert (await streamed(model_of(server, STREAMSERVE_REQUIRE_FINISH="false"), how)).text == "hi"
        with pytest.raises(UpstreamTruncated):
            await streamed(model_of(server), how)


@both
async def test_a_cut_is_an_error_without_finish_reasons(how: str) -> None:
    with scripted_server(Reply([chat({"content": "hi"})], cut=True)) as server, pytest.raises(UpstreamTruncated):
        await streamed(model_of(server, STREAMSERVE_REQUIRE_FINISH="false"), how)
