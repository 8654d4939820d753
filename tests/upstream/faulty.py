"""A model server that fails in ways a real one cannot be made to: it sends the given bytes and hangs up."""

import json
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
