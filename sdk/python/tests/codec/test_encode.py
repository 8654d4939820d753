"""Inputs are encoded as JSON that pydantic decodes."""

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
def test_values_are_encoded_as_pydantic_decodes_them(value, expected):
    assert orjson.loads(encode.dumps(value)) == expected


def test_an_error_names_the_type_that_cannot_be_encoded():
    with pytest.raises(TypeError, match="not JSON serializable: object"):
        encode.dumps({"a": object()})
