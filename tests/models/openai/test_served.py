"""The whole way: llama.cpp's server -> ChatOpenAI -> a chain -> our server -> the SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from streamserve_sdk import RemoteRunnable
from streamserve_sdk.errors import RequestRejected, StreamServeError

from streamserve import Chain
from streamserve.app import create_app
from streamserve.models import chat_model
from tests.fakes import Topic, registry_of
from tests.models.openai.test_chat import LONG, add, chunks_of, joined
from tests.servers import serving
from tests.upstream.llama import TEXT, Upstream
from tests.upstream.sayer import unique_pieces

pytestmark = pytest.mark.usefixtures("each_transport")

Serve = Callable[[str], Any]

prompt = ChatPromptTemplate.from_template("{topic}")
both = pytest.mark.parametrize("how", ["sync", "async"])


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serve /text, /chat and /tools with the model server at a base URL; yield a factory of clients."""

    @contextmanager
    def served(base_url: str) -> Iterator[Callable[[str], RemoteRunnable]]:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        monkeypatch.delenv("STREAMSERVE_MODEL", raising=False)
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
        model = chat_model(max_retries=0)
        chains = {
            "text": prompt | model | StrOutputParser(),
            "chat": prompt | model,
            "tools": prompt | model.bind_tools([add]),
        }
        app = create_app(registry_of({name: Chain(runnable=made, input_type=Topic) for name, made in chains.items()}))
        with serving(app) as url:
            yield lambda name: RemoteRunnable(f"{url}/{name}")

    return served


async def streamed(remote: RemoteRunnable, topic: str, how: str) -> AIMessageChunk:
    async with remote:
        return joined(await chunks_of(remote, {"topic": topic}, how))  # type: ignore[arg-type]


@both
async def test_text_arrives_token_by_token(llama_text: Upstream, serve: Serve, how: str) -> None:
    with serve(llama_text.base_url) as client:
        async with client("text") as remote:
            chunks = await chunks_of(remote, {"topic": "hi"}, how)
        assert [chunk for chunk in chunks if chunk] == unique_pieces(TEXT)
        with client("text") as remote:
            assert remote.invoke({"topic": "hi"}) == "".join(unique_pieces(TEXT))


@both
async def test_usage_arrives_with_the_last_chunk(llama_text: Upstream, serve: Serve, how: str) -> None:
    with serve(llama_text.base_url) as client:
        whole = await streamed(client("chat"), "hi", how)
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == len(unique_pieces(TEXT)) + 1
    assert whole.response_metadata["finish_reason"] == "stop"


@both
async def test_tool_calls_arrive_parsed(llama_tools: Upstream, serve: Serve, how: str) -> None:
    with serve(llama_tools.base_url) as client:
        [call] = (await streamed(client("tools"), "20 + 22?", how)).tool_calls
    assert (call["name"], call["args"]) == ("add", {"a": 20, "b": 22})


@both
async def test_reasoning_arrives(llama_reasoning: Upstream, serve: Serve, how: str) -> None:
    with serve(llama_reasoning.base_url) as client:
        whole = await streamed(client("chat"), "What is six times seven?", how)
    assert "Short is kind." in whole.additional_kwargs["reasoning_content"]
    assert "Short is kind." not in whole.text


@both
async def test_a_prompt_beyond_the_context_is_a_clear_error(llama_small: Upstream, serve: Serve, how: str) -> None:
    with serve(llama_small.base_url) as client:
        with pytest.raises(StreamServeError) as streaming:
            await streamed(client("text"), LONG, how)
        with client("text") as remote, pytest.raises(RequestRejected) as invoking:
            remote.invoke({"topic": LONG})
    for error in (streaming.value, invoking.value):
        assert error.code == "context_length_exceeded"
        assert not error.retryable
        assert "longer than the model's context" in str(error)
