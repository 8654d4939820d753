"""The serializer: every value has a JSON form on one line."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import uuid
from collections import deque, namedtuple
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.prompt_values import ChatPromptValue
from langserve.serialization import WellKnownLCSerializer
from pydantic import BaseModel

from streamserve.errors import InvalidOutput
from streamserve.wire.serializer import LARGE_TEXT, Serializer, split_types, to_line
from streamserve.wire.types import TAGS, types_of

serializer = Serializer()
Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    at: dt.date


@dataclasses.dataclass
class Record:
    size: int


@dataclasses.dataclass
class Hidden:
    _size: int


class Alike(BaseModel):
    type: str = "tool"


class Talk(BaseModel):
    messages: list[BaseMessage]


CALL = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}])


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ({1}, [1]),
        (frozenset(["a"]), ["a"]),
        (b"\xff\x00", "_wA="),
        (decimal.Decimal("1.10"), "1.10"),
        (dt.timedelta(seconds=90), "PT1M30S"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00+00:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Path("a/b"), "a/b"),
        ((1, 2), [1, 2]),
        (Point(1, 2), [1, 2]),
        (Record(3), {"size": 3}),
        (Model(at=dt.date(2026, 1, 2)), {"at": "2026-01-02"}),
        ({2: "a", None: "b", True: "c"}, {"2": "a", "null": "b", "true": "c"}),
        ({Colour.RED: 1}, {"red": 1}),
        ([{"deep": {b"x"}}], [{"deep": ["eA=="]}]),
        (float("nan"), None),
        (2**64, 2**64),
        ((n for n in (1, 2)), [1, 2]),
        (2**64 - 1, 2**64 - 1),
        (deque([{1}]), [[1]]),
        (MappingProxyType({"a": (2**64,)}), {"a": [2**64]}),
        (Hidden(_size=3), {"_size": 3}),
        ({(1, "a"): "half \ud83d", 2**64: float("nan")}, {"1,a": "half \ud83d", str(2**64): None}),
        ([(Point(Talk(messages=[CALL]), 2),)], [[[{"messages": [CALL.model_dump()]}, 2]]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_value_has_a_json_form(value: Any, form: Any) -> None:
    assert json.loads(to_line(value)) == form


def test_numpy_values_have_a_json_form() -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    assert json.loads(to_line({"a": numpy.arange(3), "b": numpy.float32(0.5)})) == {"a": [0, 1, 2], "b": 0.5}
    assert json.loads(to_line({numpy.int64(1): numpy.array(["a"]), numpy.bool_(False): 2})) == {"1": ["a"], "false": 2}


@pytest.mark.parametrize("value", [object(), [object()], {"a": object}, lambda: 1])
def test_what_has_no_json_form_is_refused_by_its_type(value: Any) -> None:
    with pytest.raises(InvalidOutput, match=type(value).__name__):
        serializer.dumps(value)


def test_what_has_no_json_form_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidOutput, match=r"dict \(object at /a~1b/1\)"):
        serializer.dumps({"a/b": [1, Record(1), object()][1:]})
    with pytest.raises(InvalidOutput, match="two keys '1' at /a"):
        serializer.dumps({"a": {(1,): "a", "1": "b"}})


@pytest.mark.parametrize(
    ("value", "types"),
    [
        (Alike(), {"": "dict"}),
        ({"a": [Record(2**64)]}, {"/a/0/size": "integer"}),
        (ToolMessage("3", tool_call_id="1", artifact=({"at": dt.date(2026, 1, 2)},)), {"/artifact": "tuple"}),
        ({None: (1,), Colour.RED: {1}}, {"/null": "tuple", "/red": "set"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_types_that_json_loses_stand_beside_it(value: Any, types: dict[str, str]) -> None:
    assert types.items() <= json.loads(split_types(serializer.dumps(value))[1]).items()


PLAIN_MESSAGES: list[BaseMessage] = [
    kind(content="x", **{name: "x" for name in ("role", "name", "tool_call_id") if name in kind.model_fields})
    for kind in TAGS.values()
    if issubclass(kind, BaseMessage)
]


@pytest.mark.parametrize("message", PLAIN_MESSAGES, ids=lambda message: message.type)
def test_messages_of_plain_fields_are_written_by_their_fields(
    message: BaseMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = message.model_dump(serialize_as_any=True)
    monkeypatch.setattr(BaseModel, "model_dump", None)
    assert to_line([message]) == to_line([form])
    assert types_of([message]) == {}


@pytest.mark.parametrize("filler", ["a", '"\\', "\u2028", "\U0001f600", "\ud83d"], ids=ascii)
@pytest.mark.parametrize("length", [LARGE_TEXT - 1, LARGE_TEXT])
def test_a_large_text_of_a_message_is_written_as_a_small_one(filler: str, length: int) -> None:
    text = (filler * length)[:length]
    messages = [HumanMessage(text), AIMessage(text)]
    line = to_line({"messages": messages})
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"messages": [message.model_dump() for message in messages]}


@pytest.mark.parametrize("field", [(), b"", {"a": (1,)}, [{1}], decimal.Decimal(0)], ids=str)
def test_a_field_of_a_message_keeps_its_type(field: Any) -> None:
    message = ToolMessage("3", tool_call_id="1", artifact=field)
    assert types_of([message]) == {f"/0/artifact{place}": name for place, name in types_of(field).items()}
    assert types_of([HumanMessage("3", own=field)]) == {
        f"/0/own{place}": name for place, name in types_of(field).items()
    }
    assert json.loads(to_line([message])) == [json.loads(to_line(message.model_dump()))]


def test_what_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidOutput):
        serializer.dumps(value)


@pytest.mark.parametrize(
    "separator", ["\u2028", "\u2029", "\u0085", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
)
def test_no_separator_of_lines_is_left(separator: str) -> None:
    written = serializer.dumps({f"key{separator}": f"a{separator}b"})
    assert len(written.decode().splitlines()) == 1
    assert json.loads(written) == {f"key{separator}": f"a{separator}b"}


@given(st.text())
def test_any_text_comes_back_from_one_line(text: str) -> None:
    written = serializer.dumps(text).decode()
    assert len(written.splitlines()) == 1
    assert json.loads(written) == text


@pytest.mark.parametrize(
    "value",
    [
        HumanMessage("hi"),
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}]),
        AIMessageChunk("a", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
        ToolMessage("3", tool_call_id="1"),
        Document("text", metadata={"line": 3}),
        ChatPromptValue(messages=[HumanMessage("hi")]),
        LLMResult(generations=[[ChatGeneration(message=HumanMessage("a"))]]),
        {"messages": [HumanMessage("hi"), AIMessage("there")]},
        [Document("a"), "text", 3, None],
    ],
    ids=lambda value: type(value).__name__,
)
def test_langchain_values_are_written_as_langserve_writes_them(value: Any) -> None:
    stock = WellKnownLCSerializer()
    written, _types = split_types(serializer.dumps(value))
    assert json.loads(written) == json.loads(stock.dumps(value))
    assert serializer.loads(written) == stock.loads(stock.dumps(value))
