"""A chunk that is copied is the one that validation would have made."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from streamserve_sdk.decode import loadd
from streamserve_sdk.message_chunks import MessageChunks

PLAIN = {**AIMessageChunk(content="first", id="run--1").model_dump(), "type": "AIMessageChunk"}
TOOL_CHUNK = {"name": "add", "args": "{", "id": "1", "index": 0, "type": "tool_call_chunk"}
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


def assert_alike(made: Any, value: dict[str, Any]) -> None:
    validated = AIMessageChunk(**value)
    assert type(made) is AIMessageChunk
    assert made == validated
    assert made.__dict__ == validated.__dict__
    assert list(made.__dict__) == list(validated.__dict__)
    assert made.model_fields_set == validated.model_fields_set
    assert made.__pydantic_extra__ == validated.__pydantic_extra__
    assert made.__pydantic_private__ == validated.__pydantic_private__
    assert repr(made) == repr(validated)
    assert pickle.loads(pickle.dumps(made)) == validated
    assert made + made == validated + validated


@pytest.mark.parametrize(
    "change",
    [
        {"content": "second"},
        {"content": "", "id": "run--2"},
        {"content": "last", "chunk_position": "last"},
        {"content": [{"type": "text", "text": "block"}]},
        {"content": "named", "name": "ann"},
        {"id": None},
        {"response_metadata": {"finish_reason": "stop"}},
        {"usage_metadata": USAGE},
        {"tool_call_chunks": [TOOL_CHUNK]},
        {"additional_kwargs": {"reasoning_content": "why"}},
        {"further": "field"},
    ],
    ids=lambda change: "+".join(change),
)
def test_a_chunk_after_a_plain_one_is_as_validation_makes_it(change: dict[str, Any]) -> None:
    for value in (PLAIN, PLAIN | change, PLAIN | change, PLAIN):
        assert_alike(loadd(value), value)


def test_a_chunk_with_fewer_fields_is_as_validation_makes_it() -> None:
    short = {"type": "AIMessageChunk", "content": "text", "id": "run--1"}
    for value in (PLAIN, short, short, PLAIN):
        assert_alike(loadd(value), value)


def test_copies_share_nothing_that_can_change() -> None:
    chunks = MessageChunks()
    first, second, third = chunks.make(PLAIN), chunks.make(PLAIN), chunks.make(PLAIN)
    assert first is not None
    assert second is not None
    second.additional_kwargs["changed"] = True
    second.tool_calls.append({"name": "add", "args": {}, "id": "1"})
    second.name = "ann"
    first.response_metadata["changed"] = True
    assert third == AIMessageChunk(**PLAIN)
    assert chunks.make(PLAIN) == third
    assert third is not None
    assert third.model_fields_set == AIMessageChunk(**PLAIN).model_fields_set


def test_values_that_are_equal_and_differ_are_not_taken_for_each_other() -> None:
    for value in (PLAIN | {"further": 1}, PLAIN | {"further": True}):
        made = loadd(value)
        assert made.further is value["further"]


def test_the_next_plain_chunk_is_not_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = MessageChunks()
    assert chunks.make(PLAIN) is not None
    monkeypatch.setattr(chunks, "_validated", lambda *_: pytest.fail("it was validated"))
    made = chunks.make(PLAIN | {"content": "second"})
    assert made is not None
    assert made.content == "second"
