"""A chunk written from a template has the same line as alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk, HumanMessageChunk
from langchain_core.messages.tool import tool_call_chunk

from streamserve import fast_paths
from streamserve.fast_paths import noted
from streamserve.wire import chunk_lines
from streamserve.wire.chunk_lines import ChunkLines, is_on
from streamserve.wire.serializer import Serializer, typed_line

CHUNKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "a name": {"name": "ann"},
    "a provider": {"response_metadata": {"model_provider": "openai", "nested": {"a": [None, "b"]}}},
    "an integer": {"response_metadata": {"n": 1}},
    "a truth": {"response_metadata": {"n": True}},
    "a decimal": {"response_metadata": {"n": 1.0}},
    "a set": {"additional_kwargs": {"n": {"a"}}},
    "what looks like a message": {"additional_kwargs": {"type": "human", "content": "a"}},
    "control letters": {"additional_kwargs": {"\x01t": "\x01i"}},
    "a number for a key": {"additional_kwargs": {1: "a"}},
    "a further field": {"further": "field"},
    "a tool call": {"tool_call_chunks": [tool_call_chunk(name="add", args="{", id="1", index=0)]},
    "usage": {"usage_metadata": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}},
    "the last": {"chunk_position": "last"},
    "blocks": {"content": [{"type": "text", "text": "a"}]},
    "no id": {"id": None},
}
TEXTS = st.text(alphabet=st.sampled_from('a"\\{}é\x01ti\n\t\u2028\x85\U0001f600'), max_size=6)
SHAPES = st.sampled_from(sorted(CHUNKS))


def chunk(shape: str, content: str = "text", chunk_id: str = "run--1") -> AIMessageChunk:
    fields: dict[str, Any] = {"content": content, "id": chunk_id, **CHUNKS[shape]}
    return AIMessageChunk(**fields)


@given(said=st.lists(st.tuples(SHAPES, TEXTS, TEXTS), min_size=1, max_size=12))
def test_whatever_came_before_a_chunks_line_is_its_own(said: list[tuple[str, str, str]]) -> None:
    serializer = Serializer()
    for shape, content, chunk_id in said:
        each = chunk(shape, content, chunk_id)
        assert serializer.dumps(each) == typed_line(each)


@pytest.mark.parametrize("first", CHUNKS)
def test_chunks_of_another_kind_have_their_own_lines(first: str) -> None:
    serializer = Serializer()
    for shape in CHUNKS:
        for each in (chunk(first), chunk(first, "b"), chunk(shape), chunk(shape, "b"), chunk(first)):
            assert serializer.dumps(each) == typed_line(each)


def test_a_chunk_that_was_changed_since_is_written_as_it_is_now() -> None:
    serializer, each = Serializer(), chunk("a provider")
    serializer.dumps(each)
    each.response_metadata["nested"]["a"].append("c")
    assert b'"c"' in serializer.dumps(each)
    assert serializer.dumps(chunk("a provider")) == typed_line(chunk("a provider"))


def test_half_of_an_emoji_is_escaped() -> None:
    serializer = Serializer()
    serializer.dumps(chunk("plain"))
    half = chunk("plain", "\ud800")
    assert json.loads(serializer.dumps(half)) == half.model_dump()


def test_messages_of_other_classes_are_not_taken_for_chunks() -> None:
    serializer = Serializer()
    serializer.dumps(chunk("plain"))
    other = HumanMessageChunk(content="text", id="run--1")
    assert serializer.dumps(other) == typed_line(other)


def test_the_next_chunk_like_it_is_not_dumped_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    serializer = Serializer()
    expected = typed_line(chunk("plain", "b"))
    serializer.dumps(chunk("plain"))
    monkeypatch.setattr("streamserve.wire.serializer.typed_line", lambda _: pytest.fail("it was dumped"))
    assert serializer.dumps(chunk("plain", "b")) == expected


def test_templates_are_off_where_a_line_depends_on_the_text(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fast_paths, "_noted", {})

    def with_length(chunk: AIMessageChunk) -> bytes:
        return typed_line(chunk) + str(len(chunk.content)).encode()

    assert not is_on(with_length)
    assert "fast path off: message lines" in caplog.text
    assert [(path.name, path.is_on) for path in noted()] == [(chunk_lines.NAME, False)]
    assert not is_on(lambda chunk: chunk.no_such_field)
    assert is_on(typed_line)


def test_without_templates_the_lines_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamserve.wire.serializer.is_on", lambda _: False)
    serializer = Serializer()
    monkeypatch.setattr(ChunkLines, "line", lambda *_: pytest.fail("a template was used"))
    for shape in CHUNKS:
        assert serializer.dumps(chunk(shape)) == typed_line(chunk(shape))
