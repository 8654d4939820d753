"""Blocks, byte for byte."""

from __future__ import annotations

from streamserve.errors import RunTimeout
from streamserve.wire.blocks import KEEP_ALIVE, data_block, end_block, error_block, metadata_block


def test_a_metadata_block_names_the_run_and_when_to_reconnect() -> None:
    assert metadata_block(1, "r") == b'retry: 1000\nid: 1\nevent: metadata\ndata: {"run_id":"r"}\n\n'


def test_a_data_block_has_an_id_before_its_event_and_data() -> None:
    assert data_block(12, '"H\u00e9"'.encode()) == b'id: 12\nevent: data\ndata: "H\xc3\xa9"\n\n'


def test_an_end_block_has_empty_data_for_browsers() -> None:
    assert end_block(3) == b"id: 3\nevent: end\ndata:\n\n"


def test_an_error_block_holds_the_five_fields_in_order() -> None:
    assert error_block(4, RunTimeout().event("r")) == (
        b'id: 4\nevent: error\ndata: {"status_code":504,"message":"The run exceeded its time limit",'
        b'"code":"timeout","retryable":false,"run_id":"r"}\n\n'
    )


def test_an_error_block_is_line_safe() -> None:
    block = error_block(1, {"message": "a\u2028b\u2029c\u0085d\ne"})
    assert block == b'id: 1\nevent: error\ndata: {"message":"a\\u2028b\\u2029c\\u0085d\\ne"}\n\n'
    assert len(block.decode().splitlines()) == 4


def test_a_keep_alive_is_one_comment_line_without_a_blank_line() -> None:
    assert KEEP_ALIVE == b": \n"
