"""A model server that fails in ways a real one cannot be made to: it sends the given bytes and hangs up."""

import json
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Half"}, "finish_reason": None}]}
DONE = b"data: [DONE]\n\n"


def event(data: object) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


@contextmanager
def faulty_server(body: bytes, *, missing: int = 0) -> Iterator[str]:
    """Serve `body` as an event stream to every request and give the base URL.

    Args:
        body: bytes to send.
        missing: number of bytes that the headers promise beyond `body`.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(body) + missing))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


# No lingering: the kernel answers with a reset instead of an orderly end.
RESET = struct.pack("ii", 1, 0)


@contextmanager
def resetting_server(
    said: bytes = b"", tls: ssl.SSLContext | None = None, seen: list[bytes] | None = None
) -> Iterator[str]:
    """Reset each connection after its request and give the server's address, as in 127.0.0.1:1234.

    Args:
        said: bytes to send before the reset.
        tls: context of the TLS handshake that comes first, if any.
        seen: list to which the server adds the beginning of each request.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=_reset_all, args=(listener, said, tls, [] if seen is None else seen), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _reset_all(listener: socket.socket, said: bytes, tls: ssl.SSLContext | None, seen: list[bytes]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the end of the test
            return
        try:
            with tls.wrap_socket(connection, server_side=True) if tls else connection as found:
                seen.append(found.recv(65536))
                found.sendall(said)
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError:  # a client that refuses the certificate
            connection.close()
