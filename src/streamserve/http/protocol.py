"""uvicorn's HTTP protocol with bounds on a request's head: uvicorn has none on its size, and none on its time."""

import asyncio
from typing import Any

from streamserve.private_names.uvicorn import HttpToolsProtocol, is_answering

# Above the default of `max_header_bytes`: a head between the two is answered in the server's own error shape.
MAX_HEAD = 128 * 2**10
# Seconds for a head, from its first byte or from the beginning of the connection.
HEAD_TIMEOUT = 30.0


class BoundedHead(HttpToolsProtocol):  # type: ignore[misc]
    """End a connection whose request head is too large or too slow."""

    _head = 0
    _waits = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._waits:
            self._head += len(data)
            if self._timer is None:
                self._await_head()
        super().data_received(data)
        if self._waits and self._head > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._waits, self._head = True, 0

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._end)

    def _stop_waiting(self) -> None:
        self._waits = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        # While a response goes out, uvicorn does not answer the next request either; afterwards its own timer runs.
        if self._waits and not self.transport.is_closing() and not is_answering(self):
            self.transport.close()
