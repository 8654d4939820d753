"""The value of partial JSON is langchain-core's after each piece, and its changes lead to it."""

from __future__ import annotations

import copy
import json
import math
from json import JSONDecodeError
from typing import Any

import jsonpatch
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.outputs import Generation
from langchain_core.utils.json import parse_partial_json

from streamserve.lcel.growing_value import NOTHING, Operation
from streamserve.lcel.json_growth import MAX_DEPTH, JsonGrowth, Unusual
from streamserve.lcel.json_text import JsonText

PARTS = ("abc", '"', "\\", "\n", "\t", "\x00", " ", "\u00e9", "\U0001f600", "\ud83d", "\ude00", "/~", "`", "\u2028")
NUMBERS = (0, 1, -3, 1.5, 2.0, -0.0, 1e300, 10**25, math.nan, math.inf, -math.inf)
texts = st.lists(st.sampled_from(PARTS), max_size=4).map("".join)
leaves = texts | st.sampled_from((*NUMBERS, True, False, None))
documents = st.recursive(
    leaves, lambda items: st.lists(items, max_size=4) | st.dictionaries(texts, items, max_size=4), max_leaves=12
).map(lambda value: value if isinstance(value, dict | list) else [value])
# What models write before and after JSON, and what breaks it.
BEFORE = (
    *("", " ", "```", "```json\n", "Here:\n```json\n", "\n\u00a0", "`\u00a0", "1. ```json\n", "true", "null ```json"),
    *("```JSON\n", "Sure! ```\n\n", 'Say "x" ```json\n', "\ufeff", "In {x}: ```json", "```python\n", "json\n"),
)
AFTER = ("", " ", "\n```", "\n```\nDone.", " done", " }", ' "q', '\n```json {"z": 1}', "```\u00a0", "\u00a0`\u00a0")
MISTAKES = ("", "", *'\\"{}[],:x1 e.-\n`u', "\u00a0", "```", "\u2028", "\ufeff", "\x1c", '"a":1,"a":2,', "//")


def _written(value: Any, *, ascii_only: bool, indent: int | None, raw: bool) -> str:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    return text.replace("\\n", "\n").replace("\\t", "\t").replace("\\u0000", "\x00") if raw else text


written = st.builds(_written, documents, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]), raw=st.booleans())


@st.composite
def said(draw: st.DrawFn) -> str:
    """Return what a model may say."""
    text, mistake = draw(written), draw(st.sampled_from(MISTAKES))
    place = draw(st.integers(0, len(text)))
    text = draw(st.sampled_from(BEFORE)) + text[:place] + mistake + text[place:] + draw(st.sampled_from(AFTER))
    return text.replace("abc", draw(st.sampled_from(["abc", "action_input", '","action_input":"'])))


def cuts(text: str, sizes: list[int]) -> list[str]:
    """Return a text in pieces of these sizes, again and again."""
    pieces = []
    while text:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[:size])
        text = text[size:]
    return pieces


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def _by(change: Operation, document: Any) -> dict[str, Any]:
    if change.op == "append":
        before = jsonpatch.JsonPointer(change.path).resolve(document)
        return {"op": "replace", "path": change.path, "value": before + change.value}
    value = {} if change.value is NOTHING else {"value": copy.deepcopy(change.value)}
    return {"op": change.op, "path": change.path, **value}


def changed(document: Any, changes: list[Operation]) -> Any:
    """Return a document after changes."""
    for change in changes:
        document = jsonpatch.apply_patch(document, [_by(change, document)])
    return document


def _partial(text: str) -> Any:
    try:
        return parse_partial_json(text)
    except JSONDecodeError:
        return None


def _check(reading: Any, pieces: list[str], parse: Any) -> None:
    """Compare with upstream after each piece: the value, whether it is a chunk, and the changes."""
    growth = getattr(reading, "growth", reading)
    text, last, rebuilt = "", None, None
    for piece in pieces:
        text += piece
        try:
            reading.feed(piece)
        except Unusual:
            return
        value, wanted = growth.copy(), parse(text)
        assert repr(None if value is NOTHING else value) == repr(wanted)
        is_chunk = wanted is not None and wanted != last
        assert growth.has_changed == is_chunk
        if is_chunk:
            last, rebuilt = wanted, changed(rebuilt, growth.take())
            assert repr(rebuilt) == repr(wanted)


@settings(deadline=None)
@given(written, sizes)
@example('{"a": 1.0, "b": [10]}', [1])
@example('{"a": "\\ud83d\\ude00 \\u00e9\\\\ud83d\\ude00"}', [1])
def test_a_value_grows_as_in_langchain_core(text: str, sizes: list[int]) -> None:
    _check(JsonGrowth(), cuts(text, sizes), _partial)


@settings(deadline=None, max_examples=300)
@given(said(), sizes)
def test_json_in_a_text_is_found_as_in_langchain_core(text: str, sizes: list[int]) -> None:
    parser = JsonOutputParser()
    _check(JsonText(), cuts(text, sizes), lambda seen: parser.parse_result([Generation(text=seen)], partial=True))


@pytest.mark.parametrize("before", ["", " `", "```json\n", "Here it is:\n\n```json\n", "Sure! ```"])
def test_common_texts_are_read_here(before: str) -> None:
    reading = JsonText()
    for piece in cuts(f'{before}{{"a": [1, "x\ny"]}}\n```\nDone.', [1]):
        reading.feed(piece)
    assert reading.growth.copy() == {"a": [1, "x\ny"]}


@pytest.mark.parametrize(
    "text", ["{'a': 1}", '{"a": 1,}', "[1] }", "[01]", '["\\x"]', '{"a":1,"a":2}', "[nil]", "[NaN]", "[1 2]"]
)
def test_other_texts_are_left_to_langchain_core(text: str) -> None:
    with pytest.raises(Unusual):
        JsonGrowth().feed(text)


def test_deep_json_is_left_to_langchain_core() -> None:
    growth = JsonGrowth()
    growth.feed("[" * MAX_DEPTH)
    with pytest.raises(Unusual):
        growth.feed("[")


def test_a_text_grows_by_what_is_new() -> None:
    growth = JsonGrowth()
    growth.feed('{"items": ["on')
    assert growth.take() == [Operation("replace", "", {"items": ["on"]})]
    growth.feed('e", "two')
    assert growth.take() == [Operation("append", "/items/0", "e"), Operation("add", "/items/1", "two")]
    growth.feed("\\u00")
    assert growth.take() == [Operation("remove", "/items/1")]
    growth.feed('e9"], "n": 1')
    assert growth.take() == [Operation("add", "/items/1", "two\u00e9"), Operation("add", "/n", 1)]
    growth.feed(".0")
    assert not growth.has_changed
    growth.feed("5}")
    assert growth.take() == [Operation("replace", "/n", 1.05)]


def test_a_copy_does_not_grow() -> None:
    growth = JsonGrowth()
    growth.feed('[["a')
    before = growth.copy()
    growth.feed('b"], 1]')
    assert (before, growth.copy()) == ([["a"]], [["ab"], 1])
