"""A model server that answers each request with the next of its replies, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from .faulty import DONE, event

__all__ = ["DONE", "Reply", "Requests", "chat", "event", "pieces", "scripted_server"]

LIMIT = 30.0
PAUSE = 0.02
META = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted-1"}
COMMENT = b": alive\n\n"


@dataclass(frozen=True)
class Reply:
    """The answer to one request.

    Args:
        body: pieces of the body, each sent as an HTTP chunk of its own.
        status: HTTP status.
        headers: further headers.
        cut: close the connection without the end of the body.
        hang: send comments after the body, until the client goes away.
    """

    body: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hang: bool = False


@dataclass
class Requests:
    """The requests that a server got.

    Args:
        base_url: value for OPENAI_BASE_URL.
        seen: path, headers and body of each request.
        ports: client's port of each request.
        left: set when a client went away from a reply that hangs.
    """

    base_url: str = ""
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    left: Event = field(default_factory=Event)


def chat(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """Return the event of a chunk with one choice."""
    choice: dict[str, Any] = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return event({**META, "choices": [{**choice, **more.pop("choice", {})}], **more})


def pieces(body: bytes, size: int) -> list[bytes]:
    """Return the body in pieces of `size` bytes."""
    return [body[at : at + size] for at in range(0, len(body), size)]


@contextmanager
def scripted_server(*replies: Reply) -> Iterator[Requests]:
    """Serve on loopback until the block ends; repeat the last reply."""
    with _Server(replies) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.requests
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    # A client that keeps its connection would keep its thread, and the test waiting.
    block_on_close = False
    daemon_threads = True

    def __init__(self, replies: Sequence[Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = replies
        self.requests = Requests(f"http://127.0.0.1:{self.server_port}/v1")

    def reply_to(self, headers: Any, path: str, body: bytes, port: int) -> Reply:
        seen = self.requests.seen
        reply = self.replies[min(len(seen), len(self.replies) - 1)]
        seen.append((path, {name.lower(): value for name, value in headers.items()}, json.loads(body)))
        self.requests.ports.append(port)
        return reply

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error of a client that goes away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.server.reply_to(self.headers, self.path, body, self.client_address[1]))

    def _send(self, reply: Reply) -> None:
        # Without the date: two answers must not differ by it.
        self.send_response_only(reply.status)
        for name, value in {"Content-Type": "text/event-stream", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in reply.body:
            self._chunk(piece)
        if reply.hang:
            self._comment_until_left()
        elif not reply.cut:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = reply.cut or reply.hang

    def _chunk(self, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _comment_until_left(self) -> None:
        self.connection.settimeout(PAUSE)
        for _ in range(round(LIMIT / PAUSE)):
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                self._chunk(COMMENT)
            except OSError:
                break
        self.server.requests.left.set()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
