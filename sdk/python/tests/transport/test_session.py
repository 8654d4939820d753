"""The session without any I/O, cut at any byte and any number of times."""

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamserve_sdk import ProtocolError, RetryPolicy, RunFailed
from streamserve_sdk.transport.session import StreamSession
from streamserve_sdk.transport.wire import Reply, Request

BASE = "http://test/joke/stream"
HEAD = httpx.Headers(
    {"content-type": "text/event-stream", "run-id": "r1", "location": "/runs/r1/stream", "retry-after": "0"}
)
POLICY = RetryPolicy(budget=3, first=0.0, longest=0.0)
PATIENT = RetryPolicy(budget=1000, first=0.0, longest=0.0)


def session(**options) -> StreamSession:
    return StreamSession(Request("POST", BASE), "http://test/runs", **{"policy": POLICY, **options})


def blocks(count: int) -> list[bytes]:
    data = [b'id: %d\nevent: data\ndata: "%d"\n\n' % (n, n) for n in range(2, count)]
    return [b'id: 1\nevent: metadata\ndata: {"run_id":"r1"}\n\n', *data, b"id: %d\nevent: end\n\n" % count]


def received(stream: StreamSession, data: bytes) -> list[int]:
    return [int(orjson.loads(item.data)) for item in stream.receive(data)]


def serve(stream: StreamSession, log: list[bytes], cut: int, size: int, repeat: int) -> list[int]:
    """Replay one connection from the cursor, or a bit before it, until the cut."""
    cursor = int(stream.request().headers.get("Last-Event-ID", 0))
    stream.started(Reply(200, HEAD))
    text = b": \n" + b"".join(log[max(0, cursor - repeat) :])[:cut]
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    return [number for piece in pieces for number in received(stream, piece)]


@settings(deadline=None)
@given(st.integers(3, 30), st.lists(st.tuples(st.integers(0, 300), st.integers(1, 50), st.integers(0, 3))))
def test_cuts_at_any_byte_lose_and_repeat_nothing(count, cuts):
    stream, log, got = session(policy=PATIENT), blocks(count), []
    for cut, size, repeat in cuts:
        got += serve(stream, log, cut, size, repeat)
        if stream.finished:
            break
        stream.ended()
    if not stream.finished:
        got += serve(stream, log, 1 << 20, 7, 0)
    assert got == list(range(2, count))
    assert (stream.finished, stream.last_id) == (True, count)


def test_the_cursor_advances_when_the_caller_takes_a_block():
    stream = session()
    stream.started(Reply(200, HEAD))
    handed = stream.receive(b"".join(blocks(5)))
    assert stream.last_id == 0
    next(handed)
    assert stream.last_id == 2


def test_once_a_run_is_known_its_stream_is_requested():
    stream = session()
    assert stream.request().method == "POST"
    stream.started(Reply(200, HEAD))
    stream.ended()
    request = stream.request()
    assert (request.method, request.url) == ("GET", "http://test/runs/r1/stream")
    assert (request.headers["Last-Event-ID"], request.silence) == ("0", 45.0)


def test_a_run_without_location_lives_at_the_runs_url():
    stream = session()
    stream.started(Reply(200, httpx.Headers({"content-type": "text/event-stream", "run-id": "r/1"})))
    assert stream.location == "http://test/runs/r%2F1/stream"


def test_only_a_known_and_unfinished_run_is_cancelled():
    stream = session()
    assert stream.cancellation() is None
    stream.started(Reply(200, HEAD))
    assert stream.cancellation().url == "http://test/runs/r1/cancel"
    list(stream.receive(b"".join(blocks(3))))
    assert stream.cancellation() is None


@pytest.mark.parametrize("number", ["x", "-1", "1.0", "9" * 30, ""])
def test_an_id_that_is_not_a_number_is_a_protocol_error(number):
    stream = session()
    stream.started(Reply(200, HEAD))
    with pytest.raises(ProtocolError):
        list(stream.receive(f"id: {number}\nevent: data\ndata: 1\n\n".encode()))


def test_a_block_that_lacks_the_next_id_is_a_protocol_error():
    stream = session()
    stream.started(Reply(200, HEAD))
    with pytest.raises(ProtocolError):
        list(stream.receive(b"id: 1\nevent: data\ndata: 1\n\nevent: data\ndata: 2\n\n"))


def test_the_run_id_of_stock_metadata_is_known_to_errors():
    stream = session()
    stream.started(Reply(200, httpx.Headers({"content-type": "text/event-stream; charset=utf-8"})))
    list(stream.receive(b'event: metadata\ndata: {"run_id": "s1"}\n\n'))
    with pytest.raises(RunFailed) as caught:
        list(stream.receive(b"event: error\ndata: not json\n\n"))
    assert caught.value.run_id == "s1"


def test_a_stock_server_is_not_asked_twice():
    stream = session(one_shot=True)
    stream.request()
    with pytest.raises(httpx.ReadError):
        stream.failed(httpx.ReadError("reset"))


def test_a_failed_connect_is_retried_with_a_stock_server_too():
    stream = session(one_shot=True)
    stream.request()
    stream.failed(httpx.ConnectError("refused"))
    assert not stream.broken


def test_without_a_server_few_attempts_are_made():
    stream = session(policy=RetryPolicy())
    for _ in range(2):
        stream.failed(httpx.ConnectError("refused"))
        assert stream.delay <= 0.1
    with pytest.raises(httpx.ConnectError):
        stream.failed(httpx.ConnectError("refused"))


def test_a_server_that_takes_no_connection_is_not_asked_twice():
    stream = session()
    with pytest.raises(httpx.ConnectTimeout):
        stream.failed(httpx.ConnectTimeout("slow"))


def test_a_server_that_answered_may_restart():
    stream = session(policy=RetryPolicy(budget=5, first=0.0))
    stream.started(Reply(503, httpx.Headers()))
    for _ in range(4):
        stream.failed(httpx.ConnectError("refused"))
    assert not stream.broken


def test_each_block_renews_the_budget():
    stream, log = session(), blocks(20)
    for number in range(1, 20):
        stream.request()
        stream.started(Reply(200, HEAD))
        list(stream.receive(log[number - 1]))
        stream.ended()
    assert (stream.last_id, stream.broken) == (19, False)


def test_the_callers_timeout_ends_an_unanswered_request():
    stream = session()
    stream.request()
    with pytest.raises(httpx.ReadTimeout):
        stream.failed(httpx.ReadTimeout("slow"))
