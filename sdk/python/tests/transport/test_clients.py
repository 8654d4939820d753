"""Clients are made late, belong to one loop, and close without blocking or warnings."""

import asyncio
import gc
import ssl
import threading
import weakref

import httpx
import pytest
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
