"""Inputs whose types are sent beside their JSON: commands, messages, and types that JSON lacks."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import orjson
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.types import Command, Send
from pydantic import BaseModel
from streamserve_sdk.codec import encode
from streamserve_sdk.codec.input_types import types_of


class Review(BaseModel):
    accept: bool
    when: date = date(2026, 1, 2)


@dataclass
class Choice:
    picked: tuple[int, ...]


def sent(value: Any) -> Any:
    return orjson.loads(encode.dumps(value))


def test_values_that_json_shows_need_no_types():
    assert types_of({"messages": [{"type": "human", "content": "hi"}], "n": [1, 2.5, None, True, "x"]}) == {}


@pytest.mark.parametrize(
    ("value", "types"),
    [
        ({"a/b": {"c~d": (1, {2})}}, {"/a~1b/c~0d": "tuple", "/a~1b/c~0d/1": "set"}),
        ([Decimal("1.0"), date(2026, 1, 2)], {"/0": "decimal", "/1": "date"}),
        ({"messages": [HumanMessage("hi")]}, {"/messages/0": "message"}),
        (Document("page", metadata={"at": date(2026, 1, 2)}), {"": "document", "/metadata/at": "date"}),
        (ToolMessage("3", tool_call_id="c", artifact=(1,)), {"": "message", "/artifact": "tuple"}),
        (Review(accept=True), {"/when": "date"}),
        (Choice((1,)), {"/picked": "tuple"}),
    ],
    ids=str,
)
def test_types_are_keyed_by_json_pointers(value, types):
    assert types_of(value) == types


def test_a_command_is_encoded_as_its_fields_and_its_type():
    command = Command(resume=(1,), update={"messages": [AIMessage("hi", id="1")]}, goto=[Send("node", {1}), "other"])
    body = sent(command)
    assert body["__type__"] == "command"
    assert body["resume"] == [1]
    assert body["goto"] == [{"node": "node", "arg": [1]}, "other"]
    assert body["update"]["messages"][0]["type"] == "ai"
    assert types_of(command) == {
        "/resume": "tuple",
        "/update/messages/0": "message",
        "/goto/0": "send",
        "/goto/0/arg": "set",
    }


def test_a_model_updates_only_the_fields_it_was_given():
    assert sent(Command(update=Review(accept=True)))["update"] == {"accept": True}
    assert sent(Command(update=Choice((1,))))["update"] == {"picked": [1]}
    assert sent(Command(goto="node"))["update"] is None


def test_the_pointers_fit_the_json_that_is_sent():
    value = {"set": {3, 1, 2}, "inner": Review(accept=False), "choices": [Choice((1, 2))]}
    body = sent(value)
    for pointer, name in types_of(value).items():
        found = body
        for key in pointer.split("/")[1:]:
            found = found[int(key)] if isinstance(found, list) else found[key]
        assert isinstance(found, str if name == "date" else list)
