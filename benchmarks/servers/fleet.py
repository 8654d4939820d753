"""The processes of a run of benchmarks: one for each variant, which accounts for itself.

A server's garbage collector, executor and signals belong to its process: in a shared one, LangServe would run with our
settings of them. All processes run together, so that rounds can be interleaved.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.servers.addresses import addresses
from benchmarks.servers.memory import ROOT, allow_files
from deploy.services import free_port

TICK = 0.001  # seconds: resolution of stalls of the loop
STARTS_WITHIN = 120.0
OURS = ("memory", "sqlite", "redis", "streamserve", "streamserve traced")
THEIRS = ("stock", "langserve", "langserve traced")
LANGGRAPH = {
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
    "LOG_LEVEL": "ERROR",
    "PYTHONPATH": str(ROOT),
}


class Accounts:
    """An application with an account of its process: `GET /bench/cpu`, `memory`, `watch` and `stall`."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._watching: asyncio.Task[None] | None = None
        self._longest = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if not path.startswith("/bench/"):
            await self._app(scope, receive, send)
            return
        answer = json.dumps(getattr(self, f"_{path.removeprefix('/bench/')}")()).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]}
        )
        await send({"type": "http.response.body", "body": answer})

    def _cpu(self) -> float:
        return time.process_time()

    def _memory(self) -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()

    def _watch(self) -> None:
        self._longest = 0.0
        self._watching = asyncio.create_task(self._tick())

    def _stall(self) -> float:
        assert self._watching is not None
        self._watching.cancel()
        return self._longest

    async def _tick(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK)
            self._longest = max(self._longest, time.perf_counter() - began - TICK)


class Server:
    """The process of a variant.

    Args:
        variant: name of the variant; one that ends in " traced" sends its traces to the model server.
        store: URL of the store, for StreamServe.
        upstream: port of the model server; 0: none.
    """

    def __init__(self, variant: str, store: str, upstream: int = 0) -> None:
        environment = dict(os.environ)
        if upstream:
            url = f"http://127.0.0.1:{upstream}"
            environment["STREAMSERVE_BENCH_UPSTREAM"] = f"{url}/v1"
            if variant.endswith(" traced"):
                environment |= {"LANGSMITH_TRACING": "true", "LANGSMITH_ENDPOINT": url, "LANGSMITH_API_KEY": "none"}
        # The socket listens before the process starts, so that no client comes too early.
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            self.port = listener.getsockname()[1]
            command = [sys.executable, "-m", "benchmarks.servers.fleet", str(listener.fileno()), variant, store]
            began = time.perf_counter()
            self._process = subprocess.Popen(
                command, cwd=ROOT, pass_fds=[listener.fileno()], env=environment, stdout=subprocess.DEVNULL
            )
        try:
            self.cpu()
        except BaseException:
            self.stop()
            raise
        self.started = time.perf_counter() - began

    def cpu(self) -> float:
        """Return seconds of CPU that all OS threads of the process have used."""
        return float(self._ask("cpu"))

    def memory(self) -> int:
        """Return resident bytes after a garbage collection."""
        return int(self._ask("memory"))

    def watch(self) -> None:
        """Begin to watch for stalls of the loop."""
        self._ask("watch")

    def stall(self) -> float:
        """Return seconds of the longest stall since `watch`."""
        return float(self._ask("stall"))

    def settle(self) -> None:
        """Wait until the process is idle, after the clean-up of streams that clients left."""
        deadline, before = time.monotonic() + STARTS_WITHIN, self.cpu()
        while time.monotonic() < deadline:
            time.sleep(0.2)
            now = self.cpu()
            if now - before < 0.01:
                return
            before = now

    def stop(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def _ask(self, what: str) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=STARTS_WITHIN)
        try:
            connection.request("GET", f"/bench/{what}")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


class LangGraphServer(Server):
    """The process of LangGraph's development server, with its state in memory and in a folder of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = TemporaryDirectory()
        config = {
            "dependencies": ["."],
            "graphs": {"graph": "benchmarks.servers.langgraph_app:graph"},
            "http": {"app": "benchmarks.servers.langgraph_app:accounts"},
        }
        (Path(self._folder.name) / "langgraph.json").write_text(json.dumps(config), encoding="utf-8")
        flags = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "50", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "langgraph_cli", "dev", "--host", "127.0.0.1", *flags],
            cwd=self._folder.name,
            env=os.environ | LANGGRAPH,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=partial(core, of_servers=True),
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill the process."""
        super().stop()
        self._folder.cleanup()

    def _wait(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                self.cpu()
            except ConnectionError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return


class Fleet:
    """The servers of a run of benchmarks; each is started at its first use."""

    def __init__(self, stores: dict[str, str], stack: ExitStack) -> None:
        self.stores = stores
        self._stack = stack
        self._servers: dict[str, Server] = {}

    def __getitem__(self, variant: str) -> Server:
        if variant not in self._servers:
            self._servers[variant] = self._stack.enter_context(self.fresh(variant))
        return self._servers[variant]

    @contextmanager
    def fresh(self, variant: str) -> Iterator[Server]:
        """Start a further server of a variant; stop it with the block."""
        server = LangGraphServer() if variant == "langgraph" else self._server(variant)
        try:
            yield server
        finally:
            server.stop()

    def _server(self, variant: str) -> Server:
        upstream = self["upstream"].port if variant in (*THEIRS, *OURS) else 0
        return Server(variant, self.stores.get(variant, ""), upstream)


@contextmanager
def fleet() -> Iterator[Fleet]:
    """Start servers as they are needed; stop all with the block."""
    with ExitStack() as stack:
        yield Fleet(stack.enter_context(addresses()), stack)


def core(*, of_servers: bool) -> None:
    """Bind this process to one core: servers to the first, load clients to the last."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[0] if of_servers else cores[-1]})


def _serve(descriptor: int, variant: str, store: str) -> None:
    if variant in OURS:
        gc.disable()  # as the command line does; the lifespan enables it
    import uvicorn

    from benchmarks.servers.applications import application

    core(of_servers=variant != "upstream")
    allow_files(8192)
    lifespan: Any = "on" if variant in OURS else "auto"
    app = Accounts(application(variant, store))
    config = uvicorn.Config(app, log_level="error", access_log=False, backlog=4096, lifespan=lifespan)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2], sys.argv[3])
