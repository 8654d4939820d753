"""The parser follows the specification at every split of the bytes."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamserve_sdk.transport import sse
from streamserve_sdk.transport.sse import BlockTooLargeError, EventParser, ServerSentEvent


def parse(*pieces: bytes) -> list[ServerSentEvent]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def reference(text: bytes) -> list[tuple[str, bytes, str | None]]:
    """Follow the specification literally: split the whole text, then look at each line."""
    events, name, data, number = [], "", [], None
    lines = re.split(rb"\r\n|\n|\r", text.removeprefix(b"\xef\xbb\xbf"))[:-1]
    for line in lines:
        if not line:
            if name or data:
                events.append((name, b"\n".join(data), number))
            name, data, number = "", [], None
            continue
        key, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if key == b"event":
            name = value.decode(errors="replace")
        if key == b"data":
            data.append(value)
        if key == b"id" and b"\0" not in value:
            number = value.decode(errors="replace")
    return events


LINE = st.sampled_from(
    [b"", b"", b"data: x", b"data:", b"data:  y:z", b"event: data", b"event:end", b"id: 7", b"id: a\0b", b": c",
     b"retry: 10", b"retry: x", b"unknown: 1", b"data",
     'data: "\u2028\u2029\u0085\x0b\x0c\x1c"'.encode(), b"data: \xff",
     b"id: 8\nevent: data\ndata: most blocks begin so", b"id: 9\nevent: data\ndata: cut\rdata: here"]
)  # fmt: skip
TEXT = st.builds(
    lambda bom, lines, tail: bom + b"".join(line + end for line, end in lines) + tail,
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(LINE, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=30),
    st.sampled_from([b"", b"data: unfinished"]),
)


@given(TEXT, st.lists(st.integers(0, 400), max_size=20))
def test_any_split_of_the_bytes_gives_the_same_events(text, cuts):
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert [(e.event, e.data, e.id) for e in parse(*pieces)] == reference(text)


@given(TEXT)
def test_bytes_one_by_one_give_the_same_events(text):
    assert parse(*(text[i : i + 1] for i in range(len(text)))) == parse(text)


def test_unicode_separators_do_not_end_lines():
    text = 'data: "a\u2028b\u2029c\u0085d"\n\n'.encode()
    assert parse(text)[0].data.decode() == '"a\u2028b\u2029c\u0085d"'


def test_lines_of_data_are_joined():
    assert parse(b"data: a\ndata:\ndata: b\n\n") == [ServerSentEvent("", b"a\n\nb")]


def test_an_event_without_data_is_dispatched():
    assert parse(b"event: end\r\n\r\n") == [ServerSentEvent("end", b"")]


def test_a_comment_between_blocks_changes_nothing_and_is_counted():
    parser = EventParser()
    events = list(parser.feed(b": \nid: 1\nevent: data\ndata: 1\n\n: \n: x\nid: 2\ndata: 2\n\n"))
    assert events == [ServerSentEvent("data", b"1", "1"), ServerSentEvent("", b"2", "2")]
    assert parser.comments == 3


def test_an_id_belongs_to_its_own_block_only():
    assert [e.id for e in parse(b"id: 1\ndata: a\n\ndata: b\n\n")] == ["1", None]


def test_retry_is_read_when_it_is_a_number():
    assert [e.retry for e in parse(b"retry: 1000\ndata: a\n\nretry: 1s\ndata: b\n\n")] == [1000, None]


def test_an_unfinished_block_is_not_dispatched():
    assert parse(b"data: a\n") == []


def test_a_block_without_end_is_bounded(monkeypatch):
    monkeypatch.setattr(sse, "MAX_BLOCK_BYTES", 100)
    with pytest.raises(BlockTooLargeError):
        parse(*[b"data: " + b"x" * 60] * 3)
    assert len(parse(b"data: " + b"x" * 94, b"\n\n")) == 1
    with pytest.raises(BlockTooLargeError):
        parse(b"data: " + b"x" * 95, b"\n\n")


def test_many_small_blocks_are_not_bounded(monkeypatch):
    monkeypatch.setattr(sse, "MAX_BLOCK_BYTES", 100)
    assert len(parse(*[b"data: " + b"x" * 60 + b"\n\n"] * 30)) == 30


def test_chunks_are_the_same_wherever_their_bytes_are_cut() -> None:
    stream = (
        b'retry: 1000\nid: 1\nevent: metadata\ndata: {}\n\n: \nid: 2\nevent: data\ndata: "a"\n\n'
        b'id: 3\nevent: data\ndata: "b"\n\n: \n: \nid: 4\nevent: data\ndata: {}\ntypes: {"":"set"}\n\n'
        b"retry: 7\nid: 5\nevent: data\ndata: \n\nid: 6\nevent: data\ndata: x\r\n\nid: 7\nevent: end\ndata:\n\n"
    )
    whole = list(EventParser().feed(stream))
    one_by_one = EventParser()
    assert [event for byte in stream for event in one_by_one.feed(bytes([byte]))] == whole
    assert [(event.id, event.retry) for event in whole][4] == ("5", 7)
    assert [event.id for event in whole] == list("1234567")
    for cut in range(len(stream)):
        parser = EventParser()
        assert [*parser.feed(stream[:cut]), *parser.feed(stream[cut:])] == whole, cut
