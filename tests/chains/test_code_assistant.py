"""The code assistant: a structured answer that grows while it streams."""

from itertools import pairwise
from typing import Any

from chains import code_assistant

REQUEST = {"request": "Write a function that reverses a string"}


def assert_grows(chunks: list[dict[str, Any]]) -> None:
    for earlier, later in pairwise(chunks):
        assert all(later[key].startswith(value) for key, value in earlier.items())


def test_the_answer_grows_field_by_field_until_it_is_whole() -> None:
    chunks = list(code_assistant.chain.build().stream(REQUEST))
    assert_grows(chunks)
    assert len(chunks) > 5
    assert list(chunks[-1]) == ["language", "code", "explanation"]


async def test_the_async_stream_gives_the_same_chunks() -> None:
    runnable = code_assistant.chain.build()
    assert [chunk async for chunk in runnable.astream(REQUEST)] == list(runnable.stream(REQUEST))


def test_the_last_chunk_is_the_output_of_invoke() -> None:
    runnable = code_assistant.chain.build()
    assert list(runnable.stream(REQUEST))[-1] == runnable.invoke(REQUEST)


def test_code_and_language_can_be_left_out() -> None:
    text = code_assistant.prompt.invoke(REQUEST).to_string()
    assert "Language: Python" in text


def test_code_with_braces_reaches_the_model_unchanged() -> None:
    code = 'print(f"{name}")'
    assert code in code_assistant.prompt.invoke({**REQUEST, "code": code}).to_string()
