"""Answers and error blocks as errors of this package, whatever the fields of their JSON hold."""

import httpx
import orjson
import pytest
from streamserve_sdk.errors import Position
from streamserve_sdk.transport.failures import attempt_in, from_answer, from_error_block, from_transport, run_id_in

URL = "http://h/joke/stream"
NOWHERE = Position(None)


@pytest.mark.parametrize(
    ("said", "shown"), [(100, 100), (404, 404), (599, 599), (99, 500), (600, 500), ("404", 500), (None, 500)]
)
def test_the_status_of_an_error_block_is_one_of_http(said, shown):
    error = from_error_block(orjson.dumps({"status_code": said, "message": "no"}), URL, NOWHERE)
    assert (error.response.status_code, error.response.text) == (shown, "no")


def test_the_text_of_a_packed_answer_is_read():
    packed = {"Content-Encoding": "gzip", "content-length": "9", "transfer-encoding": "chunked", "x-own": "kept"}
    error = from_answer("POST", URL, 500, packed, b"sorry", NOWHERE)
    assert (error.response.text, error.response.headers["x-own"]) == ("sorry", "kept")
    assert "content-encoding" not in error.response.headers


@pytest.mark.parametrize(("status", "retryable"), [(429, True), (502, True), (503, True), (504, True), (500, False)])
def test_an_answer_without_a_hint_is_retryable_by_its_status(status, retryable):
    assert from_answer("POST", URL, status, {}, b"", NOWHERE).retryable is retryable
    hint = orjson.dumps({"retryable": not retryable})
    assert from_answer("POST", URL, status, {}, hint, NOWHERE).retryable is not retryable


@pytest.mark.parametrize(
    ("error", "retryable"),
    [(httpx.ReadError, True), (httpx.LocalProtocolError, False), (httpx.UnsupportedProtocol, False)],
)
def test_a_mistake_of_the_caller_is_not_retryable(error, retryable):
    assert from_transport(error("no"), URL).retryable is retryable


@pytest.mark.parametrize(
    ("data", "attempt", "run_id"),
    [
        (b'{"attempt":3,"run_id":"r1"}', 3, "r1"),
        (b'{"attempt":"3","run_id":7}', 1, None),
        (b"[]", 1, None),
        (b"{", 1, None),
    ],
)
def test_fields_of_another_type_count_as_missing(data, attempt, run_id):
    assert (attempt_in(data), run_id_in(data)) == (attempt, run_id)
