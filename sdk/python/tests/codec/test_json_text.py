"""JSON is parsed without loss."""

import json
import math

import pytest
from streamserve_sdk.codec import decode, encode
from streamserve_sdk.codec.json_text import parse, parse_answer

LARGE = 2**70 + 1


def test_large_integers_are_exact_where_the_types_say_so():
    assert parse(b"[%d]" % LARGE, {"/0": "integer"}) == [LARGE]
    assert parse_answer(b'{"output": %d, "types": {"": "integer"}}' % LARGE)["output"] == LARGE
    assert parse_answer(b'[{"types": {}}, {"values": %d, "types": {"": "integer"}}]' % LARGE)[1]["values"] == LARGE
    assert parse_answer(b'{"output": 1, "types": {"": "other"}}')["output"] == 1


@pytest.mark.parametrize("text", ["hi \ud83d", "\ude00", "\ud83d\n"])
def test_half_of_an_emoji_stays_half(text):
    assert parse(json.dumps([text]).encode()) == [text]
    assert decode.loads(json.dumps(text)) == text


@pytest.mark.parametrize("text", [b"", b"{", b'["\\ud83d", NaN]', b"\xff", b"[" * 100_000])
def test_other_texts_are_refused_as_ever(text):
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize("name", ["tuple", "set", "frozenset"])
def test_a_text_is_no_collection_of_its_characters(name):
    assert decode.hinted("abc", {"": name}) == "abc"


def test_rare_values_are_encoded_as_they_are():
    value = {"n": LARGE, "half": "\ud83d", "inner": [{1, 2}]}
    assert json.loads(encode.dumps(value)) == {**value, "inner": [[1, 2]]}
    with pytest.raises(TypeError, match="object"):
        encode.dumps([LARGE, object()])
    assert json.loads(encode.dumps([math.nan])) == [None]
