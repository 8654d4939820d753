"""Clients are made late, belong to one loop, and close without blocking or warnings."""

import asyncio
import gc
import ssl
import threading
import weakref

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from langchain_core.runnables import RunnableLambda
from langserve import add_routes
from streamserve_sdk import RemoteRunnable
from streamserve_sdk.transport import clients

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")


def test_one_client_serves_several_event_loops(stock):
    remote = RemoteRunnable(f"{stock}/odd")
    assert [asyncio.run(remote.ainvoke(text)) for text in "abc"] == ["A", "B", "C"]
    gc.collect()


def test_a_loop_closes_its_client_and_leaves_nothing_behind(stock):
    remote = RemoteRunnable(f"{stock}/odd")
    loops, made = [], []

    async def main():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await remote.ainvoke("a")
        made.append(await remote._client.clients.current())

    asyncio.run(main())
    gc.collect()
    assert made[0].is_closed
    made.clear()
    gc.collect()
    assert loops[0]() is None


async def test_a_loop_closes_a_forgotten_client_without_blocking(stock):
    remote = RemoteRunnable(f"{stock}/odd")
    await remote.ainvoke("a")
    client = await remote._client.clients.current()
    del remote
    gc.collect()
    closing = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.wait(closing or [asyncio.create_task(asyncio.sleep(0))], timeout=5)
    assert client.is_closed


def test_a_forgotten_client_closes_its_synchronous_connections(stock):
    remote = RemoteRunnable(f"{stock}/odd")
    remote.invoke("a")
    client = remote._client.clients.sync()
    del remote
    gc.collect()
    assert client.is_closed


async def test_after_aclose_a_call_opens_a_new_client(stock):
    remote = RemoteRunnable(f"{stock}/odd")
    for _ in range(2):
        assert await remote.ainvoke("a") == "A"
        await remote.aclose()


def test_threads_share_the_synchronous_client(stock):
    with RemoteRunnable(f"{stock}/odd") as remote:
        seen = []
        threads = [threading.Thread(target=lambda: seen.append(remote._client.clients.sync())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, seen))) == 1


def test_equal_settings_share_one_tls_context():
    assert clients.tls_context(True, None) is clients.tls_context(True, None)
    assert clients.tls_context(False, None).verify_mode == ssl.CERT_NONE


def test_a_context_of_the_caller_is_used_unchanged():
    context = ssl.create_default_context()
    assert clients.HttpClients(context, None, {})._context() is context


def test_options_of_the_caller_win(stock):
    limits = httpx.Limits(max_connections=1)
    remote = RemoteRunnable(f"{stock}/odd", timeout=3.0, client_kwargs={"limits": limits, "trust_env": False})
    with remote:
        assert remote.invoke("a") == "A"
        assert remote._client.clients.sync().timeout == httpx.Timeout(3.0)


def test_a_client_that_the_caller_sets_carries_all_calls(stock):
    sent = []
    with httpx.Client(event_hooks={"request": [lambda request: sent.append(request.url.path)]}) as own:
        with RemoteRunnable(f"{stock}/odd") as remote:
            remote.sync_client = own
            assert remote.sync_client is own
            assert (remote.invoke("a"), list(remote.stream("b"))) == ("A", ["B"])
        assert sent == ["/odd/invoke", "/odd/stream"]
        assert not own.is_closed


async def test_an_asynchronous_client_of_the_caller_is_used(stock):
    sent = []

    async def note(request):
        sent.append(request.url.path)

    async with httpx.AsyncClient(event_hooks={"request": [note]}) as own:
        async with RemoteRunnable(f"{stock}/odd") as remote:
            remote.async_client = own
            assert remote.async_client is own
            assert (await remote.ainvoke("a"), [chunk async for chunk in remote.astream("b")]) == ("A", ["B"])
        assert sent == ["/odd/invoke", "/odd/stream"]
        assert not own.is_closed


def test_starlettes_test_client_serves_as_a_client():
    app = FastAPI()
    add_routes(app, RunnableLambda(str.upper).with_types(input_type=str), path="/odd")
    remote = RemoteRunnable("http://testserver/odd")
    remote.sync_client = TestClient(app)
    assert (remote.invoke("a"), list(remote.stream("b"))) == ("A", ["B"])


def test_headers_of_the_client_can_change_between_calls(scripted, wire):
    answer = [wire.run_head(), wire.sent(wire.block(1, "data", '"a"'), wire.block(2, "end"))]
    server = scripted(list(answer), list(answer))
    with RemoteRunnable(server.url, headers={"X-Mark": "1"}) as remote:
        list(remote.stream("x"))
        remote.sync_client.headers["X-Mark"] = "2"
        list(remote.stream("x"))
    assert [request.headers["x-mark"] for request in server.received] == ["1", "2"]


async def test_each_loop_has_an_asynchronous_client_of_its_own(stock):
    async with RemoteRunnable(f"{stock}/odd") as remote:
        client = remote.async_client
        assert await remote.ainvoke("a") == "A"
        assert remote.async_client is client
        with pytest.raises(RuntimeError, match="no running event loop"):
            await asyncio.to_thread(lambda: remote.async_client)
    assert client.is_closed


async def test_more_than_a_hundred_streams_do_not_wait_for_each_other(scripted, wire):
    answer = [wire.run_head(), wire.sent(wire.block(1, "data", '"a"')), wire.HOLD]
    server = scripted(*[list(answer) for _ in range(105)])
    async with asyncio.timeout(wire.LIMIT), RemoteRunnable(server.url, detach=True) as remote:
        streams = [remote.astream("x") for _ in range(105)]
        assert await asyncio.gather(*(anext(stream) for stream in streams)) == ["a"] * 105
        await asyncio.gather(*(stream.aclose() for stream in streams))


async def test_a_cancelled_task_cancels_its_run(scripted, wire):
    server = scripted([wire.run_head(), wire.sent(wire.block(1, "data", '"a"')), wire.HOLD])
    started = asyncio.Event()

    async def consume(remote):
        async for _ in remote.astream("x"):
            started.set()

    async with asyncio.timeout(wire.LIMIT), RemoteRunnable(server.url) as remote:
        task = asyncio.create_task(consume(remote))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.cancelled.wait, wire.LIMIT)


def test_an_iterator_left_to_the_collector_cancels_its_run(scripted, wire):
    server = scripted([wire.run_head(), wire.sent(wire.block(1, "data", '"a"')), wire.HOLD])
    with RemoteRunnable(server.url) as remote:
        for _ in remote.stream("x"):
            break
    assert server.cancelled.wait(wire.LIMIT)


def test_closing_waits_for_a_cancel_under_way(scripted, wire, monkeypatch):
    server = scripted([wire.run_head(), wire.sent(wire.block(1, "data", '"a"')), wire.HOLD])
    monkeypatch.setattr(clients, "CANCEL_WAIT", 0.0)
    with RemoteRunnable(server.url) as remote:
        stream = remote.stream("x")
        assert next(stream) == "a"
        stream.close()  # does not wait
        monkeypatch.setattr(clients, "CANCEL_WAIT", wire.LIMIT)
    assert server.received[-1].path == "/runs/r1/cancel"


def test_a_cancel_is_sent_where_no_thread_can_start(scripted, wire, monkeypatch):
    server = scripted([wire.run_head(), wire.sent(wire.block(1, "data", '"a"')), wire.HOLD])
    remote = RemoteRunnable(server.url)
    stream = remote.stream("x")
    assert next(stream) == "a"

    def refuse(_thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as ending:  # as since Python 3.12 when the process ends
        ending.setattr(threading.Thread, "start", refuse)
        stream.close()
    assert server.received[-1].path == "/runs/r1/cancel"
    remote.close()
