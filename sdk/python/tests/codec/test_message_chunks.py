"""A copied chunk equals a validated one."""

from __future__ import annotations

import json
import pickle
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from streamserve_sdk.codec import decode
from streamserve_sdk.codec.decode import loadd, loads
from streamserve_sdk.codec.message_chunks import MessageChunks

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
def test_a_chunk_after_a_plain_one_equals_a_validated_one(change: dict[str, Any]) -> None:
    for value in (PLAIN, PLAIN | change, PLAIN | change, PLAIN):
        assert_alike(loadd(value), value)


def test_a_chunk_with_fewer_fields_equals_a_validated_one() -> None:
    short = {"type": "AIMessageChunk", "content": "text", "id": "run--1"}
    for value in (PLAIN, short, short, PLAIN):
        assert_alike(loadd(value), value)


def test_copies_share_no_mutable_values() -> None:
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


def test_equal_values_of_different_types_are_kept_apart() -> None:
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


TEXTS = st.text(alphabet=st.sampled_from('a"\\/:,{}é\n\t\x00\U0001f600 id'), max_size=8)


def spelled(value: dict[str, Any], *, ascii_only: bool = False, spaces: bool = False) -> bytes:
    separators = (", ", ": ") if spaces else (",", ":")
    return json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()


IDS = st.sampled_from(["run--1", "run--2"]) | TEXTS


@settings(deadline=None)
@given(said=st.lists(st.tuples(TEXTS, IDS, st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_any_text_and_its_json_give_the_same_chunk(said: list[tuple[str, str, bool, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "_CHUNKS", MessageChunks())
        for _ in range(3):
            loads(spelled(PLAIN))
        for content, chunk_id, ascii_only, spaces in said:
            value = PLAIN | {"content": content, "id": chunk_id}
            assert_alike(loads(spelled(value, ascii_only=ascii_only, spaces=spaces)), value)


CHUNK = spelled({"content": "a", **{name: value for name, value in PLAIN.items() if name != "content"}})


@pytest.mark.parametrize(
    "change",
    [
        (b'"content":"a"', b'"content":"a","content":"b"'),
        (b'"content":"a"', b'"content":"a","name":"ann"'),
        (b'"content":"a"', b'"content":["a"]'),
        (b'"content":"a"', b'"content":null'),
        (b'"content":"a"', b'"content": "a" '),
        (b'"id":"run--1"', b'"id":"run--1","id":"run--2"'),
        (b'"id":"run--1"', b'"id":"run\\"--1"'),
        (b'"id":"run--1"', b'"id":null'),
        (b'{"content":"a",', b'{"name":"ann","content":"a",'),
        (b'"name":null,', b""),
        (b'"name":null', b'"name":"me"'),
        (b'{"content":', b'{"contenu":'),
    ],
)
def test_other_spellings_and_their_json_give_the_same_chunk(
    change: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_CHUNKS", MessageChunks())
    other = CHUNK.replace(*change)
    assert other != CHUNK
    further = other.replace(b'"a"', b'"c"', 1)
    for text in (other, other, further, CHUNK, CHUNK, CHUNK, other, further, CHUNK):
        made, value = loads(text), orjson.loads(text)
        assert made.content == value["content"] if hasattr(made, "content") else made == value
        assert made == loadd(value)


@pytest.mark.parametrize(
    "broken",
    [
        CHUNK[:-1],
        CHUNK + b"}",
        CHUNK.replace(b'"a"', b'"a'),
        CHUNK.replace(b'"a"', b"a"),
        CHUNK.replace(b"run", b"\\x"),
    ],
)
def test_broken_json_is_refused_after_chunks_too(broken: bytes) -> None:
    for text in (CHUNK, CHUNK, CHUNK):
        loads(text)
    with pytest.raises(ValueError, match=r"JSON|EOF|unexpected|control|invalid|trailing|escape"):
        loads(broken)


def test_a_chunk_with_known_spelling_is_not_parsed_whole() -> None:
    chunks = MessageChunks()
    value = orjson.loads(CHUNK)
    assert chunks.make(value, CHUNK) is not None
    assert chunks.read(CHUNK) is None
    assert chunks.make(value, CHUNK) is not None
    assert_alike(chunks.read(CHUNK), value)
    named = value | {"name": "ann"}
    assert chunks.make(named) is not None
    assert chunks.read(spelled(named)) is None
    assert_alike(chunks.read(CHUNK), value)
