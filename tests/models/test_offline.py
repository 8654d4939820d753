"""The offline model: text, tool calls and structured output by rule."""

import asyncio
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from streamserve.models.offline import OfflineChatModel
from streamserve.models.offline.replies import NOTICE

JOKE = "Tell me a short joke about a programmer."


def calculator(expression: str) -> str:
    """Evaluate arithmetic."""
    return expression


def search_docs(query: str) -> str:
    """Search the documents."""
    return query


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOLS = [calculator, search_docs, add]


@pytest.fixture
def model() -> BaseChatModel:
    return OfflineChatModel(pace=0)


def joined(chunks: list[Any]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])


async def test_sync_and_async_streams_and_invoke_agree(model: BaseChatModel) -> None:
    sync = joined(list(model.stream(JOKE)))
    asynchronous = joined([chunk async for chunk in model.astream(JOKE)])
    for other in (asynchronous, model.invoke(JOKE), await model.ainvoke(JOKE)):
        assert other.content == sync.content
        assert other.usage_metadata == sync.usage_metadata
        assert other.response_metadata == sync.response_metadata


def test_tokens_are_words_with_their_leading_space(model: BaseChatModel) -> None:
    tokens = [chunk.text for chunk in model.stream(JOKE) if chunk.text]
    assert len(tokens) > 20
    assert all(token == token.rstrip() and len(token.split()) == 1 for token in tokens)


def test_the_last_chunk_tells_usage_model_and_finish_reason(model: BaseChatModel) -> None:
    *others, last = model.stream(JOKE)
    assert isinstance(last, AIMessageChunk)
    assert last.usage_metadata == {"input_tokens": 8, "output_tokens": len(others), "total_tokens": 8 + len(others)}
    assert last.response_metadata == {"model_name": "streamserve-offline", "finish_reason": "stop"}
    assert last.chunk_position == "last"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (JOKE, "a programmer"),
        ("Tell me a story about a fox, with choices.", "1. "),
        ("What is LCEL?", "“What is LCEL?”"),
        ("[1] a.md, One\nCats sleep. A lot.\n\n[2] b.md, Two\nDogs bark.\n\nQuestion: Do dogs bark?", "Dogs bark. [2]"),
    ],
)
def test_answers_are_on_topic_and_say_what_answers(model: BaseChatModel, question: str, expected: str) -> None:
    text = model.invoke(question).text
    assert expected in text
    assert text.endswith(NOTICE)


def test_a_story_does_not_tell_a_scene_twice_and_ends(model: BaseChatModel) -> None:
    system = SystemMessage("You tell an interactive story.")
    told: list[str] = []
    for _ in range(3):
        told.append(model.invoke([system, HumanMessage("About a fox.\n\n" + "\n".join(told))]).text)
    assert len(set(told)) == 3
    assert "The end." in model.invoke([system, HumanMessage("Write the last scene.")]).text


def test_a_stop_mark_ends_the_text(model: BaseChatModel) -> None:
    assert model.invoke("What is LCEL?", stop=["LCEL"]).text == "You wrote: “What is "


@pytest.mark.parametrize(
    ("question", "name", "args"),
    [
        ("What is 12 * (3 + 4)?", "calculator", {"expression": "12 * (3 + 4)"}),
        ("Search the docs: what is a chain module?", "search_docs", {"query": "what is a chain module"}),
        ("Please add 20 and 22", "add", {"a": 20, "b": 22}),
    ],
)
async def test_a_question_that_asks_for_a_tool_gets_its_call(
    model: BaseChatModel, question: str, name: str, args: dict[str, Any]
) -> None:
    bound = model.bind_tools(TOOLS)
    for message in (joined([c async for c in bound.astream(question)]), bound.invoke(question)):
        [call] = message.tool_calls
        assert (call["name"], call["args"]) == (name, args)
        assert message.response_metadata["finish_reason"] == "tool_calls"


def test_a_tool_call_streams_in_parts(model: BaseChatModel) -> None:
    parts = [part for c in model.bind_tools(TOOLS).stream("add 20 and 22") for part in c.tool_call_chunks]
    assert "".join(part["args"] or "" for part in parts) == '{"a": 20, "b": 22}'
    assert len(parts) > 2


def test_a_greeting_calls_no_tool(model: BaseChatModel) -> None:
    assert model.bind_tools(TOOLS).invoke("Hello there").tool_calls == []


def test_a_forced_tool_is_always_called(model: BaseChatModel) -> None:
    [call] = model.bind_tools(TOOLS, tool_choice="add").invoke("Hello there").tool_calls
    assert call["name"] == "add"


def test_an_answer_uses_the_tools_result(model: BaseChatModel) -> None:
    bound = model.bind_tools(TOOLS)
    asked = bound.invoke("What is 12 * 7?")
    result = ToolMessage("84", tool_call_id=asked.tool_calls[0]["id"], name="calculator")
    answer = bound.invoke([HumanMessage("What is 12 * 7?"), asked, result])
    assert answer.tool_calls == []
    assert "84" in answer.text


class Edit(TypedDict):
    """Code for the editor."""

    explanation: str
    code: str


class Review(BaseModel):
    """A review."""

    title: str = Field(max_length=12)
    verdict: Literal["good", "bad"]
    score: float = Field(gt=0, lt=1)
    stars: int = Field(ge=2, le=5, multiple_of=2)
    choices: list[str] = Field(min_length=2, max_length=3)
    reply: "Review | None" = None


async def test_a_typed_dict_grows_as_it_streams(model: BaseChatModel) -> None:
    parts: list[Any] = [part async for part in model.with_structured_output(Edit).astream("reverse a string")]
    assert set(parts[-1]) == {"explanation", "code"}
    assert len(parts) > 5
    whole = [parts[-1]["explanation"].startswith(part.get("explanation", "")) for part in parts]
    assert all(whole)


def test_a_pydantic_class_is_filled_within_its_bounds(model: BaseChatModel) -> None:
    review = model.with_structured_output(Review).invoke("Is 7 a bad number?")
    assert isinstance(review, Review)
    assert review.verdict == "bad"
    assert (review.score, review.stars, len(review.choices)) == (0.999, 2, 3)


def test_a_json_schema_gives_a_dict(model: BaseChatModel) -> None:
    schema = {"title": "City", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert model.with_structured_output(schema).invoke("How is the weather in Paris?") == {"city": "Paris"}


async def test_cancelling_stops_the_wait_for_the_next_token() -> None:
    async def consume() -> None:
        async for _ in OfflineChatModel(pace=3600).astream(JOKE):
            pytest.fail("no token is due for an hour")

    task = asyncio.create_task(consume())
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_other_tasks_run_between_tokens(model: BaseChatModel) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    tokens = [chunk async for chunk in model.astream(JOKE)]
    other.cancel()
    assert turns >= len(tokens) - 1
