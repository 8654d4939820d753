"""Both drivers against a server that breaks in every way, over real sockets."""

import asyncio
import json
from types import SimpleNamespace

import httpx
import pytest
from streamserve_sdk import (
    ConnectFailed,
    ConnectionBroken,
    ConnectionTimeout,
    ProtocolError,
    RemoteRunnable,
    RequestRejected,
    RetryPolicy,
    RunCancelled,
    RunExpired,
    RunFailed,
    RunLost,
    StreamServeError,
    StreamTruncated,
)
from streamserve_sdk.transport import http, opening


def whole(wire, first=1):
    blocks = [
        wire.block(1, "metadata", '{"run_id":"r1"}'),
        wire.block(2, "data", '"a"'),
        wire.block(3, "data", '"b"'),
        wire.block(4, "data", '"c"'),
        wire.block(5, "end"),
    ]
    return blocks[first - 1 :]


def test_a_whole_stream_takes_one_request_with_a_key(scripted, streamed, wire):
    server = scripted([wire.run_head(), wire.sent(b": \n", *whole(wire)), wire.EOF])
    assert streamed(server.url) == ["a", "b", "c"]
    assert [(r.method, r.path) for r in server.received] == [("POST", "/joke/stream")]
    assert len(server.received[0].headers["idempotency-key"]) == 36
    assert json.loads(server.received[0].body)["input"] == "x"


def test_a_cut_stream_resumes_without_loss(scripted, streamed, wire):
    server = scripted(
        [wire.run_head(), wire.sent(*whole(wire)[:2]), wire.CUT],
        [
            wire.run_head(run_replay_from="2"),
            wire.sent(wire.block(3, "data", '"b"') + b"id: 4\nevent: da"),
            wire.CUT,
        ],
        [wire.run_head(run_replay_from="3"), wire.sent(*whole(wire, 4)), wire.EOF],
    )
    assert streamed(server.url) == ["a", "b", "c"]
    assert [(r.method, r.path, r.headers.get("last-event-id")) for r in server.received] == [
        ("POST", "/joke/stream", None),
        ("GET", "/runs/r1/stream", "2"),
        ("GET", "/runs/r1/stream", "3"),
    ]


def test_a_clean_end_of_file_without_terminal_block_resumes(scripted, streamed, wire):
    server = scripted(
        [wire.run_head(), wire.sent(*whole(wire)[:2]), wire.EOF],
        [wire.run_head(), wire.sent(*whole(wire, 3)), wire.EOF],
    )
    assert streamed(server.url) == ["a", "b", "c"]


def test_repeated_blocks_are_dropped(scripted, streamed, wire):
    server = scripted(
        [wire.run_head(), wire.sent(*whole(wire)[:3]), wire.CUT],
        [wire.run_head(), wire.sent(*whole(wire), *whole(wire)), wire.EOF],
    )
    assert streamed(server.url) == ["a", "b", "c"]


def test_a_gap_reconnects_from_the_cursor(scripted, streamed, wire):
    server = scripted(
        [wire.run_head(), wire.sent(*whole(wire)[:2], *whole(wire, 4)), wire.EOF],
        [wire.run_head(), wire.sent(*whole(wire, 3)), wire.EOF],
    )
    assert streamed(server.url) == ["a", "b", "c"]
    assert server.received[1].headers["last-event-id"] == "2"


def test_a_gap_that_stays_is_a_protocol_error(scripted, streamed, wire):
    gap = [wire.run_head(), wire.sent(*whole(wire, 3)), wire.EOF]
    server = scripted(*[list(gap) for _ in range(4)])
    with pytest.raises(ProtocolError, match="block 3 came after block 0"):
        streamed(server.url)


def test_an_unanswered_request_is_sent_again_with_the_same_key(scripted, streamed, wire):
    server = scripted([wire.CUT], [wire.run_head(), wire.sent(*whole(wire)), wire.EOF])
    assert streamed(server.url) == ["a", "b", "c"]
    first, second = server.received
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert (first.body, second.method) == (second.body, "POST")


def test_a_busy_server_is_asked_again_after_its_retry_after(scripted, streamed, wire, monkeypatch):
    pauses = []

    async def pause(delay):
        pauses.append(delay)

    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(http, "asyncio", SimpleNamespace(sleep=pause, create_task=asyncio.create_task))
    server = scripted(
        wire.plain(503, retry_after="7"),
        [wire.run_head(), wire.sent(*whole(wire)[:3]), wire.CUT],
        wire.plain(429, retry_after="8"),
        [wire.run_head(), wire.sent(*whole(wire, 4)), wire.EOF],
    )
    assert streamed(server.url) == ["a", "b", "c"]
    assert (pauses[0], pauses[2]) == (7.0, 8.0)


def test_a_retry_after_beyond_the_bound_is_shown_to_the_caller(scripted, streamed, wire):
    server = scripted(wire.plain(503, '{"detail":"closed"}', retry_after="3600"))
    with pytest.raises(RequestRejected, match="closed") as caught:
        streamed(server.url)
    assert (caught.value.retryable, caught.value.response.status_code) == (True, 503)


def test_an_idle_connection_is_replaced(scripted, streamed, wire):
    server = scripted(
        [wire.run_head(), wire.sent(*whole(wire)[:2]), wire.HOLD],
        [wire.run_head(), wire.sent(*whole(wire, 3)), wire.EOF],
    )
    assert streamed(server.url, keepalive=0.05) == ["a", "b", "c"]


def test_keepalives_hold_the_connection_and_renew_the_budget(scripted, streamed, wire):
    alive = [wire.run_head(), wire.sent(b": \n", b": \n"), wire.CUT]
    server = scripted(*[list(alive) for _ in range(8)], [wire.run_head(), wire.sent(*whole(wire)), wire.EOF])
    assert streamed(server.url) == ["a", "b", "c"]


def test_attempts_without_progress_are_bounded(scripted, streamed, wire):
    dead = [wire.run_head(), wire.sent(b": \n"), wire.EOF]
    server = scripted([wire.run_head(), wire.sent(*whole(wire)[:2]), wire.EOF], *[list(dead) for _ in range(3)])
    chunks = []
    with pytest.raises(StreamTruncated) as caught:
        streamed(server.url, into=chunks)
    assert (chunks, caught.value.run_id, caught.value.last_id) == (["a"], "r1", 2)
    assert isinstance(caught.value, httpx.TransportError)
    assert len(server.received) == 4


@pytest.mark.parametrize(("status", "kind"), [(404, RunLost), (410, RunExpired)])
def test_a_run_that_is_gone_raises_at_once(scripted, streamed, wire, status, kind):
    server = scripted(
        [wire.run_head(), wire.sent(*whole(wire)[:2]), wire.CUT],
        wire.plain(status, '{"detail":"gone","code":"not_found","retryable":false}'),
    )
    with pytest.raises(kind, match="gone") as caught:
        streamed(server.url)
    assert (caught.value.run_id, caught.value.last_id) == ("r1", 2)
    assert isinstance(caught.value, httpx.HTTPStatusError)
    assert len(server.received) == 2


def test_no_content_on_a_resume_means_that_nothing_is_left(scripted, streamed, wire):
    server = scripted([wire.run_head(), wire.sent(*whole(wire)[:4]), wire.CUT], wire.plain(204))
    assert streamed(server.url) == ["a", "b", "c"]


def test_an_error_block_raises_by_its_code(scripted, streamed, wire):
    data = '{"status_code":499,"message":"stopped","code":"cancelled","retryable":false,"run_id":"r1"}'
    server = scripted([wire.run_head(), wire.sent(*whole(wire)[:2], wire.block(3, "error", data)), wire.EOF])
    chunks = []
    with pytest.raises(RunCancelled, match="stopped") as caught:
        streamed(server.url, into=chunks)
    assert (chunks, caught.value.response.status_code, caught.value.last_id) == (["a"], 499, 2)
    assert len(server.received) == 1


def test_a_reader_that_leaves_early_cancels_the_run(scripted, streamed, wire):
    server = scripted([wire.run_head(), wire.sent(*whole(wire)[:2]), wire.HOLD])
    assert streamed(server.url, stop_after=1) == ["a"]
    assert server.cancelled.wait(wire.LIMIT)
    assert [(r.method, r.path) for r in server.received][1:] == [("POST", "/runs/r1/cancel")]


def test_a_run_continues_when_a_detached_reader_leaves(scripted, streamed, wire):
    server = scripted([wire.run_head(), wire.sent(*whole(wire)[:2]), wire.HOLD])
    ids = []
    assert streamed(server.url, stop_after=1, call={"detach": True, "on_run": ids.append}) == ["a"]
    assert server.left.wait(wire.LIMIT)
    assert len(server.received) == 1
    assert server.received[0].headers["run-on-disconnect"] == "continue"
    assert ids == ["r1"]


def test_a_refused_stream_closes_its_connection(scripted, wire):
    server = scripted([wire.head(200, content_type="text/html"), wire.HOLD])
    with RemoteRunnable(server.url) as remote:
        with pytest.raises(ProtocolError, match="text/html"):
            list(remote.stream("x"))
        assert server.left.wait(wire.LIMIT)


async def test_a_refused_async_stream_closes_its_connection(scripted, wire):
    server = scripted([wire.head(200, content_type="text/html"), wire.HOLD])
    async with RemoteRunnable(server.url) as remote:
        with pytest.raises(ProtocolError, match="text/html"):
            await anext(remote.astream("x"))
        assert await asyncio.to_thread(server.left.wait, wire.LIMIT)


def test_a_location_of_another_origin_is_not_followed(scripted, streamed, wire):
    elsewhere = scripted()
    location = f"http://127.0.0.1:{elsewhere.port}/runs/r1/stream"
    server = scripted(
        [wire.head(run_id="r1", location=location), wire.sent(*whole(wire)[:2]), wire.CUT],
        [wire.run_head(), wire.sent(*whole(wire, 3)), wire.EOF],
    )
    assert streamed(server.url, headers={"Authorization": "Bearer s3cret"}) == ["a", "b", "c"]
    assert elsewhere.received == []
    assert server.received[1].path == "/runs/r1/stream"


def test_errors_do_not_show_the_requests_headers(scripted, streamed, wire):
    server = scripted(wire.plain(403, "no entry"))
    with pytest.raises(RequestRejected, match="no entry") as caught:
        streamed(server.url, headers={"Authorization": "Bearer s3cret", "X-Key": "s3cret"})
    error = caught.value
    shown = f"{error} {error!r} {error.request.headers} {error.response.request.headers} {vars(error)}"
    assert "s3cret" not in shown
    assert error.response.text == "no entry"


def test_without_run_id_there_is_one_attempt(scripted, streamed, wire):
    server = scripted([wire.head(), wire.sent(wire.block(None, "data", '"a"')), wire.EOF])
    with pytest.raises(StreamTruncated):
        streamed(server.url)
    assert len(server.received) == 1


def test_a_cut_without_run_id_is_a_broken_connection(scripted, streamed, wire):
    server = scripted([wire.head(), wire.sent(wire.block(None, "data", '"a"')), wire.CUT])
    with pytest.raises(ConnectionBroken) as caught:
        streamed(server.url)
    assert isinstance(caught.value, httpx.RemoteProtocolError)
    assert isinstance(caught.value.__cause__, httpx.TransportError)


def test_without_run_id_the_callers_timeout_bounds_silence(scripted, streamed, wire):
    server = scripted([wire.head(), wire.sent(wire.block(None, "data", '"a"')), wire.HOLD])
    with pytest.raises(ConnectionTimeout) as caught:
        streamed(server.url, timeout=0.2, keepalive=0.001)
    assert isinstance(caught.value, httpx.ReadTimeout)


def test_a_connection_lost_before_the_answer_is_broken(scripted, streamed, wire):
    with pytest.raises(ConnectionBroken):
        streamed(scripted([wire.CUT]).url, retry=RetryPolicy(budget=0))


def test_a_plain_500_is_not_asked_again(scripted, streamed, wire):
    server = scripted(wire.plain(500, "Internal Server Error"))
    with pytest.raises(RequestRejected) as caught:
        streamed(server.url)
    assert (len(server.received), caught.value.retryable) == (1, False)


def test_a_wrong_content_type_is_a_protocol_error(scripted, streamed, wire):
    server = scripted([wire.head(200, content_type="text/html"), wire.sent(b"<p>hi</p>"), wire.EOF])
    with pytest.raises(ProtocolError, match="text/html"):
        streamed(server.url)


def test_connects_to_a_missing_server_are_bounded(streamed):
    with pytest.raises(ConnectFailed) as caught:
        streamed("http://127.0.0.1:1/joke", retry=RetryPolicy(budget=2, first=0.001))
    assert isinstance(caught.value, httpx.ConnectError)
    assert caught.value.retryable


def test_a_block_without_json_cancels_the_run(scripted, streamed, wire):
    server = scripted([wire.run_head(), wire.sent(wire.block(1, "data", "{")), wire.HOLD])
    with pytest.raises(ProtocolError, match="no JSON"):
        streamed(server.url)
    assert server.cancelled.wait(wire.LIMIT)


def test_stock_error_blocks_are_failures_of_the_run(scripted, streamed, wire):
    data = '{"status_code": 500, "message": "Internal Server Error"}'
    server = scripted([wire.head(), wire.sent(wire.block(None, "error", data)), wire.EOF])
    with pytest.raises(RunFailed, match="Internal Server Error") as caught:
        streamed(server.url)
    assert caught.value.response.status_code == 500
    assert isinstance(caught.value, StreamServeError)


def test_types_beside_a_block_are_read(scripted, streamed, wire):
    typed = b'id: 1\nevent: data\ndata: [[1,2],{"type":"human","content":"x"}]\ntypes: {"/0":"tuple","/1":"dict"}\n\n'
    server = scripted([wire.run_head(), wire.sent(typed, wire.block(2, "end")), wire.EOF])
    assert streamed(server.url) == [[(1, 2), {"type": "human", "content": "x"}]]


async def test_a_stream_held_back_after_its_head_is_not_begun_again(scripted, wire, monkeypatch):
    def hurry(_run_id):
        monkeypatch.setattr(opening, "HELD_AFTER", 0.01)

    monkeypatch.setattr(opening, "LATE", 0.0)
    blocks = [(1, "metadata", "{}"), (2, "data", '"a"'), (3, "end", "")]
    bodies = ({"status": "running"}, {"blocks": [{"id": n, "event": event, "data": data} for n, event, data in blocks]})
    answers = ([wire.head(content_type="application/json", run_id="r1"), json.dumps(body).encode()] for body in bodies)
    server = scripted([wire.run_head(), wire.HOLD], *([head, wire.sent(body), wire.EOF] for head, body in answers))
    async with asyncio.timeout(wire.LIMIT), RemoteRunnable(server.url) as remote:
        assert [chunk async for chunk in remote.astream("x", on_run=hurry)] == ["a"]
    asked = [(request.method, request.path) for request in server.received]
    assert asked == [("POST", "/joke/stream"), ("GET", "/runs/r1"), ("GET", "/runs/r1/blocks?wait=20")]


async def test_a_silent_server_is_asked_less_and_less_often(scripted, wire, monkeypatch):
    server = scripted([wire.HOLD], *[wire.plain(404, '{"detail":"Not Found"}')] * 3)
    pauses, enough = [], asyncio.Event()

    async def pause(delay):
        pauses.append(delay)
        if len(pauses) == 3:
            enough.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(opening, "HELD_AFTER", 0.01)
    monkeypatch.setattr(opening, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pause}))
    async with asyncio.timeout(wire.LIMIT), RemoteRunnable(server.url) as remote:
        reading = asyncio.create_task(anext(remote.astream("x")))
        await enough.wait()
        reading.cancel()
        await asyncio.wait([reading])
    assert pauses == [0.02, 0.04, 0.08]
