"""The server of the soak: a chain of 50 tokens a second, one that fails, and counts of objects in the process."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableGenerator

from streamserve import Chain
from streamserve.api.services import services_in
from streamserve.app import create_app
from streamserve.catalog.registry import RegisteredChain, Registry
from streamserve.settings import Settings

TOKENS = 150
PACE = 1 / 50
STATM = Path("/proc/self/statm")


async def steady(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
    """Yield all tokens."""
    async for _ in inputs:
        for number in range(TOKENS):
            await asyncio.sleep(PACE)
            yield f"token {number} "


async def failing(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
    """Fail after a third of the tokens."""
    async for _ in inputs:
        for number in range(TOKENS // 3):
            await asyncio.sleep(PACE)
            yield f"token {number} "
        raise ValueError("as planned")


def _registered(name: str, function: Any) -> RegisteredChain:
    chain = Chain(runnable=RunnableGenerator(function), input_type=str, output_type=str)
    return RegisteredChain(name, f"chains.{name}", f"chains/{name}.py", chain, chain.build(), name)


chains = {name: _registered(name, function) for name, function in (("failing", failing), ("steady", steady))}
# Ended runs are forgotten soon, so that the rest is a leak.
app = create_app(Registry(chains), Settings(retention=5, tombstone=5, orphan_grace=2))


@app.get("/left")
async def left() -> dict[str, int]:
    """Return the counts of objects in this process, without this request."""
    gc.collect()
    pages = int(STATM.read_text("ascii").split()[1])  # noqa: ASYNC240 - memory, not a disk
    runs = services_in(app).runs
    return {
        "memory_kb": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "tasks": len(asyncio.all_tasks()),
        "files": len(os.listdir("/proc/self/fd")),
        "runs": runs.load().runs + runs.store.retained[0],
        "readers": runs.load().readers,
    }
