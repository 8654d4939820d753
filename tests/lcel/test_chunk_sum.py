"""The sum of chunks is what adding them one by one gives."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.runnables.utils import AddableDict

from streamserve.lcel import chunk_sum
from streamserve.lcel.chunk_sum import ChunkSum

words = st.text("ab ", max_size=3)
block = st.fixed_dictionaries({"type": st.just("text"), "text": words, "index": st.integers(0, 1)})
blocks = st.lists(block, max_size=2)
tool_calls = st.lists(
    st.builds(
        tool_call_chunk,
        name=st.sampled_from([None, "add"]),
        args=st.sampled_from([None, "", '{"a": ', "1", "}"]),
        id=st.sampled_from([None, "call-1"]),
        index=st.sampled_from([None, 0, 1]),
    ),
    max_size=2,
)
usage = st.fixed_dictionaries({name: st.integers(0, 3) for name in ("input_tokens", "output_tokens", "total_tokens")})
marks = st.dictionaries(st.sampled_from(["finish", "model"]), words | st.integers(0, 2) | st.lists(words, max_size=1))
messages = st.builds(
    AIMessageChunk,
    content=words | blocks,
    id=st.sampled_from([None, "lc_run--1", "lc_2", "msg-3"]),
    tool_call_chunks=tool_calls,
    usage_metadata=st.none() | usage,
    response_metadata=marks | st.just({"output_version": "v1"}),
    additional_kwargs=marks,
    chunk_position=st.sampled_from([None, None, None, "last"]),
)
dicts = st.builds(AddableDict, st.dictionaries(st.sampled_from("xy"), words, max_size=2))
numbers = st.lists(st.integers(), max_size=2)
mixed = st.builds(
    AddableDict, st.dictionaries(st.sampled_from("xy"), st.none() | words | numbers | messages, max_size=2)
)
anything = st.none() | st.integers() | st.lists(st.integers(), max_size=2) | dicts | words | messages


def left_fold(chunks: list[Any]) -> Any:
    """Add chunks as langchain-core's `_atransform_stream_with_config` does."""
    total, addable = None, True
    for chunk in chunks:
        if total is None or not addable:
            total = chunk
        else:
            try:
                total = total + chunk
            except TypeError:
                total, addable = chunk, False
    return total


def restarted_fold(chunks: list[Any]) -> Any:
    """Add chunks as langchain-core's `Runnable.atransform` does."""
    total = chunks[0] if chunks else None
    for chunk in chunks[1:]:
        try:
            total = total + chunk
        except TypeError:
            total = chunk
    return total


def added(chunks: list[Any], *, restarts: bool = False) -> Any:
    total = ChunkSum(restarts=restarts)
    for chunk in chunks:
        total.add(chunk)
    return total.value()


@given(st.lists(words) | st.lists(messages, max_size=6) | st.lists(anything, max_size=6), st.booleans())
@example([0, None, AIMessageChunk("", response_metadata={"output_version": "v1"}), AIMessageChunk("")], False)
@example([0, None, "a", "b"], False)
@example([0, "a", "b"], True)
@settings(max_examples=400, deadline=None)
def test_the_sum_is_the_left_fold(chunks: list[Any], restarts: bool) -> None:
    try:
        expected = (restarted_fold if restarts else left_fold)(chunks)
    except Exception as error:
        with pytest.raises(type(error)):
            added(chunks, restarts=restarts)
    else:
        total = added(chunks, restarts=restarts)
        assert type(total) is type(expected)
        assert total == expected


@given(st.one_of([st.lists(kind, max_size=12) for kind in (words, messages, dicts, mixed, numbers)]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_slices_add_up_to_the_left_fold(chunks: list[Any], restarts: bool) -> None:
    try:
        expected = (restarted_fold if restarts else left_fold)(chunks)
    except Exception:  # shown above
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunk_sum, "SLICE", 2)
        total = added(chunks, restarts=restarts)
    assert type(total) is type(expected)
    assert total == expected


def test_a_long_stream_keeps_few_message_chunks() -> None:
    total = ChunkSum()
    kept = [weakref.ref(chunk) for chunk in _passing(total, 2000)]
    assert sum(ref() is not None for ref in kept) <= 2000 / 8 + chunk_sum.SLICE
    assert total.value().content == "a" * 2000


def _passing(total: ChunkSum, count: int) -> Iterator[AIMessageChunk]:
    for _ in range(count):
        chunk = AIMessageChunk(content="a")
        total.add(chunk)
        yield chunk


@given(st.lists(anything, max_size=4), st.lists(anything, max_size=3))
@settings(deadline=None)
def test_a_sum_can_be_asked_for_on_the_way(before: list[Any], after: list[Any]) -> None:
    total = ChunkSum()
    try:
        expected = left_fold([*before, *after])
    except Exception:  # what cannot be added at all is shown above
        return
    for chunk in before:
        total.add(chunk)
    assert total.value() == left_fold(before)
    for chunk in after:
        total.add(chunk)
    assert total.value() == expected


def test_no_chunks_have_no_sum() -> None:
    assert ChunkSum().value() is None


def test_one_chunk_is_its_own_sum() -> None:
    chunk = AIMessageChunk(content="Hi")
    assert added([chunk]) is chunk
