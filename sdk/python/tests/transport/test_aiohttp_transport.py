"""The time limit of a read over aiohttp; the test moves the clock of its event loop."""

import asyncio

import httpx
import pytest

pytest.importorskip("httpx_aiohttp")
from streamserve_sdk.transport import aiohttp_transport
from streamserve_sdk.transport.aiohttp_transport import WatchedStream


async def test_silence_counts_from_the_last_bytes(monkeypatch):
    loop, passed, parts = asyncio.get_running_loop(), [0.0], asyncio.Queue()
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + passed[0])
    monkeypatch.setattr(aiohttp_transport, "reader", lambda _inner: parts.get)
    reading = aiter(WatchedStream(None, {"read": 100.0}, None))

    async def begun_read():
        waiting = asyncio.create_task(anext(reading))
        await after(0.0)
        return waiting

    async def after(seconds):
        passed[0] += seconds
        for _ in range(5):
            await asyncio.sleep(0)

    for part in (b"a", b"b"):
        waiting = await begun_read()
        await after(60.0)
        parts.put_nowait(part)
        assert await waiting == part
    waiting = await begun_read()
    await after(60.0)
    await after(30.0)
    assert not waiting.done()
    await after(30.0)
    assert waiting.done()
    with pytest.raises(httpx.ReadTimeout, match="no bytes arrived for 100 s"):
        await waiting
