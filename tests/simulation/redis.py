"""Redis in a simulated world: a real redis-server carries out one command at a time; the world decides when.

Only the network and the clock are simulated: redis-py connects through the loop, and the scripts read the world's time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from functools import lru_cache
from random import Random
from typing import Any

from hiredis import Reader, pack_command

from tests.simulation.database import Faults
from tests.simulation.loop import PROCESS, Process, SimulatedLoop
from tests.stores.servers import LOOK, START_LIMIT, find

# Virtual seconds that a command or an answer takes, at most.
LATENCY = 0.002
# The scripts call Redis by this name; in a world it gives the world's time, and notes what expires in it.
CALL = b"local call = redis.call"
WORLD_CALL = b"""local function call(name, ...)
  if name == 'TIME' then return redis.call('HMGET', 'world:clock', 'seconds', 'micros') end
  local key, _, px, ttl = ...
  if name == 'PEXPIRE' then px, ttl = 'PX', _ end
  if px == 'PX' then
    local now = redis.call('HGET', 'world:clock', 'seconds') * 1000
    redis.call('ZADD', 'world:expiry', now + ttl, key)
  end
  return redis.call(name, ...)
end"""
# ARGV seconds, microseconds, milliseconds. Sets the clock, and drops what has expired by it.
TICK = b"""redis.call('HSET', 'world:clock', 'seconds', ARGV[1], 'micros', ARGV[2])
for _, key in ipairs(redis.call('ZRANGEBYSCORE', 'world:expiry', '-inf', ARGV[3])) do
  redis.call('ZREM', 'world:expiry', key)
  if redis.call('PTTL', key) > 0 then redis.call('UNLINK', key) end
end
return 1"""
TICKED = b":1\r\n"
PONG = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
# Commands whose answers are in the order of a hash table, which differs from server to server.
WITHOUT_ORDER = (b"SRANDMEMBER", b"SMEMBERS")
PUBLISHING = (b"EVAL", b"EVALSHA", b"PUBLISH")


@lru_cache
def _server(_process: int) -> str:
    """Return the path of the socket of a redis-server that ends with this process."""
    folder = tempfile.mkdtemp()
    path = f"{folder}/redis.sock"
    server = [find("redis-server"), "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no"]
    script = '"$@" > /dev/null & server=$!; read _; kill -9 $server; rm -rf "$0"'
    watch = subprocess.Popen(["sh", "-c", script, folder, *server], stdin=subprocess.PIPE)
    _WATCHES.append(watch)
    end = time.monotonic() + START_LIMIT
    while not _listens(path):
        assert time.monotonic() < end, "redis-server does not listen"
        time.sleep(LOOK)
    return path


def _listens(path: str) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(path)
        return True
    return False


# The input of each of these ends with this process.
_WATCHES: list[subprocess.Popen[bytes]] = []


class Wire:
    """A blocking connection to the real server."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(START_LIMIT)
        self._socket.connect(path)

    def call(self, *commands: Sequence[Any]) -> bytes:
        """Send commands, and return the bytes of their answers."""
        self._socket.sendall(b"".join(pack_command(tuple(command)) for command in commands))
        reader, data, left = Reader(), b"", len(commands)
        while left:
            data += (got := self._recv())
            reader.feed(got)
            while left and reader.gets() is not False:
                left -= 1
        return data

    def subscribe(self, command: Sequence[Any]) -> bytes:
        """Send a command on a subscriber's connection, and return the bytes of all messages until now."""
        self._socket.sendall(pack_command(tuple(command)) + pack_command((b"PING",)))
        data = b""
        while not data.endswith(PONG):
            data += self._recv()
        return data.removesuffix(PONG)

    def messages(self) -> bytes:
        """Return the bytes that the server has sent to a subscriber since the last call."""
        data = b""
        with suppress(BlockingIOError):
            while got := os.read(self._socket.fileno(), 2**16):  # a socket with a time limit does not block
                data += got
        return data

    def _recv(self) -> bytes:
        data = self._socket.recv(2**16)
        assert data, "redis-server closed a connection"
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Redis:
    """The Redis of a world, empty at first.

    Args:
        loop: the loop of the world.
        random: the source of every choice.
        faults: what fails next.
        clock: returns seconds since the epoch.
    """

    def __init__(self, loop: SimulatedLoop, random: Random, faults: Faults, clock: Callable[[], float]) -> None:
        self.loop, self.random, self.faults, self.clock = loop, random, faults, clock
        self.links: list[Link] = []
        self.context = copy_context()
        # The script that carries out what a script of ours says, by the hash of ours.
        self._scripts: dict[bytes, bytes] = {}
        # The scripts that publish nothing, and their hashes.
        self._silent: set[bytes] = set()
        self._path = _server(os.getpid())
        self._own = Wire(self._path)
        self._own.call(("FLUSHALL",), ("SCRIPT", "FLUSH"))
        self._tick = hashlib.sha1(TICK).hexdigest()
        self._own.call(("SCRIPT", "LOAD", TICK))

    async def connect(self, make: Callable[[], Any], *_: Any, **__: Any) -> tuple[Link, Any]:
        """Connect a client, as `loop.create_connection`."""
        await asyncio.sleep(self.random.random() * LATENCY)
        if self.faults.down:
            raise ConnectionRefusedError("redis is away")
        protocol = make()
        link = Link(self, Wire(self._path), protocol)
        self.links.append(link)
        protocol.connection_made(link)
        return link, protocol

    def cut(self, process: Process) -> None:
        """Break the connections of a process."""
        for link in list(self.links):
            if link.process is process:
                link.cut()

    def forget(self, process: Process) -> None:
        """Close the connections of a process that was killed. Redis carries out the commands on their way."""
        for link in list(self.links):
            if link.process is process:
                link.close()

    def ask(self, *command: Any) -> Any:
        """Return the answer to a command of the world's own, without any delay."""
        reader = Reader()
        reader.feed(self._own.call(command))
        return reader.gets()

    def close(self) -> None:
        """Close the connections to the real server."""
        for link in list(self.links):
            link.abort()
        self._own.close()

    def carry_out(self, link: Link, command: list[bytes]) -> bytes:
        """Carry out a command, and return the bytes of its answer."""
        name = command[0].upper()
        if name in (b"SUBSCRIBE", b"UNSUBSCRIBE"):
            link.subscribed = True
            return link.wire.subscribe(command)
        answer = link.wire.call(self._ticking(), self._translated(name, command)).removeprefix(TICKED)
        if name == b"PEXPIRE" or (name == b"SET" and b"PX" in command):
            self._own.call(("ZADD", "world:expiry", str(int(self.clock()) * 1000 + int(command[-1])), command[1]))
        if name in WITHOUT_ORDER:
            answer = self._in_any_order(answer)
        if name in PUBLISHING and command[1] not in self._silent:
            self._deliver_messages()
        return answer

    def _ticking(self) -> list[Any]:
        now = self.clock()
        return ["EVALSHA", self._tick, 0, int(now), int(now % 1 * 1e6), int(now * 1000)]

    def _translated(self, name: bytes, command: list[bytes]) -> list[bytes]:
        if name == b"EVALSHA":
            return [name, self._scripts.get(command[1], command[1]), *command[2:]]
        if name == b"EVAL":
            return [name, self._of_world(command[1]), *command[2:]]
        if name == b"SCRIPT" and command[1].upper() == b"LOAD":
            return [name, b"LOAD", self._of_world(command[2])]
        return command

    def _of_world(self, source: bytes) -> bytes:
        assert CALL in source, "a script calls Redis by another name than the world knows"
        found = source.replace(CALL, WORLD_CALL)
        if b"'PUBLISH'" not in source:
            self._silent |= {source, _sha(source)}
        self._scripts[_sha(source)] = _sha(found)
        return found

    def _in_any_order(self, answer: bytes) -> bytes:
        reader = Reader()
        reader.feed(answer)
        members = sorted(reader.gets())
        self.random.shuffle(members)
        return b"*%d\r\n" % len(members) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in members)

    def _deliver_messages(self) -> None:
        # The server writes to all connections at the end of a turn of its loop; this answer belongs to the next turn.
        self._own.call(("PING",))
        for link in list(self.links):
            if link.subscribed and (messages := link.wire.messages()):
                link.answer(messages)


def _sha(source: bytes) -> bytes:
    return hashlib.sha1(source).hexdigest().encode()


class Link(asyncio.Transport):
    """A connection between a process of the world and Redis: both ways keep their order, and take their time."""

    def __init__(self, redis: Redis, wire: Wire, protocol: Any) -> None:
        super().__init__()
        self.wire = wire
        self.process = PROCESS.get()
        self.subscribed = False
        self._redis = redis
        self._protocol = protocol
        self._context: Context = copy_context()
        self._parser = Reader()
        self._commands: deque[list[bytes]] = deque()
        self._answers: deque[bytes] = deque()
        self._closing = False

    def get_protocol(self) -> Any:
        """Return the reader of the connection."""
        return self._protocol

    def is_closing(self) -> bool:
        """Return whether the connection is closed."""
        return self._closing

    def write(self, data: Any) -> None:
        """Send commands."""
        if self._closing:
            return
        self._parser.feed(bytes(data))
        while (command := self._parser.gets()) is not False:
            self._commands.append(command)
            self._later(self._arrive, self._redis.context)

    def _later(self, callback: Callable[[], None], context: Context, after: float = 0.0) -> None:
        delay = after + self._redis.random.random() * LATENCY
        self._redis.loop.call_later(delay, callback, context=context)

    def _arrive(self) -> None:
        if not self._commands:
            return
        faults = self._redis.faults
        if (left := faults.slow_until - self._redis.loop.time()) > 0:
            self._later(self._arrive, self._redis.context, left)
            return
        command = self._commands.popleft()
        if faults.fails_before():
            self.cut()
            return
        answer = self._redis.carry_out(self, command)
        if faults.fails_after():
            self.cut()
            return
        self.answer(answer)
        self._close_wire()

    def answer(self, data: bytes) -> None:
        """Send bytes to the process."""
        self._answers.append(data)
        self._later(self._deliver, self._context)

    def _deliver(self) -> None:
        if self._answers and not self._closing:
            self._protocol.data_received(self._answers.popleft())

    def cut(self) -> None:
        """Break the connection; commands on their way are lost."""
        self._commands.clear()
        self._answers.clear()
        self._end(ConnectionResetError("the connection to redis broke"))

    def close(self) -> None:
        """Close the connection. Redis carries out the commands on their way."""
        self._end(None)

    def abort(self) -> None:
        """Close the connection of a process that has ended."""
        self._closing = True
        self._commands.clear()
        self._close_wire()

    def _end(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._redis.loop.call_soon(self._protocol.connection_lost, error, context=self._context)
        self._close_wire()

    def _close_wire(self) -> None:
        if self._closing and not self._commands and self in self._redis.links:
            self._redis.links.remove(self)
            self.wire.close()
