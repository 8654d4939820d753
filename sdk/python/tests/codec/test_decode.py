"""Values decode as with LangServe's own serializer, and further tags are supported."""

import json
import sys
import warnings
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.agents import AgentAction, AgentActionMessageLog, AgentFinish
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, LLMResult
from langchain_core.prompt_values import ChatPromptValueConcrete, StringPromptValue
from streamserve_sdk.codec import decode, encode

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langserve.serialization import WellKnownLCSerializer

AI = AIMessage(
    "hi",
    id="m",
    tool_calls=[{"name": "t", "args": {"a": [1]}, "id": "c"}],
    usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
)
CALL = {"name": "t", "args": "{", "id": "c", "index": 0, "type": "tool_call_chunk"}
WELL_KNOWN = [
    AI,
    AIMessage([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]),
    AIMessageChunk(content="tok", id="m"),
    AIMessageChunk(content="", tool_call_chunks=[CALL], chunk_position="last"),
    HumanMessage("h", name="n", additional_kwargs={"k": {"type": "human", "content": "nested"}}),
    HumanMessageChunk(content="h"),
    SystemMessage("s"),
    SystemMessageChunk(content="s"),
    ToolMessage("r", tool_call_id="c", artifact={"x": 1}, status="error"),
    ToolMessageChunk(content="r", tool_call_id="c"),
    FunctionMessage("f", name="f"),
    FunctionMessageChunk(content="f", name="f"),
    ChatMessage("c", role="r"),
    ChatMessageChunk(content="c", role="r"),
    Document("page", metadata={"a": [1, {"b": None}]}, id="d"),
    StringPromptValue(text="p"),
    ChatPromptValueConcrete(messages=[HumanMessage("h"), AI]),
    AgentAction(tool="t", tool_input={"a": 1}, log="l"),
    AgentFinish(return_values={"output": AI}, log="l"),
    AgentActionMessageLog(tool="t", tool_input="i", log="l", message_log=[AI]),
    Generation(text="g"),
    ChatGeneration(message=AI),
    ChatGenerationChunk(message=AIMessageChunk(content="x")),
    LLMResult(generations=[[ChatGeneration(message=AI)]]),
]
# LangServe drops tool calls and usage of the messages inside of these.
HOLDERS = (AgentActionMessageLog, ChatGeneration, LLMResult)


@pytest.mark.parametrize("value", WELL_KNOWN, ids=lambda value: type(value).__name__)
def test_well_known_types_decode_as_in_langserve(value):
    theirs = WellKnownLCSerializer()
    data = theirs.dumps({"value": value, "list": [value]})
    ours = decode.loads(data)
    assert ours == theirs.loads(data)
    assert type(ours["value"]) is type(theirs.loads(data)["value"]) is type(value)
    sent = encode.dumps({"value": value, "list": [value]})
    if isinstance(value, HOLDERS):
        assert decode.loads(sent) == {"value": value, "list": [value]}
    else:
        assert sent == data


ODD = [
    {"type": "human"},
    {"type": "ai", "content": 7},
    {"type": "nobody", "content": "x"},
    {"type": ["human"], "content": "x"},
    {"type": None},
    {"type": {"type": "human", "content": "x"}},
    {"type": "Document", "page_content": "x", "extra": 1},
    {"a": [{"b": {"type": "system", "content": "deep"}}]},
]


@pytest.mark.parametrize("value", ODD, ids=str)
def test_odd_dicts_decode_as_in_langserve(value):
    ours, theirs = decode.loadd(value), WellKnownLCSerializer().loadd(value)
    assert (type(ours), ours) == (type(theirs), theirs)


def test_a_dict_that_breaks_a_message_class_stays_a_dict():
    broken = {"type": "AIMessageChunk", "content": "x", "tool_calls": "broken"}
    assert decode.loadd(broken) == broken


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "content", "value", "__type__", "x"]) | st.text(), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(JSON)
def test_json_without_tags_is_unchanged(value):
    text = json.dumps(value).encode()
    tagged = any(f'"{tag}"' in text.decode() for tag in [*decode.MODELS, *decode.MAKERS])
    assert tagged or decode.loads(text) == value


TAGGED = [
    ("set", ["a", "b"], {"a", "b"}),
    ("frozenset", [1], frozenset({1})),
    ("tuple", [1, [2]], (1, [2])),
    ("bytes", "AAH/", b"\x00\x01\xff"),
    ("decimal", "1.10", Decimal("1.10")),
    ("datetime", "2026-11-22T10:00:00+00:00", datetime(2026, 11, 22, 10, tzinfo=UTC)),
    ("date", "2026-11-22", date(2026, 11, 22)),
    ("time", "10:00:00", time(10)),
    ("timedelta", 1.5, timedelta(seconds=1.5)),
    ("uuid", "12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
]


@pytest.mark.parametrize(("tag", "value", "expected"), TAGGED, ids=[tag for tag, _, _ in TAGGED])
def test_tagged_values_are_made(tag, value, expected):
    found = decode.loads(json.dumps({"x": {"__type__": tag, "value": value}}))["x"]
    assert (type(found), found) == (type(expected), expected)


def test_values_of_graphs_are_made():
    from langgraph.types import Command, Interrupt, Send

    assert decode.loadd({"__type__": "interrupt", "value": {"value": "?", "id": "i"}}) == Interrupt("?", id="i")
    assert decode.loadd({"__type__": "command", "value": {"resume": 1}}) == Command(resume=1)
    assert decode.loadd({"__type__": "send", "value": {"node": "n", "arg": 1}}) == Send("n", 1)


@pytest.mark.parametrize(
    "value",
    [
        {"__type__": "set", "value": [[1]]},
        {"__type__": "decimal", "value": "x"},
        {"__type__": "datetime", "value": 1},
        {"__type__": "nobody", "value": 1},
        {"__type__": [], "value": 1},
        {"__type__": "set", "value": [1], "more": 1},
        {"__type__": "send", "value": {"nothing": 1}},
    ],
    ids=str,
)
def test_a_dict_that_only_looks_tagged_stays_a_dict(value):
    assert decode.loadd(value) == value


def test_a_text_with_line_separators_is_kept():
    assert decode.loads('"a\u2028\u2029\u0085"'.encode()) == "a\u2028\u2029\u0085"


def test_deep_nesting_is_a_value_error():
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # another test's library may have raised it
    try:
        with pytest.raises(ValueError):
            decode.loads("[" * 1020 + "]" * 1020)
    finally:
        sys.setrecursionlimit(before)


def test_types_beside_the_json_are_applied():
    value = {
        "a/b": [[1, 2], "AP8_", "PT1M30S"],
        "who": {"type": "human", "content": "not a message"},
        "m": AI.model_dump(),
    }
    types = {"/a~1b/0": "set", "/a~1b/1": "bytes", "/a~1b/2": "timedelta", "/who": "dict", "/a~1b": "tuple"}
    found = decode.hinted(value, types)
    assert found["a/b"] == ({1, 2}, b"\x00\xff\x3f", timedelta(seconds=90))
    assert found["who"] == value["who"]
    assert found["m"] == AI


def test_types_that_do_not_fit_change_nothing():
    value = {"a": [[1]], "b": "x"}
    assert decode.hinted(value, {"/a": "set", "/b": "nobody", "": "dict", "/c": "set"}) == value
