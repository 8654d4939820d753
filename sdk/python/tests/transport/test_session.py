"""The session without any I/O, cut at any byte and any number of times."""

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamserve_sdk import (
    ConnectionFailed,
    ProtocolError,
    RequestRejected,
    RetryPolicy,
    RunExpired,
    RunFailed,
    RunLost,
    ServerError,
    StreamServeError,
    StreamTruncated,
    ThreadBusy,
)
from streamserve_sdk.transport import sse
from streamserve_sdk.transport.polling import ACCEPT, PASSED, PAUSE
from streamserve_sdk.transport.session import StreamSession
from streamserve_sdk.transport.wire import Reply, Request

BASE = "http://test/joke/stream"
HEAD = httpx.Headers(
    {"content-type": "text/event-stream", "run-id": "r1", "location": "/runs/r1/stream", "retry-after": "0"}
)
RESET = httpx.ReadError("reset")
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


STOCK = httpx.Headers({"content-type": "text/event-stream"})
METADATA = b'id: %d\nevent: metadata\ndata: {"run_id":"r1","attempt":%d}\n\n'


def test_a_run_keeps_its_first_name_and_place():
    names: list[str] = []
    stream = session(on_run=names.append)
    stream.started(Reply(200, HEAD))
    stream.ended()
    stream.started(Reply(200, httpx.Headers({**HEAD, "run-id": "r2", "location": "/runs/r2/stream"})))
    list(stream.receive(METADATA % (1, 1)))
    assert (stream.run_id, names) == ("r1", ["r1"])
    assert stream.location == "http://test/runs/r1/stream"


def test_a_stock_servers_run_has_no_name_before_its_metadata():
    names: list[str] = []
    stream = session(on_run=names.append)
    stream.started(Reply(200, STOCK))
    assert received(stream, b'event: data\ndata: "1"\n\nevent: data\ndata: "2"\n\n') == [1, 2]
    assert (names, stream.run_id, stream.last_id, stream.silence) == ([], None, 0, None)
    list(stream.receive(b'event: metadata\ndata: {"run_id": "s1"}\n\n'))
    assert (names, stream.resumable, stream.cancellation()) == (["s1"], False, None)


def test_a_stock_servers_stream_cannot_be_resumed():
    stream = session()
    stream.started(Reply(200, STOCK))
    with pytest.raises(StreamTruncated):
        stream.ended()
    assert (stream.broken, stream.reading) == (True, False)


def test_after_metadata_with_an_id_each_block_needs_one():
    stream = session()
    stream.started(Reply(200, HEAD))
    list(stream.receive(METADATA % (1, 1)))
    with pytest.raises(ProtocolError):
        list(stream.receive(b"event: data\ndata: 2\n\n"))


@pytest.mark.parametrize(("digits", "is_number"), [(18, True), (19, False)])
def test_an_id_has_at_most_18_digits(digits, is_number):
    stream = session()
    stream.started(Reply(200, HEAD))
    block = f"id: {'9' * digits}\nevent: data\ndata: 1\n\n".encode()
    if is_number:
        assert list(stream.receive(block)) == []  # the blocks before it are requested again
        assert not stream.reading
    else:
        with pytest.raises(ProtocolError, match="has the id"):
            list(stream.receive(block))


def test_each_further_attempt_is_told_once():
    attempts: list[int] = []
    stream = session(on_attempt=attempts.append)
    stream.started(Reply(200, HEAD))
    for _ in range(2):
        list(stream.receive(METADATA % (1, 1) + METADATA % (2, 2) + METADATA % (3, 3)))
    assert (attempts, stream.last_id) == ([2, 3], 3)


def test_a_block_of_an_unknown_kind_counts_and_is_no_chunk():
    stream = session()
    stream.started(Reply(200, HEAD))
    assert list(stream.receive(b"id: 1\nevent: news\ndata: 1\n\n")) == []
    assert received(stream, b'id: 2\nevent: data\ndata: "2"\n\n') == [2]


def test_nothing_is_read_after_the_end():
    stream = session()
    stream.started(Reply(200, HEAD))
    assert received(stream, b"".join([*blocks(3), b'id: 4\nevent: data\ndata: "4"\n\n'])) == [2]
    assert list(stream.receive(b'id: 4\nevent: data\ndata: "4"\n\n')) == []
    stream.ended()
    assert (stream.finished, stream.last_id, stream.broken) == (True, 3, False)


def test_nothing_is_read_after_an_error():
    stream = session()
    stream.started(Reply(200, HEAD))
    with pytest.raises(ServerError):
        list(stream.receive(b"id: 1\nevent: error\ndata: {}\n\n"))
    assert list(stream.receive(b"id: 1\nevent: data\ndata: 1\n\n")) == []
    stream.ended()
    assert (stream.finished, stream.broken, stream.cancellation()) == (True, False, None)


def test_an_error_for_one_reader_has_no_id():
    stream = session()
    stream.started(Reply(200, HEAD))
    list(stream.receive(METADATA % (1, 1)))
    with pytest.raises(ServerError) as caught:
        list(stream.receive(b'event: error\ndata: {"code": "store_unavailable", "retryable": true}\n\n'))
    assert (caught.value.code, caught.value.retryable, caught.value.last_id) == ("store_unavailable", True, 1)


def test_a_block_without_an_id_does_not_move_the_cursor():
    stream = session()
    stream.started(Reply(200, HEAD))
    assert received(stream, b'event: data\ndata: "1"\n\n') == [1]
    assert stream.last_id == 0


@pytest.mark.parametrize(("sizes", "passes"), [([PASSED - 1], True), ([PASSED], False), ([PASSED, 1], False)])
def test_a_stream_passes_if_its_first_bytes_are_few(sizes, passes):
    fresh, known = session(), session(passes=True)
    for stream in (fresh, known):
        stream.started(Reply(200, HEAD))
        for size in sizes:
            list(stream.receive(b":" * size))
    assert (fresh.passes, known.passes) == (passes, True)


POLLED = httpx.Headers({**HEAD, "content-type": "application/json"})


def polled(stream: StreamSession, *blocks: tuple[int, str, str]) -> list[int]:
    """Return what one poll brings."""
    stream.started(Reply(200, POLLED))
    names = ("id", "event", "data")
    found = received(stream, orjson.dumps({"blocks": [dict(zip(names, block, strict=True)) for block in blocks]}))
    stream.ended()
    return found


def test_polls_bring_the_blocks_of_a_stream():
    stream = session(polling=True)
    request = stream.request()
    assert (request.method, request.url, request.headers["Accept"]) == ("POST", f"{BASE}?wait=0", ACCEPT)
    assert polled(stream, (1, "metadata", "{}"), (2, "data", "2")) == [2]
    assert (stream.reading, stream.delay, stream.passes) == (False, PAUSE, False)
    request = stream.request()
    assert (request.method, request.url) == ("GET", "http://test/runs/r1/blocks?wait=20")
    assert (request.headers["Last-Event-ID"], stream.delay) == ("2", 0)
    assert request.silence is not None
    assert request.silence > 20  # the server may be silent while it waits
    assert polled(stream, (2, "data", "2"), (3, "data", "3"), (4, "end", "")) == [3]
    assert (stream.finished, stream.delay) == (True, 0)


@pytest.mark.parametrize("data", [b"{}", b"[]", b"no", b'{"blocks":[{}]}', b'{"blocks":[1]}', b'{"blocks":7}'])
def test_a_poll_that_brings_no_blocks_is_a_protocol_error(data):
    stream = session(polling=True)
    stream.started(Reply(200, POLLED))
    with pytest.raises(ProtocolError, match="without blocks"):
        list(stream.receive(data))


def test_types_beside_a_polled_block_are_read():
    stream = session(polling=True)
    stream.started(Reply(200, POLLED))
    typed = {"id": 1, "event": "data", "data": "[1]", "types": '{"":"tuple"}'}
    found = stream.receive(orjson.dumps({"blocks": [typed, {**typed, "id": 2, "types": None}]}))
    assert [(item.data, item.types) for item in found] == [(b"[1]", b'{"":"tuple"}'), (b"[1]", None)]


def test_a_poll_without_a_block_renews_the_budget():
    stream = session(polling=True, policy=RetryPolicy(budget=1, first=0.0, longest=0.0))
    for _ in range(3):
        assert polled(stream) == []
        stream.failed(RESET)
    assert not stream.broken


SLOW = httpx.ReadTimeout("slow")


def test_silence_after_the_head_turns_to_polling():
    stream = session()
    stream.started(Reply(200, HEAD))
    stream.failed(SLOW)
    assert (stream.polling, stream.broken) == (True, False)
    assert stream.request().url == "http://test/runs/r1/blocks?wait=20"


def test_another_failure_than_silence_does_not_turn_to_polling():
    cut, read, ended, stock = session(), session(), session(), session()
    for stream in (cut, read, ended):
        stream.started(Reply(200, HEAD))
    cut.failed(RESET)
    list(read.receive(b": \n"))
    read.failed(SLOW)
    ended.ended()
    ended.failed(SLOW)
    stock.started(Reply(200, STOCK))
    with pytest.raises(httpx.ReadTimeout):
        stock.failed(SLOW)
    assert [stream.polling for stream in (cut, read, ended, stock)] == [False] * 4


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410, 422])
def test_an_answer_that_stays_the_same_ends_a_resume(status):
    stream = session()
    stream.started(Reply(200, HEAD))
    stream.ended()
    code = {409: "thread_busy"}.get(status, "x")
    with pytest.raises({404: RunLost, 410: RunExpired}.get(status, RequestRejected)) as caught:
        stream.started(Reply(status, httpx.Headers(), b'{"code": "%s"}' % code.encode()))
    assert caught.value.request.url == "http://test/runs/r1/stream"
    assert (stream.broken, stream.cancellation()) == (True, None)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_in_trouble_is_asked_again_for_a_known_run(status):
    stream = session(policy=RetryPolicy(budget=2, first=0.0, longest=9.0))
    stream.started(Reply(200, HEAD))
    stream.ended()
    stream.started(Reply(status, httpx.Headers({"retry-after": "7"})))
    assert (stream.broken, stream.delay >= 7) == (False, True)
    stream.request()
    assert stream.delay == 0
    with pytest.raises(StreamServeError):
        stream.started(Reply(status, httpx.Headers()))
    assert stream.broken


@pytest.mark.parametrize("status", [404, 410, 422])
def test_a_start_that_is_refused_for_good_is_not_repeated(status):
    stream = session()
    with pytest.raises(RequestRejected) as caught:
        stream.started(Reply(status, httpx.Headers()))
    assert (type(caught.value), stream.broken, stream.reading) == (RequestRejected, True, False)


def test_no_content_ends_the_stream_of_a_known_run_only():
    stream = session()
    with pytest.raises(StreamServeError):
        session().started(Reply(204, httpx.Headers()))
    stream.started(Reply(200, HEAD))
    stream.ended()
    stream.started(Reply(204, httpx.Headers()))
    assert (stream.finished, stream.reading) == (True, False)


@pytest.mark.parametrize("kind", ["application/json", ""])
def test_an_answer_that_is_no_event_stream_is_a_protocol_error(kind):
    stream = session()
    with pytest.raises(ProtocolError, match=kind or "no content type"):
        stream.started(Reply(200, httpx.Headers({"content-type": kind} if kind else {})))
    assert not stream.reading


def test_a_detached_reader_cancels_nothing():
    stream = session(detach=True)
    stream.started(Reply(200, HEAD))
    assert stream.cancellation() is None


@pytest.mark.parametrize("cut", [lambda stream: stream.ended(), lambda stream: stream.failed(RESET)])
@pytest.mark.parametrize(("comments", "renewed"), [(1, False), (2, True)])
def test_a_second_keep_alive_renews_the_budget(cut, comments, renewed):
    stream = session(policy=RetryPolicy(budget=2, first=0.0, longest=0.0))
    stream.started(Reply(200, HEAD))
    stream.ended()
    stream.ended()  # nothing is read, so nothing is cut
    stream.started(Reply(200, HEAD))
    list(stream.receive(b": \n\n" * comments))
    cut(stream)
    stream.started(Reply(200, HEAD))
    if renewed:
        stream.ended()
    else:
        with pytest.raises(StreamTruncated):
            stream.ended()


def test_keep_alives_of_an_earlier_connection_renew_nothing():
    stream = session(policy=RetryPolicy(budget=2, first=0.0, longest=0.0))
    stream.started(Reply(200, HEAD))
    list(stream.receive(b": \n\n" * 2))
    for _ in range(2):
        stream.failed(RESET)
    with pytest.raises(httpx.ReadError):
        stream.failed(RESET)


def test_a_request_that_httpx_cannot_send_is_not_repeated():
    stream = session()
    with pytest.raises(ConnectionFailed):
        stream.failed(httpx.UnsupportedProtocol("ftp"))
    assert stream.broken


def test_a_read_error_after_a_stock_servers_answer_is_final():
    stream = session()
    stream.failed(httpx.ReadError("reset"))
    assert not stream.broken
    stream.started(Reply(200, STOCK))
    with pytest.raises(httpx.ReadError):
        stream.failed(httpx.ReadError("reset"))


def test_joining_begins_after_the_callers_last_block():
    stream = StreamSession(
        None, "http://test/runs", POLICY, location="http://test/runs/r1/stream", last_id=7, run_id="r1"
    )
    request = stream.request()
    assert (request.method, request.headers["Last-Event-ID"]) == ("GET", "7")
    assert (stream.position.run_id, stream.position.last_id) == ("r1", 7)


def test_a_missing_block_is_requested_again():
    stream = session()
    stream.started(Reply(200, HEAD))
    assert received(stream, blocks(4)[0] + blocks(4)[2]) == []
    assert (stream.reading, stream.broken, stream.request().headers["Last-Event-ID"]) == (False, False, "1")
    stream.started(Reply(200, HEAD))
    assert received(stream, b"".join(blocks(4)[1:])) == [2, 3]


def test_a_busy_thread_is_the_callers_to_wait_for():
    stream = session()
    busy = b'{"code": "thread_busy", "retryable": true, "message": "busy"}'
    with pytest.raises(ThreadBusy) as caught:
        stream.started(Reply(409, httpx.Headers({"retry-after": "1"}), busy))
    assert (caught.value.retryable, stream.broken) == (True, True)


def test_an_empty_name_is_no_run_to_resume():
    stream = session()
    stream.started(Reply(200, httpx.Headers({**HEAD, "run-id": ""})))
    assert (stream.run_id, stream.location, stream.resumable) == (None, None, False)


def test_ids_of_a_server_without_runs_are_no_cursor():
    stream = session()
    stream.started(Reply(200, STOCK))
    assert received(stream, b"id: 1\nevent: data\ndata: 1\n\n" * 2) == [1, 1]
    assert stream.last_id == 0


@pytest.mark.parametrize("kind", [b"data", b"news", b"metadata"])
def test_a_block_of_any_kind_renews_the_whole_budget(kind):
    stream = session(policy=RetryPolicy(budget=1, first=0.0, longest=0.0))
    for number in range(1, 4):
        stream.started(Reply(200, HEAD))
        list(stream.receive(b"id: %d\nevent: %s\ndata: 1\n\n" % (number, kind)))
        stream.ended()
    assert not stream.broken


def test_a_block_that_is_too_large_is_a_protocol_error(monkeypatch):
    monkeypatch.setattr(sse, "MAX_BLOCK_BYTES", 100)
    stream = session()
    stream.started(Reply(200, HEAD))
    list(stream.receive(b"data: " + b"x" * 200))
    with pytest.raises(ProtocolError, match="larger than 100 bytes"):
        list(stream.receive(b"y"))
