"""Inputs as JSON that pydantic reads back."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import PurePosixPath

import orjson
import pytest
from langchain_core.prompt_values import StringPromptValue
from pydantic import BaseModel
from streamserve_sdk.codec import encode


class Question(BaseModel):
    text: str
    tags: set[str] = set()


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Question(text="q", tags={"a"}), {"text": "q", "tags": ["a"]}),
        (Point(1), {"x": 1}),
        (frozenset({1}), [1]),
        ((1, 2), [1, 2]),
        (b"\x00\xff", "AP8="),
        (Decimal("1.10"), "1.10"),
        (timedelta(minutes=1), 60.0),
        (PurePosixPath("/a"), "/a"),
        ({1: "a"}, {"1": "a"}),
        (StringPromptValue(text="p"), {"text": "p", "type": "StringPromptValue"}),
    ],
    ids=str,
)
def test_values_have_the_form_that_pydantic_reads(value, expected):
    assert orjson.loads(encode.dumps(value)) == expected


def test_what_has_no_form_is_named():
    with pytest.raises(TypeError, match="not JSON serializable: object"):
        encode.dumps({"a": object()})
