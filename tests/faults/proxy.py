"""A TCP proxy with the faults of networks and of other proxies."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self

READ_SIZE = 65_536
# With no time to linger, closing a socket sends a reset and drops what was not sent.
RESET = struct.pack("ii", 1, 0)

Kind = Literal["reset", "close", "end", "silence"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of one connection.

    Args:
        after: bytes towards the client before the fault strikes (`end` counts those of bodies); None: never.
        kind: a reset; a close inside the HTTP message; an end that makes a cut message look whole; or a half-open
            connection.
        lump: number of bytes to collect before any is passed on; 0: none.
        status: HTTP status to answer in place of the server; 0: no answer.
    """

    after: int | None = None
    kind: Kind = "reset"
    lump: int = 0
    status: int = 0

    @property
    def whole(self) -> bool:
        """True if the client sees whole HTTP messages, without chunks of their own."""
        return self.kind == "end" or self.lump > 0


CLEAN = Fault()


def sequence(*faults: Fault, then: Fault = CLEAN) -> Callable[[], Fault]:
    """Return a source of faults: one for each connection in turn, and one for all that follow."""
    left: Iterator[Fault] = iter(faults)
    return lambda: next(left, then)


class Proxy:
    """A proxy in front of a server.

    Args:
        target: port of the server on 127.0.0.1.
        fault: source of the fault of each connection.
    """

    def __init__(self, target: int, fault: Callable[[], Fault]) -> None:
        self.target = target
        self.fault = fault
        self.struck: Counter[str] = Counter()
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
                await self._serve(reader, writer, self.fault())
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
        if fault.status:
            self.struck[str(fault.status)] += 1
            return await _refuse(reader, writer, fault.status)
        server, upward = await asyncio.open_connection("127.0.0.1", self.target)
        directions = {
            asyncio.create_task(_copy(reader, upward)),
            asyncio.create_task(self._downward(server, writer, fault)),
        }
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            upward.transport.abort()
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _downward(self, server: asyncio.StreamReader, client: asyncio.StreamWriter, fault: Fault) -> None:
        left = fault.after
        async for data in _lumps(server, client, fault):
            if left is not None and len(data) >= left:
                client.write(data[:left])
                await self._strike(client, fault)
                return
            client.write(data)
            await client.drain()
            left = None if left is None else left - len(data)

    async def _strike(self, client: asyncio.StreamWriter, fault: Fault) -> None:
        self.struck[fault.kind] += 1
        if fault.kind == "reset":
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.transport.abort()
        elif fault.kind == "silence":
            await client.drain()
            await asyncio.get_running_loop().create_future()


class Message:
    """An HTTP answer taken out of its chunks, as by a proxy that marks the end by closing the connection."""

    def __init__(self) -> None:
        self.complete = False
        self._buffer = b""
        self._in_body = False
        self._chunked = False
        self._left: int | None = None  # bytes of a body with a length

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the head, once it is complete, and the complete chunks of the body."""
        self._buffer += data
        head = b"" if self._in_body else self._take_head()
        return head, b"".join(self._take_body()) if self._in_body else b""

    def _take_head(self) -> bytes:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return b""
        self._in_body, self._buffer = True, rest
        lines = [line for line in head.split(b"\r\n") if line.lower() != b"transfer-encoding: chunked"]
        self._chunked = len(lines) < head.count(b"\r\n") + 1
        lengths = [line[15:] for line in lines if line.lower().startswith(b"content-length:")]
        self._left = int(lengths[0]) if lengths else None
        return b"\r\n".join([*lines, b"connection: close", b"", b""])

    def _take_body(self) -> Iterable[bytes]:
        if not self._chunked:
            plain, self._buffer = self._buffer, b""
            if self._left is not None:
                self._left -= len(plain)
                self.complete = self._left <= 0
            yield plain
        while self._chunked and not self.complete:
            size, found, rest = self._buffer.partition(b"\r\n")
            length = int(size, 16) if found else 0
            if not found or len(rest) < length + 2:
                return
            self.complete = length == 0
            self._buffer = rest[length + 2 :]
            yield rest[:length]


async def _lumps(server: asyncio.StreamReader, client: asyncio.StreamWriter, fault: Fault) -> AsyncIterator[bytes]:
    """Yield the pieces to pass on; write the head of an answer that is taken apart at once."""
    held, message = b"", Message()
    while not message.complete and (data := await server.read(READ_SIZE)):
        if fault.whole:
            head, data = message.feed(data)
            client.write(head)
        held += data
        if len(held) >= fault.lump or message.complete:
            yield held
            held = b""


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(READ_SIZE):
        target.write(data)
        await target.drain()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, length = head.partition(b"content-length: ")
    await reader.readexactly(int(length.split(b"\r\n")[0] or 0))
    writer.write(b"HTTP/1.1 %d Faulty\r\ncontent-length: 5\r\nconnection: close\r\n\r\nsorry" % status)
    await writer.drain()
