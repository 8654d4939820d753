"""The session: the state of one stream, without any I/O.

A driver sends what `request()` returns, passes the answer's head to `started()` and every read to `receive()`, and
calls `ended()` or `failed()` at its end. The session keeps the cursor, drops repeated blocks, detects missing ones, and
decides whether, where and when to resume.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx

from streamserve_sdk.errors import (
    ConnectFailed,
    ConnectionTimeout,
    Position,
    ProtocolError,
    StreamServeError,
    StreamTruncated,
    ThreadBusy,
)
from streamserve_sdk.transport.failures import (
    attempt_in,
    from_answer,
    from_error_block,
    from_missing_run,
    from_transport,
    run_id_in,
)
from streamserve_sdk.transport.links import from_cursor, stream_url
from streamserve_sdk.transport.polling import PASSED, PAUSE, PollParser, first_poll, next_poll
from streamserve_sdk.transport.retry import RetryPolicy, retry_after
from streamserve_sdk.transport.sse import CHUNKS, BlockError, EventParser, ServerSentEvent
from streamserve_sdk.transport.wire import Reply, Request

logger = logging.getLogger(__name__)

STREAM_HEADERS = {
    "Accept": "text/event-stream; patch=append",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-store",
}
# This many missing keep-alives mean a half-open socket rather than a slow model.
MISSED_KEEPALIVES = 3
# Seconds that each step of a cancel request may take: the caller is leaving.
CANCEL_TIMEOUT = 2.0


@dataclass(slots=True)
class StreamSession:
    """One stream, over as many connections as it takes.

    Args:
        first: the request that starts the run; None to join the run at `location`.
        runs_url: the URL of the runs, for a server that sends no location of the same origin.
        policy: the bounds of reconnecting.
        keepalive: seconds between the server's keep-alives; default 15.
        location: the URL of the run's stream, if it is known.
        run_id: the run's id, if it is known.
        last_id: the cursor: the sequence number of the caller's last block; default 0.
        one_shot: whether to fail at once because the server cannot resume; default False.
        polling: whether to poll for blocks, because a proxy holds streams back; default False.
        passes: whether streams are known to pass; default False.
        detach: whether the run continues when its reader leaves early; default False.
        on_run: a function that is called with the run's id as soon as it is known.
        on_attempt: a function that is called with the number of each further attempt, before its first chunk.
        joined_at: the first cursor. While it stays, the server sends the next chunk whole; default 0.
    """

    first: Request | None
    runs_url: str
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    keepalive: float = 15.0
    location: str | None = None
    run_id: str | None = None
    last_id: int = 0
    one_shot: bool = False
    polling: bool = False
    passes: bool = False
    detach: bool = False
    on_run: Callable[[str], None] | None = None
    on_attempt: Callable[[int], None] | None = None
    joined_at: int = 0
    answered: bool = False
    reading: bool = False
    finished: bool = False
    broken: bool = False
    delay: float = 0.0
    _attempts: int = 0
    _met: bool = False
    _has_ids: bool = False
    _is_silent: bool = False
    _parser: EventParser | PollParser = field(default_factory=EventParser)

    @property
    def position(self) -> Position:
        """The run's id and the cursor."""
        return Position(self.run_id, self.last_id)

    @property
    def resumable(self) -> bool:
        """True if the server can resume from the cursor."""
        return self.location is not None

    @property
    def silence(self) -> float | None:
        """The seconds without a byte that mean a dead connection; None if the server promises no keep-alives."""
        return MISSED_KEEPALIVES * self.keepalive if self.resumable else None

    def request(self) -> Request:
        """Return the next request to send."""
        self.delay = 0.0
        if self.location is None:
            assert self.first is not None
            return first_poll(self.first) if self.polling else self.first
        joins = 0 < self.last_id == self.joined_at
        if self.polling:
            return next_poll(self.location, self.last_id, joins=joins)
        url, cursor = from_cursor(self.location, self.last_id, joins=joins)
        return Request("GET", url, {**STREAM_HEADERS, **cursor}, silence=self.silence)

    def cancellation(self) -> Request | None:
        """Return the request that cancels the run of a reader that left, or None if there is no run to cancel."""
        if self.location is None or self.finished or self.broken or self.detach:
            return None
        run = self.location.partition("?")[0].removesuffix("/stream")
        return Request("POST", f"{run}/cancel", silence=CANCEL_TIMEOUT)

    def started(self, reply: Reply) -> None:
        """Take the head of an answer.

        Args:
            reply: status and headers, and the body unless the status is 200.

        Raises:
            ServerError: the answer ends the stream.
            ProtocolError: the answer is not an event stream.
        """
        self._met = True
        if reply.status == httpx.codes.NO_CONTENT and self.resumable:
            self.finished = True
        elif reply.status != httpx.codes.OK:
            self._rejected(reply)
        else:
            self._adopt(reply.headers)
            self._parser = PollParser() if self.polling else EventParser()
            self.reading = self._is_silent = True

    def receive(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Yield each new data block; the cursor advances when the caller takes the block.

        Args:
            data: the next bytes of the response.

        Raises:
            ServerError: an `error` block arrived.
            ProtocolError: the bytes do not follow the protocol.
        """
        is_first, self._is_silent = self._is_silent, False
        try:
            for event in self._parser.feed(data) if self.reading else ():
                if event.event in CHUNKS and event.id == str(self.last_id + 1) and self.location is not None:
                    # Nearly every block takes this branch, which does in short what the other one does.
                    self.last_id, self._attempts, self._has_ids = self.last_id + 1, 0, True
                    yield event
                elif self._is_new(event) and self._is_chunk(event):
                    yield event
                if not self.reading:
                    return
            self.passes = self.passes or (is_first and not self.polling and len(data) < PASSED)
        except BlockError as error:
            raise self._protocol_error(str(error)) from error

    def ended(self) -> None:
        """Note the end of a response; without a terminal block, the stream was cut.

        Raises:
            StreamTruncated: the stream cannot be resumed.
        """
        if self.reading and self.polling:
            self.reading, self._attempts, self.delay = False, 0, PAUSE
        elif self.reading:
            self._note_life()
            self._interrupted(StreamTruncated("the stream ended without its end", position=self.position))

    def failed(self, error: httpx.RequestError) -> None:
        """Note the failure of a connection.

        Args:
            error: httpx's exception.

        Raises:
            ConnectionFailed: the stream cannot be resumed.
        """
        self._note_life()
        if self.reading and self._is_silent and isinstance(error, httpx.ReadTimeout) and self.resumable:
            self.polling = True  # the head came through, and not one byte of the body
        self._interrupted(from_transport(error, self._url, self.position))

    @property
    def _url(self) -> str:
        return self.location or (self.first.url if self.first else self.runs_url)

    def _adopt(self, headers: httpx.Headers) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != (expected := "application/json" if self.polling else "text/event-stream"):
            raise self._protocol_error(f"expected {expected}, got {kind or 'no content type'}")
        self.answered = True
        self._name_run(headers.get("run-id"))
        if self.location is None and self.run_id:
            self.location = stream_url(self._url, headers.get("location"), self.runs_url, self.run_id)

    def _name_run(self, run_id: str | None) -> None:
        if run_id and self.run_id is None:
            self.run_id = run_id
            if self.on_run is not None:
                self.on_run(run_id)

    def _note_attempt(self, attempt: int) -> None:
        if attempt > 1:
            logger.warning("run %s: attempt %d; unfinished steps repeat their output", self.run_id, attempt)
            if self.on_attempt is not None:
                self.on_attempt(attempt)

    def _is_new(self, event: ServerSentEvent) -> bool:
        # Of a run with ids, an `error` block without one is for this reader only.
        if not self.resumable or (event.id is None and (event.event == "error" or not self._has_ids)):
            return True
        number = self._number(event.id)
        self._has_ids = True
        if number > self.last_id + 1:
            self._interrupted(self._protocol_error(f"block {number} came after block {self.last_id}"))
        return number == self.last_id + 1

    def _number(self, text: str | None) -> int:
        if text is None or not text.isdecimal() or len(text) > 18:
            raise self._protocol_error(f"a block has the id {text!r}")
        return int(text)

    def _is_chunk(self, event: ServerSentEvent) -> bool:
        if event.event == "error":
            self.reading, self.finished = False, True
            raise from_error_block(event.data, self._url, self.position)
        if event.id is not None and self.resumable:
            self.last_id += 1
        self._attempts = 0
        if event.event in CHUNKS:
            return True
        if event.event == "end":
            self.reading, self.finished = False, True
        elif event.event == "metadata":
            self._name_run(run_id_in(event.data))
            self._note_attempt(attempt_in(event.data))
        else:
            logger.debug("ignored a block of the unknown kind %r", event.event)
        return False

    def _rejected(self, reply: Reply) -> None:
        method = "GET" if self.resumable else "POST"
        error = from_answer(method, self._url, reply.status, reply.headers, reply.body, self.position)
        if self.resumable and reply.status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            self.broken = True
            raise from_missing_run(error)
        # Only the caller can decide whether to wait for a busy thread.
        final = not error.retryable or isinstance(error, ThreadBusy)
        if final and not httpx.codes.is_server_error(reply.status):
            self.broken = True
            raise error
        self._interrupted(error, retry_after(reply.headers))

    def _interrupted(self, error: StreamServeError, wait: float = 0.0) -> None:
        self.reading = False
        self._attempts += 1
        pause = self.policy.pause(self._attempts, wait) if self._can_try_again(error) else None
        if pause is None:
            self.broken = True
            raise error
        logger.debug("trying again in %.2f s after block %d: %s", pause, self.last_id, error)
        self.delay = pause

    def _note_life(self) -> None:
        # The first comment only opens the stream. A second one shows that the run was alive before the cut.
        if self.reading and self._parser.comments > 1:
            self._attempts = 0

    def _can_try_again(self, error: StreamServeError) -> bool:
        if self.resumable:
            return True
        if self.answered or not error.retryable:
            return False
        if isinstance(error, ConnectFailed):
            # Nothing was sent, so even a server without runs may be asked again.
            is_slow = isinstance(error.__cause__, httpx.ConnectTimeout)
            return self._met or (self._attempts <= self.policy.connects and not is_slow)
        # An unanswered request may have started a run, so a timeout of the caller's ends the attempts.
        return not (self.one_shot or isinstance(error, ConnectionTimeout))

    def _protocol_error(self, message: str) -> ProtocolError:
        return ProtocolError(message, position=self.position)
