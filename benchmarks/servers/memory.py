"""The server whose memory is measured, in a process of its own that reports its memory."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.runnables import RunnableGenerator
from pydantic import BaseModel

from streamserve import Chain
from streamserve.app import create_app
from streamserve.catalog.registry import RegisteredChain, Registry
from streamserve.settings import Settings

ROOT = Path(__file__).parents[2]
CHUNKS = 100
CHUNK = "token "
MAX_READERS = 2000


class Empty(BaseModel):
    """An empty input."""


async def idle(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
    """Yield one chunk, then stay silent."""
    async for _ in inputs:
        yield CHUNK
        await asyncio.get_running_loop().create_future()


async def short(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
    """Yield an answer of 100 chunks."""
    async for _ in inputs:
        for _ in range(CHUNKS):
            yield CHUNK


def application() -> FastAPI:
    """Return StreamServe with both chains, `GET /memory` and `GET /bare`."""
    registry = Registry({name: _registered(name, chain) for name, chain in (("idle", idle), ("short", short))})
    app = create_app(registry, Settings(max_readers=MAX_READERS, max_runs=MAX_READERS, _env_file=None))
    app.get("/memory")(memory)
    app.get("/bare")(bare)
    return app


async def bare() -> StreamingResponse:
    """Answer with an idle stream of FastAPI and uvicorn alone: the floor."""
    return StreamingResponse(idle(_once()), media_type="text/event-stream")


async def _once() -> AsyncIterator[None]:
    yield None


def _registered(name: str, function: Any) -> RegisteredChain:
    chain = Chain(runnable=RunnableGenerator(function), input_type=Empty, output_type=str)
    return RegisteredChain(name, f"benchmarks.{name}", f"{name}.py", chain, chain.build(), name)


async def memory() -> dict[str, int]:
    """Return the bytes in memory, and those that Python objects hold if they are traced."""
    gc.collect()
    return {"resident": _resident(), "traced": tracemalloc.get_traced_memory()[0]}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


@contextmanager
def serving(*, traced: bool) -> Iterator[int]:
    """Run the server until the block ends; yield its port on 127.0.0.1."""
    # The socket listens before the process starts, so that no client comes too early.
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        descriptor, port = listener.fileno(), listener.getsockname()[1]
        options = ["-X", "tracemalloc"] if traced else []
        command = [sys.executable, *options, "-m", "benchmarks.servers.memory", str(descriptor)]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[descriptor])
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def allow_files(count: int) -> None:
    """Raise the soft limit of open files.

    Raises:
        SystemExit: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise SystemExit(f"{count} open files are needed; the hard limit is {hard} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


if __name__ == "__main__":
    allow_files(2 * MAX_READERS)
    config = uvicorn.Config(application(), log_level="error", backlog=2048)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
