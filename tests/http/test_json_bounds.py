"""Depth and number of values, told from bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.http.json_bounds import exceeded_bound

JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a,[]{}"\\:', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='a,[]{}"\\', max_size=4), inner),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


def marks_of(value: Any) -> int:
    """Brackets and commas outside of strings."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(len(inner) - 1, 0) + sum(map(marks_of, inner))


@given(JSON, st.integers(0, 6), st.integers(0, 20))
def test_the_bounds_are_those_of_the_parsed_value(value: Any, depth: int, items: int) -> None:
    text = json.dumps(value).encode()
    passed = exceeded_bound(text, depth, items)
    assert (passed == "items") == (marks_of(value) > items)
    assert (passed == "depth") == (marks_of(value) <= items and depth_of(value) > depth)


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",\\1', max_size=60).map(str.encode))
def test_what_is_no_json_is_measured_without_an_error(text: bytes) -> None:
    assert exceeded_bound(text, 2, 5) in ("depth", "items", None)


@pytest.mark.parametrize("text", [b'"' + b"[,{" * 1000 + b'"', b'["\\"[[[[[[[[,,,,,,,,", "\\\\", 1]'])
def test_what_stands_in_strings_counts_for_nothing(text: bytes) -> None:
    assert exceeded_bound(text, 1, 3) is None
