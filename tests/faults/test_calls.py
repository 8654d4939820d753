"""Tests that `invoke` and `batch` of the client give one answer of one run, wherever their connections are cut."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.runnables import RunnableLambda
from langserve import add_routes
from streamserve_sdk import ConnectionBroken, RemoteRunnable, RetryPolicy

from tests.faults.proxy import Fault, Kind, Proxy, sequence
from tests.runs.support import LIMIT, app_of
from tests.servers import serving

FAST = RetryPolicy(first=0.01, longest=0.05)


class Counted:
    """A chain that counts its calls; it takes longer than the cut of a connection before its answer."""

    def __init__(self) -> None:
        self.calls = 0
        self.runnable = RunnableLambda(self.double)

    async def double(self, text: str) -> str:
        self.calls += 1
        await asyncio.sleep(0.1)
        return text * 2


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def call(remote: RemoteRunnable[Any, Any], method: str) -> Any:
    async with asyncio.timeout(LIMIT):
        if method == "invoke":
            return await remote.ainvoke("ab")
        return await remote.abatch(["a", "b"])


@pytest.mark.parametrize("method", ["invoke", "batch"])
@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize("after", [1, 17, 200, 400])
async def test_a_cut_call_is_answered_once_by_one_run(method: str, kind: Kind, after: int) -> None:
    chain = Counted()
    with serving(app_of({"double": chain.runnable})) as url:
        cut = Fault(after=after, kind=kind)
        faults = sequence(cut, cut, Fault(status=502), cut)
        async with Proxy(port_of(url), faults) as proxy, RemoteRunnable(f"{proxy.url}/double", retry=FAST) as remote:
            assert await call(remote, method) == ("abab" if method == "invoke" else ["aa", "bb"])
    assert chain.calls == (1 if method == "invoke" else 2)
    assert proxy.struck[kind] >= 2


@pytest.mark.parametrize("method", ["invoke", "batch"])
async def test_a_cut_call_of_langserve_is_not_repeated(method: str) -> None:
    chain, app = Counted(), FastAPI()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from langserve itself
        add_routes(app, chain.runnable.with_types(input_type=str), path="/double")
    with serving(app) as url:
        faults = sequence(Fault(after=1))
        async with Proxy(port_of(url), faults) as proxy, RemoteRunnable(f"{proxy.url}/double", retry=FAST) as remote:
            with pytest.raises(ConnectionBroken):
                await call(remote, method)
            calls = chain.calls
            assert await call(remote, method)
    assert (calls, chain.calls) == ((1, 2) if method == "invoke" else (2, 4))


async def test_a_caller_that_gives_up_ends_the_run() -> None:
    left = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def endless(_: str) -> str:
        try:
            return await asyncio.Event().wait()
        finally:
            loop.call_soon_threadsafe(left.set)

    with serving(app_of({"endless": RunnableLambda(endless)})) as url:
        async with RemoteRunnable(f"{url}/endless", timeout=0.3) as remote:
            with pytest.raises(httpx.ReadTimeout):
                await remote.ainvoke("x")
        async with asyncio.timeout(LIMIT):
            await left.wait()
