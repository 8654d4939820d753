"""The call: one `invoke` or `batch` over as many requests as it takes, without any I/O.

A driver sends each request of a flow after a pause of `delay` seconds, and answers it with the reply or the failure of
the connection. StreamServe runs a call with a key once: the same request again joins the run. Another server would run
it twice, so after a cut, an unknown server is asked for a run first: only StreamServe names the code of its answer.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import httpx

from streamserve_sdk.errors import (
    ConnectFailed,
    ConnectionFailed,
    ConnectionTimeout,
    Position,
    ServerError,
    StreamServeError,
)
from streamserve_sdk.transport.failures import (
    PROXY_STATUSES,
    RETRIED_STATUSES,
    from_answer,
    from_missing_run,
    has_code,
    is_streamserve,
    public_url,
)
from streamserve_sdk.transport.links import run_url, stream_url, with_wait
from streamserve_sdk.transport.retry import RetryPolicy, retry_after
from streamserve_sdk.transport.session import CANCEL_TIMEOUT
from streamserve_sdk.transport.wire import JSON_HEADERS, Reply, Request

# Seconds that the server waits for the run's end before it answers 202: most calls take one request, and hardly a
# proxy gives up earlier.
FIRST_WAIT, NEXT_WAIT = 2.0, 20.0
# Seconds beyond the wait that mean a dead connection.
SILENCE = 30.0
# The answers about a run that the server does not have any more.
GONE = (httpx.codes.NOT_FOUND, httpx.codes.GONE)

Answer = Reply | ConnectionFailed
Flow = Generator[Request, Answer, Reply]


@dataclass(slots=True)
class Call:
    """One call.

    Args:
        first: the request, without a key.
        key: the key of the run.
        runs_url: the URL of the runs.
        policy: the bounds of asking again.
        has_runs: whether the server makes runs of calls; None: unknown.
        limit: the caller's seconds for an answer; None: no limit.
        detach: whether the run continues when its caller leaves; default False.
    """

    first: Request
    key: str
    runs_url: str
    policy: RetryPolicy
    has_runs: bool | None = None
    limit: float | None = None
    detach: bool = False
    delay: float = 0.0
    _run: str | None = None
    _under_way: bool = False
    _begun: bool = False
    _attempts: int = 0

    def flow(self) -> Flow:
        """Yield the requests of the call, and return the answer.

        Raises:
            StreamServeError: there is no answer.
        """
        until = None if self.limit is None else time.monotonic() + self.limit
        self._under_way = True
        reply = yield from self._answer(self._post(FIRST_WAIT))
        while reply.status == httpx.codes.ACCEPTED and self._run is not None:
            self._begun = True
            reply = yield from self._answer(self._poll(until))
        self._under_way = False
        if self._run is not None and "content-location" not in reply.headers and reply.status in GONE:
            raise from_missing_run(self._error(reply))
        return reply

    def leaving(self) -> Flow | None:
        """Return the flow that cancels the run of a caller who leaves, or None if there is none."""
        return self._cancellation() if self._under_way and self.has_runs is not False and not self.detach else None

    def _cancellation(self) -> Flow:
        if self.has_runs is None:
            answer = yield self._probe()
            self.has_runs = isinstance(answer, Reply) and is_streamserve(answer)
        if self.has_runs and self._run is None:
            # Joins the run, to learn its id.
            self._learn((yield replace(self._post(0.0), silence=CANCEL_TIMEOUT)))
        if self._run is not None:
            yield Request("POST", f"{self._run}/cancel", silence=CANCEL_TIMEOUT)
        return Reply(httpx.codes.OK, httpx.Headers())

    def _post(self, wait: float) -> Request:
        headers = {**self.first.headers, "Idempotency-Key": self.key}
        if self.detach:
            headers["Run-On-Disconnect"] = "continue"
        silence = wait + SILENCE if self.has_runs and self.limit is None else None
        return replace(self.first, url=with_wait(self.first.url, wait), headers=headers, silence=silence)

    def _poll(self, until: float | None) -> Request:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise ConnectionTimeout(
                f"no answer within {self.limit} s (at {public_url(self.first.url)})", position=self._position
            )
        wait, silence = (NEXT_WAIT, NEXT_WAIT + SILENCE) if left is None else (min(left, NEXT_WAIT), left + 1.0)
        return Request("GET", with_wait(f"{self._run}/output", wait), JSON_HEADERS, silence=silence)

    def _probe(self) -> Request:
        return Request("GET", run_url(self.runs_url, self.key), JSON_HEADERS, silence=CANCEL_TIMEOUT)

    def _answer(self, request: Request) -> Flow:
        """Send a request until the server itself answers."""
        cause: StreamServeError | None = None
        while True:
            probing = cause is not None and self._begun and self.has_runs is None
            answer = yield self._probe() if probing else request
            self.delay = 0.0
            failure = self._failure(answer)
            if isinstance(answer, Reply) and failure is None:
                if not probing:
                    self._attempts = 0
                    self._learn(answer)
                    return answer
                self.has_runs = is_streamserve(answer)
                if not self.has_runs and cause is not None:
                    self._under_way = False
                    raise cause
            elif failure is not None:
                cause = cause if probing else failure
                self._wait_or_raise(failure, retry_after(answer.headers) if isinstance(answer, Reply) else 0.0)

    def _failure(self, answer: Answer) -> StreamServeError | None:
        """Return why to send a request again, or None: the server itself has answered."""
        if isinstance(answer, ConnectionFailed):
            return answer
        is_runs_own = "content-location" in answer.headers
        again = RETRIED_STATUSES if self._begun else () if has_code(answer.body) else PROXY_STATUSES
        return self._error(answer) if answer.status in again and not is_runs_own else None

    def _wait_or_raise(self, failure: StreamServeError, seconds: float) -> None:
        self._attempts += 1
        if isinstance(failure, ConnectFailed) and not self._begun:
            is_slow = isinstance(failure.__cause__, httpx.ConnectTimeout)
            again = self._attempts <= self.policy.connects and not is_slow
        else:
            self._begun = True
            timed_out = isinstance(failure, ConnectionTimeout) and self.limit is not None
            if timed_out:
                raise failure
            again = failure.retryable and self.has_runs is not False
        pause = self.policy.pause(self._attempts, seconds) if again else None
        if pause is None:
            self._under_way = False
            raise failure
        self.delay = pause

    def _learn(self, answer: Answer) -> None:
        if isinstance(answer, ConnectionFailed):
            return
        run_id, location = answer.headers.get("run-id"), answer.headers.get("content-location")
        if run_id and location:
            self.has_runs = True
            self._run = stream_url(self.first.url, f"{location}/stream", self.runs_url, run_id).removesuffix("/stream")
        elif httpx.codes.is_success(answer.status) and self._run is None:
            self.has_runs = False

    def _error(self, reply: Reply) -> ServerError:
        return from_answer("POST", self.first.url, reply.status, reply.headers, reply.body, self._position)

    @property
    def _position(self) -> Position:
        return Position(self._run.rpartition("/")[2] if self._run else None)
