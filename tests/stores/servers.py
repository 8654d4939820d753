"""Real servers on free ports of 127.0.0.1, as long as a test needs them: redis-server, single or a cluster; nginx."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from deploy.services import free_port

START_LIMIT = 15.0
LOOK = 0.02  # seconds between looks whether a server listens
SLOTS = 16_384


def find(program: str) -> str:
    """The path of a program; the test is left out, loudly, where it is not installed (never in CI)."""
    path = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if path is None:
        message = f"{program} is not installed: `make system`"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


class Server:
    """A server process.

    Args:
        command: that starts it in the foreground.
        port: that it will listen on.
        folder: its working directory.
    """

    def __init__(self, command: Sequence[str], port: int, folder: Path) -> None:
        self.port = port
        self._command = command
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it listens."""
        self.process = subprocess.Popen(self._command, cwd=self._folder, stdout=subprocess.DEVNULL)
        wait_until_it_listens(self.port, self.process)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(START_LIMIT)
            self.process = None

    def freeze(self) -> None:
        """Stops it: connections stay open, nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns once a connection to 127.0.0.1 is taken."""
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(LOOK)
        else:
            return
    raise AssertionError(f"{process.args!r} does not listen")


class RedisServer(Server):
    """A redis-server that keeps nothing on disk: restarted, it is empty."""

    def __init__(self, folder: Path, *options: str) -> None:
        port = free_port()
        command = [find("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
        super().__init__([*command, "--appendonly", "no", "--loglevel", "warning"], port, folder)

    @property
    def url(self) -> str:
        """For STREAMSERVE_STORE."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        """A client of the test's own."""
        return Redis(port=self.port, socket_timeout=START_LIMIT)


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A redis-server as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), *options)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def redis_cluster(*options: str, nodes: int = 3) -> Iterator[list[RedisServer]]:
    """A cluster of masters as long as the block lasts; the slots are shared out in their order."""
    with ExitStack() as stack:
        servers = [stack.enter_context(_node(*options)) for _ in range(nodes)]
        share = -(-SLOTS // nodes)
        for number, server in enumerate(servers):
            with server.client() as client:
                first, last = number * share, min((number + 1) * share, SLOTS) - 1
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        with servers[0].client() as client:
            for server in servers[1:]:
                client.execute_command("CLUSTER MEET", "127.0.0.1", server.port, _bus(server))
        for server in servers:
            wait_for_cluster(server)
        yield servers


@contextmanager
def _node(*options: str) -> Iterator[RedisServer]:
    with redis_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()), *options) as server:
        yield server


def node_of(tag: str, servers: Sequence[RedisServer]) -> RedisServer:
    """The node that keeps the keys with a hash tag."""
    return servers[key_slot(tag.encode()) // -(-SLOTS // len(servers))]


def _bus(server: RedisServer) -> int:
    command = list(server._command)
    return int(command[command.index("--cluster-port") + 1])


def wait_for_cluster(server: RedisServer) -> None:
    """Returns once a node says that the cluster is well."""
    end = time.monotonic() + START_LIMIT
    with server.client() as client:
        while time.monotonic() < end:
            try:
                if client.execute_command("CLUSTER INFO")["cluster_state"] == "ok":
                    return
            except RedisError:
                pass
            time.sleep(LOOK)
    raise AssertionError("the cluster does not come together")


_shared = ExitStack()
atexit.register(_shared.close)


@cache
def shared_redis() -> str:
    """The address of one redis-server for the whole session."""
    return _shared.enter_context(redis_server()).url


@cache
def shared_cluster() -> str:
    """The address of one cluster of three nodes for the whole session."""
    return f"redis+cluster://127.0.0.1:{_shared.enter_context(redis_cluster())[0].port}"
