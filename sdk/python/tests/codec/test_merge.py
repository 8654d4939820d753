"""One merge at the end equals adding chunk by chunk, in linear time."""

from functools import reduce
from operator import add

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables.utils import AddableDict
from streamserve_sdk.codec.merge import merge


def message(text, **fields):
    return AIMessageChunk(content=text, id="m", **fields)


CALL = {"name": "t", "args": "{", "id": "c", "index": 0, "type": "tool_call_chunk"}
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
CHUNKS = {
    "text": ["a", "b", "c"],
    "messages": [message("a"), message("b", tool_call_chunks=[CALL]), message("", usage_metadata=USAGE)],
    "long tool calls": [message("", tool_call_chunks=[CALL])]
    + [message("x", tool_call_chunks=[{**CALL, "name": None, "id": None, "args": str(n)}]) for n in range(200)],
    "dicts": [
        AddableDict(a="x", n=1), AddableDict(a=None), AddableDict(a="y", b=[1]), AddableDict(b=[2], m=message("q"))
    ],
    "lists": [[1], [2, 3]],
    "numbers": [1, 2],
    "one": ["a"],
}  # fmt: skip


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_the_sum_equals_adding_one_by_one(chunks):
    assert merge(chunks) == reduce(add, chunks)


def test_chunks_that_cannot_be_added_give_the_last_one():
    assert merge([object, "last"]) == "last"
    assert merge([AddableDict(a={}), AddableDict(a={"x": 1})]) == {"a": {"x": 1}}


def test_a_branch_that_cannot_be_added_loses_no_other_branch():
    chunks = [
        AddableDict(text="a"), AddableDict(data={"n": 1}), AddableDict(text="b"), AddableDict(data={"n": 12}, text="c"),
        AddableDict(inner=AddableDict(x={})), AddableDict(inner=AddableDict(y="y")),
        AddableDict(inner=AddableDict(x={"a": 1})),
    ]  # fmt: skip
    assert merge(chunks) == {"text": "abc", "data": {"n": 12}, "inner": {"x": {"a": 1}, "y": "y"}}


def test_no_chunks_give_none():
    assert merge([]) is None


def test_a_text_is_joined_once(monkeypatch):
    class Counted(str):
        def __add__(self, other):
            raise AssertionError("added one by one")

    assert merge(["a"] * 1000) == "a" * 1000
    with pytest.raises(AssertionError):
        merge([Counted("a"), Counted("b")])
