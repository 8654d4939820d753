"""The server under attack, in a process of its own: chains of every kind, and short time limits."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import sub
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from streamserve import Chain
from streamserve.app import create_app
from streamserve.http.protocol import BoundedHead
from streamserve.settings import Settings
from streamserve.telemetry.logs import log_config
from tests.fakes import Conversation, Topic, echo, echo_graph, greeting, registry_of
from tests.faults.attacks import good_requests
from tests.faults.server import ROOT, Count, count

BODY_TIMEOUT = 2.0
START_LIMIT = 60.0
SETTINGS = Settings(body_timeout=BODY_TIMEOUT, max_retained_runs=500, log_format="json", _env_file=None)


def targets() -> dict[str, Chain]:
    """Return the chains that the attacks call: a configurable prompt, a conversation, a graph with threads."""
    return {
        "greeting": Chain(runnable=greeting(), input_type=Topic),
        "chat": Chain(runnable=RunnableLambda(echo), input_type=Conversation, output_type=str),
        "graph": Chain(runnable=echo_graph()),
    }


def application() -> FastAPI:
    """Serve the targets, and a chain that counts for other readers."""
    counting = Chain(runnable=RunnableGenerator(count), input_type=Count, output_type=str)
    app = create_app(registry_of({**targets(), "count": counting}), SETTINGS)
    app.router.routes.insert(0, Route("/pulse", Pulse().answer))
    return app


class Pulse:
    """A task that wakes every millisecond, and tells the longest times in which the event loop did not let it."""

    def __init__(self) -> None:
        self._longest = (0.0, 0.0, 0.0)
        self._beating: asyncio.Task[None] | None = None

    async def answer(self, _request: Request) -> JSONResponse:
        """Return the longest gaps since the last answer in seconds, as the arguments of `Hold`."""
        self._beating = self._beating or asyncio.create_task(self._beat())
        longest, self._longest = self._longest, (0.0, 0.0, 0.0)
        return JSONResponse(longest)

    async def _beat(self) -> None:
        last = _clocks()
        while True:
            await asyncio.sleep(0.001)
            now = _clocks()
            wall, process, loop = map(sub, now, last)
            self._longest = (*map(max, self._longest, (min(wall, process), loop, wall)),)
            last = now


def _clocks() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time()


@contextmanager
def attacked(log: Path) -> Iterator[str]:
    """Run the server, warm it up, and yield its address.

    Args:
        log: file for its standard error.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, log.open("w") as errors:
        descriptor = listener.fileno()
        command = [sys.executable, "-m", "tests.faults.hostile_server", str(descriptor)]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ, pass_fds=[descriptor], stderr=errors)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        for path, body in good_requests():
            httpx.post(url + path, json=body, timeout=START_LIMIT, trust_env=False)
        yield url
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    config = uvicorn.Config(application(), log_config=log_config(SETTINGS), http=BoundedHead)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
