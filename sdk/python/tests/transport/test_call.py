"""`invoke` and `batch` over connections that break: one run, one answer. Over real sockets, in each way to call."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest
from streamserve_sdk import (
    ConnectFailed,
    ConnectionBroken,
    ConnectionTimeout,
    RemoteRunnable,
    RequestRejected,
    RunExpired,
    RunLost,
    StreamServeError,
    UpstreamError,
)
from streamserve_sdk.transport import http

NAMED = {"run_id": "r1", "content_location": "/runs/r1"}
UNKNOWN = '{"detail":"There is no such run","code":"not_found","retryable":false,"run_id":null}'
RUNNING = '{"run_id":"r1","status":"running"}'


@pytest.fixture(params=["sync", "async", "aiohttp"])
def call(request, wire):
    """Call a method once or twice, by `invoke` or by `ainvoke`."""

    async def acall(remote, value, times):
        async with asyncio.timeout(wire.LIMIT), remote:
            return [await remote.ainvoke(value) for _ in range(times)]

    def run(url, value="x", times=1, **options):
        if request.param == "aiohttp":
            pytest.importorskip("httpx_aiohttp")
            options["transport"] = "aiohttp"
        remote = RemoteRunnable(url, **{"retry": wire.FAST, **options})
        if request.param == "sync":
            with remote:
                return [remote.invoke(value) for _ in range(times)]
        return asyncio.run(acall(remote, value, times))

    return run


@pytest.fixture
def said(wire):
    """Return the answers of a server by what they say."""

    def answer(output, **headers):
        body = json.dumps({"output": output}).encode()
        return [wire.head(200, content_type="application/json", **headers), wire.sent(body), wire.EOF]

    return SimpleNamespace(
        done=answer("a", **NAMED),
        stock=answer("a"),
        both=answer(["a", "b"], **NAMED),
        running=wire.plain(202, RUNNING, **NAMED),
        ours=wire.plain(404, UNKNOWN),
        theirs=wire.plain(404, '{"detail":"Not Found"}'),
        cut=[wire.CUT],
    )


class Watched(list):
    """A list with an event for its second item."""

    def __init__(self):
        super().__init__()
        self.second = threading.Event()

    def append(self, item):
        super().append(item)
        if len(self) == 2:
            self.second.set()


def asked(server):
    return [(request.method, request.path) for request in server.received]


POST = ("POST", "/joke/invoke?wait=2")
POLL = ("GET", "/runs/r1/output?wait=20")


def test_a_quick_call_takes_one_request_with_a_key(scripted, call, said):
    server = scripted(said.done)
    assert call(server.url) == ["a"]
    assert asked(server) == [POST]
    assert len(server.received[0].headers["idempotency-key"]) == 36


def test_each_call_has_its_own_key(scripted, call, said):
    server = scripted(said.done, said.done)
    call(server.url, times=2)
    assert len({request.headers["idempotency-key"] for request in server.received}) == 2


def test_a_cut_call_joins_its_run(scripted, call, said):
    server = scripted(said.cut, said.ours, said.cut, said.done)
    assert call(server.url) == ["a"]
    first, probe, *again = server.received
    assert [(one.method, one.path) for one in (first, *again)] == [POST] * 3
    assert (probe.method, probe.path) == ("GET", f"/runs/{first.headers['idempotency-key']}")
    assert {(one.headers["idempotency-key"], one.body) for one in (first, *again)} == {
        (first.headers["idempotency-key"], first.body)
    }


def test_a_cut_call_with_a_time_limit_joins_its_run(scripted, call, said, wire):
    server = scripted(said.cut, said.ours, said.cut, said.done)
    assert call(server.url, timeout=wire.LIMIT) == ["a"]
    assert asked(server)[0] == asked(server)[3]


def test_a_known_server_is_not_asked_what_it_is(scripted, call, said):
    server = scripted(said.done, said.cut, said.done)
    assert call(server.url, times=2) == ["a", "a"]
    assert asked(server) == [POST] * 3


def test_an_answer_that_is_cut_in_its_middle_is_asked_for_again(scripted, call, said, wire):
    server = scripted([*said.done[:-1], wire.CUT], said.ours, said.done)
    assert call(server.url) == ["a"]


def test_a_long_call_is_polled_by_its_run(scripted, call, said):
    server = scripted(said.running, said.running, said.cut, said.done)
    assert call(server.url) == ["a"]
    assert asked(server) == [POST, POLL, POLL, POLL]


def test_a_cut_call_of_another_server_is_not_repeated(scripted, call, said):
    server = scripted(said.cut, said.theirs)
    with pytest.raises(ConnectionBroken):
        call(server.url)
    assert [request.method for request in server.received] == ["POST", "GET"]


def test_a_known_other_server_is_called_as_before(scripted, call, said):
    server = scripted(said.stock, said.cut)
    with pytest.raises(ConnectionBroken):
        call(server.url, times=2)
    assert asked(server) == [POST] * 2


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_that_gives_up_does_not_end_the_call(scripted, call, said, wire, status):
    server = scripted(wire.plain(status, "<html>"), said.ours, wire.plain(status, "<html>"), said.done)
    assert call(server.url) == ["a"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_before_the_run_is_the_callers_at_once(scripted, call, wire, status):
    server = scripted(wire.plain(status, '{"detail":"full","code":"overloaded","retryable":true}', retry_after="1"))
    with pytest.raises(RequestRejected, match="full") as caught:
        call(server.url)
    assert (caught.value.response.status_code, caught.value.retryable) == (status, True)


def test_a_refusal_after_a_cut_is_asked_again(scripted, call, said, wire):
    full = wire.plain(429, '{"detail":"full","code":"too_many_runs","retryable":true}')
    server = scripted(said.cut, said.ours, full, said.done)
    assert call(server.url) == ["a"]


def test_a_busy_server_is_asked_again_after_its_retry_after(scripted, call, said, wire, monkeypatch):
    pauses = []

    async def pause(delay):
        pauses.append(delay)

    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(http, "asyncio", SimpleNamespace(sleep=pause, create_task=asyncio.create_task))
    full = wire.plain(429, '{"detail":"full","code":"too_many_runs","retryable":true}', retry_after="7")
    server = scripted(said.cut, said.ours, full, said.done)
    assert call(server.url) == ["a"]
    assert pauses[-1] == 7.0


def test_the_error_of_the_run_is_not_asked_for_again(scripted, call, wire):
    failed = wire.plain(502, '{"detail":"down","code":"upstream","retryable":true,"run_id":"r1"}', **NAMED)
    server = scripted(failed)
    with pytest.raises(UpstreamError) as caught:
        call(server.url)
    assert (caught.value.response.status_code, caught.value.run_id) == (502, "r1")


def test_a_polled_error_is_not_asked_for_again(scripted, call, said, wire):
    error = '{"detail":"down","code":"upstream","retryable":true,"run_id":"r1"}'
    server = scripted(said.running, wire.plain(502, error, **NAMED))
    with pytest.raises(UpstreamError) as caught:
        call(server.url)
    assert (caught.value.response.status_code, caught.value.run_id) == (502, "r1")


@pytest.mark.parametrize(("status", "error"), [(404, RunLost), (410, RunExpired)])
def test_a_call_whose_run_is_gone_is_not_made_again(scripted, call, said, wire, status, error):
    server = scripted(said.running, wire.plain(status, UNKNOWN))
    with pytest.raises(error) as caught:
        call(server.url)
    assert caught.value.run_id == "r1"


def test_attempts_of_a_call_are_bounded(scripted, call, said):
    server = scripted(said.cut, said.ours, *[said.cut] * 3)
    with pytest.raises(ConnectionBroken):
        call(server.url)
    assert len(server.received) == 5


def test_a_call_without_a_server_fails_soon(call, wire):
    with pytest.raises(ConnectFailed):
        call("http://127.0.0.1:9/joke")


def test_a_location_at_another_origin_gets_no_credentials(scripted, call, said, wire):
    moved = wire.plain(202, RUNNING, run_id="r1", content_location="http://127.0.0.1:9/runs/r1")
    server = scripted(moved, said.done)
    assert call(server.url) == ["a"]
    assert asked(server) == [POST, POLL]


# Callers that leave


def test_a_timeout_cancels_the_run(scripted, call, said, wire):
    server = scripted(said.done, [wire.HOLD], said.running)
    with pytest.raises(ConnectionTimeout):
        call(server.url, times=2, timeout=0.3)
    assert server.cancelled.wait(wire.LIMIT)
    assert asked(server)[2:] == [("POST", "/joke/invoke?wait=0"), ("POST", "/runs/r1/cancel")]
    assert len({request.headers.get("idempotency-key") for request in server.received[1:3]}) == 1


def test_a_timeout_of_an_unknown_server_asks_what_it_is(scripted, call, said, wire):
    server = scripted([wire.HOLD], said.ours, said.running)
    with pytest.raises(ConnectionTimeout):
        call(server.url, timeout=0.3)
    assert server.cancelled.wait(wire.LIMIT)


def test_a_timeout_counts_the_whole_call(scripted, call, said, wire):
    server = scripted(*[said.running] * 2, [wire.HOLD])
    with pytest.raises(ConnectionTimeout) as caught:
        call(server.url, timeout=0.3)
    assert caught.value.run_id in (None, "r1")
    assert server.cancelled.wait(wire.LIMIT)


def test_a_detached_call_continues_when_its_caller_leaves(scripted, call, said, wire):
    server = scripted(said.done, [wire.HOLD])
    with pytest.raises(ConnectionTimeout):
        call(server.url, times=2, timeout=0.3, detach=True)
    assert asked(server) == [POST] * 2
    assert server.received[0].headers["run-on-disconnect"] == "continue"


def test_another_server_gets_no_cancel(scripted, call, said, wire):
    server = scripted(said.stock, [wire.HOLD])
    with pytest.raises(ConnectionTimeout):
        call(server.url, times=2, timeout=0.3)
    assert asked(server) == [POST] * 2


async def test_a_cancelled_task_cancels_the_run(scripted, said, wire):
    server = scripted(said.running, [wire.HOLD])
    polled = Watched()
    server.received = polled
    async with RemoteRunnable(server.url) as remote:
        task = asyncio.create_task(remote.ainvoke("x"))
        assert await asyncio.to_thread(polled.second.wait, wire.LIMIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.cancelled.wait, wire.LIMIT)


def test_a_batch_is_one_call_too(scripted, said, wire):
    server = scripted(said.cut, said.ours, said.both)
    with RemoteRunnable(server.url, retry=wire.FAST) as remote:
        assert remote.batch(["x", "y"]) == ["a", "b"]
    assert asked(server)[2] == ("POST", "/joke/batch?wait=2")


def test_calls_at_once_from_several_threads_are_apart(scripted, said, wire):
    server = scripted(*[said.done] * 8)
    outputs: list[object] = []
    with RemoteRunnable(server.url) as remote:
        threads = [threading.Thread(target=lambda: outputs.append(remote.invoke("x"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(wire.LIMIT)
    assert outputs == ["a"] * 8
    assert len({request.headers["idempotency-key"] for request in server.received}) == 8


def test_errors_of_calls_are_of_one_tree(scripted, said, wire):
    server = scripted(said.cut, said.theirs)
    with RemoteRunnable(server.url, retry=wire.FAST) as remote, pytest.raises(StreamServeError):
        remote.invoke("x")
