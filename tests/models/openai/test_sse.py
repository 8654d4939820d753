"""The decoder of a model server's event stream."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.models.openai.sse import SSEDecoder
from tests.upstream.scripted import pieces

Found = list[tuple[str, str | None]]


def decoded(*pieces: bytes) -> Found:
    decoder = SSEDecoder()
    return [(event.data, event.event) for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: a\n\n", [("a", None)]),
        (b"data:a\n\ndata:  b\n\n", [("a", None), (" b", None)]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [("a", None), ("b", None), ("c", None)]),
        (b"data: a\ndata: b\ndata\n\n", [("a\nb\n", None)]),
        (b"event: x\r\ndata: a\r\ndata: b\r\n\r\n", [("a\nb", "x")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [("a", "x"), ("b", None)]),
        (b": hello\n\n\n\nid: 1\nretry: 2\n\nevent: x\n\ndata: a\nother: b\n\n", [("a", None)]),
        (b"\n\ndata: a\n\n\n\n\ndata: b\n\n", [("a", None), ("b", None)]),
        (b"data: a: b\n\n", [("a: b", None)]),
        ("data: a\u2028\u0085\x0bb\n\n".encode(), [("a\u2028\u0085\x0bb", None)]),
        (b"data\n\n", [("", None)]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"", []),
    ],
)
def test_events_are_found_as_the_specification_has_it(body: bytes, events: Found) -> None:
    assert decoded(body) == events
    assert decoded(*(body[at : at + 1] for at in range(len(body)))) == events


@given(
    lines=st.lists(st.sampled_from(["data: é", "data:x", "event: y", ": c", "", ""]), max_size=30),
    ends=st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=30, max_size=30),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_cuts_between_bytes_do_not_matter(lines: list[str], ends: list[bytes], cuts: list[int]) -> None:
    parts = [line.encode() + end for line, end in zip(lines, ends, strict=False)]
    body = b"".join(parts)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert decoded(*(body[start:end] for start, end in pairwise(edges))) == decoded(body)


@given(st.lists(st.sampled_from(["data: é", "data:x", "event: y", ": c", "", ""]), max_size=30))
def test_the_kind_of_line_end_does_not_matter(lines: list[str]) -> None:
    bodies = ["".join(line + end for line in lines).encode() for end in ("\n", "\r", "\r\n")]
    assert decoded(bodies[0]) == decoded(bodies[1]) == decoded(bodies[2])


def test_a_long_event_may_come_in_small_pieces() -> None:
    decoder = SSEDecoder()
    for piece in [b"data: ", *[b"xy"] * 10_000]:
        assert not list(decoder.feed(piece))
    [event] = decoder.feed(b"\n\n")
    assert event.data == "xy" * 10_000


def test_events_before_invalid_utf_8_are_found() -> None:
    events = SSEDecoder().feed(b"data: a\n\ndata: \xff\n\n")
    assert next(events).data == "a"
    with pytest.raises(UnicodeDecodeError):
        next(events)


@pytest.mark.parametrize("data", ["NaN", '"\\ud83d"', '{"a": 1}'])
def test_json_is_what_the_standard_library_takes(data: str) -> None:
    [event] = SSEDecoder().feed(f"data: {data}\n\n".encode())
    assert repr(event.json()) == repr(json.loads(data))


def test_invalid_json_raises_the_standard_librarys_error() -> None:
    [event] = SSEDecoder().feed(b"data: {\n\n")
    with pytest.raises(json.JSONDecodeError, match="Expecting property name"):
        event.json()


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_an_error_object_instead_of_events_is_an_event(end: str) -> None:
    body = (json.dumps({"error": {"code": "model_not_found"}}, indent=2) + end).encode()
    [event] = SSEDecoder().iter_bytes(iter(pieces(body, 7)))
    assert event.json() == {"error": {"code": "model_not_found"}}


@pytest.mark.parametrize("body", [b'{"error', b'{"a": 1}', b'{"error": null}\n\n', b"data: cut", b"<html>"])
def test_any_other_body_without_events_has_none(body: bytes) -> None:
    assert list(SSEDecoder().iter_bytes(iter([body]))) == []
