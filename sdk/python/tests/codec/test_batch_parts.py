"""A batch is split to the limits that a server tells, and its answers are put together in order."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamserve_sdk import ProtocolError, RequestRejected
from streamserve_sdk.codec.batch_parts import BatchParts, largest_batch
from streamserve_sdk.codec.payload import Answer

REQUEST = httpx.Request("POST", "http://h/joke/batch")


def rejected(status, detail=None):
    response = httpx.Response(status, json={"detail": detail}, request=REQUEST)
    return RequestRejected("no", request=REQUEST, response=response)


def too_long(limit):
    return rejected(422, [{"loc": ["body", "inputs"], "type": "too_long", "ctx": {"max_length": limit}}])


@given(count=st.integers(0, 40), inputs_limit=st.integers(1, 50), bytes_limit=st.integers(1, 50), known=st.booleans())
def test_each_input_is_answered_once_and_in_order(count, inputs_limit, bytes_limit, known):
    inputs = list(range(count))
    parts = BatchParts(inputs, [{"tags": [str(n)]} for n in inputs], inputs_limit if known else 0)
    while part := parts.part():
        asked, configs = part
        assert [config["tags"] for config in configs] == [[str(n)] for n in asked]
        if len(asked) > inputs_limit:
            parts.refused(too_long(inputs_limit))
        elif len(asked) > bytes_limit:
            parts.refused(rejected(413))
        else:
            parts.answered(Answer([str(n) for n in asked], list(asked)))
    assert parts.answer() == Answer([str(n) for n in inputs], inputs)


def test_another_fault_of_a_part_is_raised_with_its_place():
    parts = BatchParts("abcde", [{}] * 5, 2)
    parts.part()
    parts.answered(Answer(["A", "B"], None))
    with pytest.raises(RequestRejected) as caught:
        parts.refused(rejected(422, [{"loc": ["body", "inputs", 0], "type": "missing"}]))
    assert caught.value.__notes__ == ["at the inputs 2 to 3 of the batch"]


def test_an_input_that_is_too_large_by_itself_is_refused():
    parts = BatchParts("a", [{}])
    with pytest.raises(RequestRejected):
        parts.refused(rejected(413))


@pytest.mark.parametrize("limit", [0, 5, 9])
def test_a_limit_that_fits_is_no_reason_to_ask_again(limit):
    with pytest.raises(RequestRejected):
        BatchParts("abcde", [{}] * 5).refused(too_long(limit))


@pytest.mark.parametrize("output", ["ab", ["a"], None])
def test_an_answer_needs_one_output_for_each_input(output):
    with pytest.raises(ProtocolError):
        BatchParts("ab", [{}] * 2).answered(Answer(output, None))


@pytest.mark.parametrize("detail", [None, "text", [], [{"loc": ["body"]}], [{"loc": ["body", "inputs"], "ctx": 1}]])
def test_other_answers_tell_no_limit(detail):
    assert largest_batch(rejected(422, detail)) is None
