"""Worker processes whose graph records each step, so that a test sees which ran again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langgraph.graph import END, START, MessagesState, StateGraph

from streamserve import Chain
from streamserve.app import create_app
from streamserve.settings import Settings
from tests.fakes import registry_of
from tests.limits import LIMIT

ROOT = Path(__file__).parents[2]
LOOK = 0.01
# Environment variables: the folder of the journal, and `true` for a graph whose record has `recover`.
FOLDER, RECOVER = "FAULTS_FOLDER", "FAULTS_RECOVER"
# The name of a graph that this process does not serve.
WITHOUT = "FAULTS_WITHOUT"
TOKENS = ("one ", "two ", "three")


def note(step: str) -> None:
    """Record the start of a step, and its process."""
    with Path(os.environ[FOLDER], "journal").open("a", encoding="utf-8") as journal:
        journal.write(f"{step} {os.getpid()}\n")


async def pause(step: str) -> None:
    """Wait while the test holds the step."""
    while os.path.exists(f"{os.environ[FOLDER]}/hold-{step}"):  # noqa: ASYNC110, ASYNC240 - another process tells
        await asyncio.sleep(LOOK)


class Speaker(GenericFakeChatModel):
    """A model that can be held between its first token and the others."""

    messages: Any = iter(())

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for number, token in enumerate(TOKENS):
            if number == 1:
                await pause("speak")
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=token))
            if run_manager is not None:
                await run_manager.on_llm_new_token(token, chunk=chunk)
            yield chunk


async def begin(_state: MessagesState) -> dict[str, Any]:
    """Run the step that has ended when the worker dies."""
    note("begin")
    return {"messages": [AIMessage("begun ", id="begun")]}


async def left(_state: MessagesState) -> dict[str, Any]:
    """Run the branch that has ended while the other one has not."""
    note("left")
    return {"messages": [AIMessage("left ", id="left")]}


async def speak(state: MessagesState) -> dict[str, Any]:
    """Run the step that is under way when the worker dies."""
    note("speak")
    return {"messages": [await Speaker().ainvoke(state["messages"])]}


async def finish(_state: MessagesState) -> dict[str, Any]:
    """Run the step that has not begun when the worker dies."""
    note("finish")
    await pause("finish")
    return {"messages": [AIMessage(" done", id="done")]}


def steps() -> Any:
    """Return the graph: begin, then left and speak side by side, then finish."""
    graph = StateGraph(MessagesState).add_node(begin).add_node(left).add_node(speak).add_node(finish)
    graph.add_edge(START, "begin").add_edge("begin", "left").add_edge("begin", "speak")
    return graph.add_edge(["left", "speak"], "finish").add_edge("finish", END).compile()


def application() -> FastAPI:
    """Return the application with the graphs."""
    recover = os.environ.get(RECOVER) == "true"
    graphs = {"steps": Chain(runnable=steps(), recover=recover)}
    graphs.pop(os.environ.get(WITHOUT, ""), None)
    return create_app(registry_of(graphs), Settings(keepalive=0.2, _env_file=None))


@dataclass
class Workers:
    """Processes that listen on one port.

    Args:
        port: port on 127.0.0.1.
        folder: folder of the journal.
        environment: variables of the processes.
        listener: socket that keeps the port while no process runs.
    """

    port: int
    folder: Path
    environment: Mapping[str, str]
    listener: socket.socket
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, **environment: str) -> int:
        """Start one more worker; return its process id."""
        descriptor = self.listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.steps", str(descriptor)],
            cwd=ROOT,
            env={**os.environ, FOLDER: str(self.folder), **self.environment, **environment},
            pass_fds=[descriptor],
        )
        self.processes[process.pid] = process
        return process.pid

    def wait_until_ready(self) -> None:
        """Wait until a worker answers."""
        answer = httpx.get(f"{self.url}/readyz", timeout=LIMIT, trust_env=False)
        assert answer.status_code == 200, answer.text

    def end(self, pid: int) -> None:
        """Kill a worker, as a power cut would."""
        process = self.processes.pop(pid)
        process.kill()
        process.wait(LIMIT)

    def stop(self, pid: int) -> None:
        """Freeze a worker between two transactions: frozen in one, it would keep the lock of the file."""
        while True:
            self.processes[pid].send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
            if not any(map(_is_locked, self.folder.glob("*.sqlite"))):
                return
            self.go_on(pid)

    def go_on(self, pid: int) -> None:
        """Wake a frozen worker."""
        self.processes[pid].send_signal(signal.SIGCONT)

    def journal(self) -> list[tuple[str, int]]:
        """Return the steps that began, each with its process."""
        path = self.folder / "journal"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [(step, int(pid)) for step, _, pid in (line.partition(" ") for line in lines)]

    def began(self) -> list[str]:
        """Return the steps that began."""
        return [step for step, _ in self.journal()]

    def hold(self, step: str) -> None:
        """Make a step wait."""
        (self.folder / f"hold-{step}").touch()

    def release(self, step: str) -> None:
        """Let a step continue."""
        (self.folder / f"hold-{step}").unlink()

    def owner_of(self, step: str, count: int = 1) -> int:
        """Wait until a step has begun `count` times; return the process of that start."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            pids = [pid for name, pid in self.journal() if name == step]
            if len(pids) >= count:
                return pids[count - 1]
            time.sleep(LOOK)
        raise AssertionError(f"{step} did not begin {count} times: {self.journal()}")


def _is_locked(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False


@contextmanager
def working(folder: Path, environment: Mapping[str, str], count: int = 2) -> Iterator[Workers]:
    """Run worker processes on one port until the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        workers = Workers(listener.getsockname()[1], folder, environment, listener)
        try:
            for _ in range(count):
                workers.start()
            workers.wait_until_ready()
            yield workers
        finally:
            for pid in list(workers.processes):
                workers.end(pid)


if __name__ == "__main__":
    config = uvicorn.Config(application(), log_level="error")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
