"""The chat model against a real OpenAI-compatible server (llama.cpp), and against one that fails."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from typing_extensions import TypedDict

from streamserve.errors.providers import UpstreamTruncated
from streamserve.models import chat_model
from streamserve.models.gguf import EmbeddedServer, embedded_server
from tests.upstream.faulty import DONE, TOKEN, event, faulty_server
from tests.upstream.llama import TEXT, Upstream, llama_server
from tests.upstream.sayer import REASONING, make_gguf, unique_pieces

pytestmark = pytest.mark.usefixtures("each_transport")

Connect = Callable[[str], BaseChatModel]
LONG = "word " * 400


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def joined(chunks: list[Any]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])


async def chunks_of(model: Any, question: str, how: str) -> list[Any]:
    if how == "sync":
        return list(model.stream(question))
    return [chunk async for chunk in model.astream(question)]


async def streamed(model: Any, question: str, how: str) -> AIMessageChunk:
    return joined(await chunks_of(model, question, how))


async def invoked(model: Any, question: str, how: str) -> Any:
    return model.invoke(question) if how == "sync" else await model.ainvoke(question)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Return a factory of the chat model, as a chain makes it, for a base URL that needs no key."""

    def connected(base_url: str) -> BaseChatModel:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        monkeypatch.delenv("STREAMSERVE_MODEL", raising=False)
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
        return chat_model(max_retries=0)

    return connected


both = pytest.mark.parametrize("how", ["sync", "async"])


@both
async def test_text_streams_token_by_token_with_usage(llama_text: Upstream, connect: Connect, how: str) -> None:
    model = connect(llama_text.base_url)
    chunks = await chunks_of(model, "hi", how)
    assert [chunk.text for chunk in chunks if chunk.text] == unique_pieces(TEXT)
    whole = joined(chunks)
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == len(unique_pieces(TEXT)) + 1
    assert whole.response_metadata["finish_reason"] == "stop"


@both
async def test_tool_calls_stream_and_parse(llama_tools: Upstream, connect: Connect, how: str) -> None:
    model = connect(llama_tools.base_url).bind_tools([add])
    for message in (await streamed(model, "20 + 22?", how), await invoked(model, "20 + 22?", how)):
        [call] = message.tool_calls
        assert (call["name"], call["args"]) == ("add", {"a": 20, "b": 22})
        assert message.response_metadata["finish_reason"] == "tool_calls"


@both
async def test_reasoning_is_kept(llama_reasoning: Upstream, connect: Connect, how: str) -> None:
    model = connect(llama_reasoning.base_url)
    for message in (await streamed(model, "6 * 7?", how), await invoked(model, "6 * 7?", how)):
        assert message.text == "Forty-two."
        assert message.additional_kwargs["reasoning_content"].strip() == "Short is kind."
        assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]


def test_reasoning_comes_once_when_the_output_is_structured(tmp_path: Path, connect: Connect) -> None:
    class Setup(TypedDict):
        """A joke's first line."""

        setup: str

    said = '<think>\nBe funny.\n</think>\n\n{"setup": "Knock, knock."}'
    with llama_server(make_gguf(tmp_path / "json.gguf", said, template=REASONING)) as server:
        model = connect(server.base_url).with_structured_output(Setup, include_raw=True)
        raw = joined([chunk["raw"] for chunk in model.stream("joke") if "raw" in chunk])
    assert raw.additional_kwargs["reasoning_content"].strip() == "Be funny."


@both
async def test_structured_output_grows_as_it_streams(tmp_path: Path, connect: Connect, how: str) -> None:
    class Joke(TypedDict):
        """A joke."""

        setup: str
        punchline: str

    said = '{"setup": "Knock, knock.", "punchline": "Who streams there?"}'
    with llama_server(make_gguf(tmp_path / "json.gguf", said)) as server:
        model = connect(server.base_url).with_structured_output(Joke)
        parts = await chunks_of(model, "joke", how)
    assert parts[-1] == {"setup": "Knock, knock.", "punchline": "Who streams there?"}
    assert len(parts) > 2


@both
async def test_a_prompt_beyond_the_context_is_a_context_overflow(
    llama_small: Upstream, connect: Connect, how: str
) -> None:
    model = connect(llama_small.base_url)
    for call in (streamed, invoked):
        with pytest.raises(ContextOverflowError, match="exceeds the available context size") as caught:
            await call(model, LONG, how)
        assert isinstance(caught.value, openai.BadRequestError)


@both
async def test_a_stream_without_finish_reason_is_an_error(connect: Connect, how: str) -> None:
    with faulty_server(event(TOKEN) + DONE) as base_url, pytest.raises(UpstreamTruncated, match="finish reason"):
        await streamed(connect(base_url), "hi", how)


@both
async def test_a_connection_lost_in_the_answer_is_an_error(connect: Connect, how: str) -> None:
    with faulty_server(event(TOKEN), missing=100) as base_url, pytest.raises(UpstreamTruncated, match="broke off"):
        await streamed(connect(base_url), "hi", how)


async def test_the_text_before_the_loss_still_arrives(connect: Connect) -> None:
    with faulty_server(event(TOKEN), missing=100) as base_url:
        stream = connect(base_url).astream("hi")
        assert (await anext(stream)).text == "Half"
        with pytest.raises(UpstreamTruncated):
            await anext(stream)


@both
async def test_a_server_that_is_down_is_a_connection_error(connect: Connect, how: str) -> None:
    with faulty_server(b"") as base_url:
        model = connect(base_url)
    with pytest.raises(openai.APIConnectionError) as caught:
        await streamed(model, "hi", how)
    assert not isinstance(caught.value, UpstreamTruncated)


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    """The server behind STREAMSERVE_MODEL=gguf:PATH, closed after the test."""
    path = make_gguf(tmp_path / "sayer.gguf", TEXT)
    monkeypatch.setenv("STREAMSERVE_MODEL", f"gguf:{path}")
    server = embedded_server(path)
    yield server
    server.close()
    gc.collect()


@both
async def test_a_gguf_file_is_loaded_by_the_first_call_only(embedded: EmbeddedServer, how: str) -> None:
    model = chat_model()
    assert not embedded.running
    assert (await streamed(model, "hi", how)).text == TEXT
    assert embedded.running
    assert (await invoked(chat_model(), "hi", how)).text == TEXT


def test_an_embedded_server_answers_nobody_without_its_key(embedded: EmbeddedServer) -> None:
    client = openai.OpenAI(base_url=f"{embedded.address()}/v1", api_key="guess", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "hi"}])


def test_an_embedded_server_listens_on_loopback_only(embedded: EmbeddedServer) -> None:
    assert embedded.address().startswith("http://127.0.0.1:")
