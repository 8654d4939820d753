"""The server of the campaigns, in a process of its own: a chain that counts, in bursts, and one that asks a model."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from langchain_core.runnables import RunnableGenerator
from pydantic import BaseModel, Field

from streamserve import Chain
from streamserve.api.services import services_in
from streamserve.app import create_app
from streamserve.settings import Settings
from tests.fakes import registry_of
from tests.faults.dying import DIES, die_at
from tests.runs.support import AsyncHttpModel

ROOT = Path(__file__).parents[2]
KEEPALIVE = 0.2
STOP_LIMIT = 60.0
STARTS_WITHIN = 60.0
# Environment variable: URL of the model of the chain `talk`.
UPSTREAM = "FAULTS_UPSTREAM"


class Count(BaseModel):
    """The count of a run, and its pace."""

    blocks: int
    burst: int = 10
    pause: float = Field(0.001, description="Seconds between bursts.")
    rest: float = Field(0, description="Seconds of silence after the first half.")


async def count(inputs: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Yield numbers from 0."""
    async for values in inputs:
        wish = Count.model_validate(values)
        for number in range(wish.blocks):
            yield f"{number} "
            if number % wish.burst == wish.burst - 1:
                await asyncio.sleep(wish.pause)
            if number == wish.blocks // 2:
                await asyncio.sleep(wish.rest)


def application() -> FastAPI:
    """Return the application that counts and talks; the environment may name a phase to die in."""
    chains = {"count": Chain(runnable=RunnableGenerator(count), input_type=Count, output_type=str)}
    if url := os.environ.get(UPSTREAM):
        chains["talk"] = Chain(runnable=AsyncHttpModel(url=url), input_type=Any, output_type=Any)
    app = create_app(registry_of(chains), Settings(keepalive=KEEPALIVE, _env_file=None))
    if phase := os.environ.get(DIES):
        die_at(phase, services_in(app).runs.store)
    return app


@dataclass
class CountingServer:
    """A server process on 127.0.0.1."""

    port: int
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self.process.kill()
        self.process.wait(STOP_LIMIT)


@contextmanager
def counting(environment: Mapping[str, str] | None = None) -> Iterator[CountingServer]:
    """Run the server until the block ends, with further environment variables."""
    # The socket listens before the process starts, so that no client comes too early.
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        descriptor = listener.fileno()
        command = [sys.executable, "-m", "tests.faults.server", str(descriptor)]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | (environment or {}), pass_fds=[descriptor])
        server = CountingServer(listener.getsockname()[1], process)
    try:
        # A client takes a server that is still starting for one that answers slowly.
        httpx.get(f"http://127.0.0.1:{server.port}/healthz", timeout=STARTS_WITHIN)
        yield server
    finally:
        server.kill()


if __name__ == "__main__":
    config = uvicorn.Config(application(), log_level="error")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
