"""The calls, streams and runs of one chain on a server, without LangChain's interface."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from langchain_core.runnables.config import RunnableConfig

from streamserve_sdk.codec import payload, shapes
from streamserve_sdk.codec.batch_parts import BatchParts, largest_batch
from streamserve_sdk.codec.chunks import Chunks
from streamserve_sdk.codec.serializer import Serializer
from streamserve_sdk.errors import ServerError
from streamserve_sdk.transport.call import Call
from streamserve_sdk.transport.clients import HttpClients
from streamserve_sdk.transport.exchange import send
from streamserve_sdk.transport.http import aask, aread, ask, read
from streamserve_sdk.transport.links import endpoint, run_url
from streamserve_sdk.transport.retry import RetryPolicy
from streamserve_sdk.transport.session import STREAM_HEADERS, StreamSession
from streamserve_sdk.transport.wire import JSON_HEADERS, Request

OnRun = Callable[[str], None]
OnAttempt = Callable[[int], None]
Shape = Callable[[Any], Any]


@dataclass(slots=True)
class ChainClient:
    """The HTTP side of one chain.

    Args:
        url: the chain's URL.
        runs_url: the URL of the runs.
        clients: the source of the connections.
        serializer: the serializer of inputs and outputs.
        retry: the bounds of reconnecting.
        keepalive: seconds between the server's keep-alives; default 15.
        detach: whether a run continues when its reader leaves early; default False.
        is_graph: whether the chain is a graph with threads; None until a node of a local graph has learned it.
    """

    url: str
    runs_url: str
    clients: HttpClients
    serializer: Serializer
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    keepalive: float = 15.0
    detach: bool = False
    is_graph: bool | None = None
    _has_runs: bool | None = None
    _polling: bool = False
    _passes: bool = False
    _largest_batch: int = 0
    _schemas: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The chain's name: the last part of its URL."""
        return urlsplit(self.url).path.rstrip("/").rpartition("/")[2]

    def call(
        self, name: str, value: Any, config: RunnableConfig | Sequence[RunnableConfig], kwargs: dict[str, Any]
    ) -> payload.Answer:
        """Call `invoke`, or `batch` once, and return the answer.

        Args:
            name: the endpoint's name.
            value: the input or the inputs.
            config: the caller's config, or one for each input.
            kwargs: the caller's further arguments.

        Raises:
            StreamServeError: the call failed.
        """
        call = self._call(name, value, config, kwargs)
        try:
            reply = ask(self.clients, call)
        finally:
            self._has_runs = call.has_runs
        return payload.answer(self.serializer, call.first, reply)

    async def acall(
        self, name: str, value: Any, config: RunnableConfig | Sequence[RunnableConfig], kwargs: dict[str, Any]
    ) -> payload.Answer:
        """Call `invoke` or `batch`, and return the answer; arguments and errors are those of `call`."""
        call = self._call(name, value, config, kwargs)
        try:
            reply = await aask(self.clients, call)
        finally:
            self._has_runs = call.has_runs
        return payload.answer(self.serializer, call.first, reply)

    def batch(self, inputs: Sequence[Any], configs: Sequence[RunnableConfig], kwargs: dict[str, Any]) -> payload.Answer:
        """Call `batch` with as many inputs at once as the server takes, and return all answers as one.

        Args:
            inputs: the inputs.
            configs: one config for each input.
            kwargs: the caller's further arguments.

        Raises:
            StreamServeError: a call failed.
        """
        parts = BatchParts(inputs, configs, self._largest_batch)
        while part := parts.part():
            try:
                parts.answered(self.call("batch", *part, kwargs))
            except ServerError as error:
                self._shrink(parts, error)
        return parts.answer()

    async def abatch(
        self, inputs: Sequence[Any], configs: Sequence[RunnableConfig], kwargs: dict[str, Any]
    ) -> payload.Answer:
        """Call `batch` until all inputs are answered; arguments and errors are those of `batch`."""
        parts = BatchParts(inputs, configs, self._largest_batch)
        while part := parts.part():
            try:
                parts.answered(await self.acall("batch", *part, kwargs))
            except ServerError as error:
                self._shrink(parts, error)
        return parts.answer()

    def schema(self, name: str) -> dict[str, Any]:
        """Return a JSON schema of the chain; the server is asked for it once.

        Args:
            name: `input_schema` or `output_schema`.

        Raises:
            StreamServeError: the call failed.
        """
        if name not in self._schemas:
            request = Request("GET", endpoint(self.url, name), JSON_HEADERS)
            self._schemas[name] = payload.checked(request, send(self.clients, request)) or {}
        return self._schemas[name]

    def start(
        self,
        name: str,
        value: Any,
        config: RunnableConfig,
        kwargs: dict[str, Any],
        *,
        detach: bool | None = None,
        on_run: OnRun | None = None,
        recover: bool | None = None,
        on_attempt: OnAttempt | None = None,
        **fields: Any,
    ) -> StreamSession:
        """Return the session that starts a run.

        Args:
            name: the endpoint's name.
            value: the input.
            config: the caller's config.
            kwargs: the caller's further arguments.
            detach: whether the run continues when its reader leaves early; default: the client's setting.
            on_run: a function that is called with the run's id as soon as it is known.
            recover: whether another worker continues the run if its own worker dies; default: the server's setting.
            on_attempt: a function that is called with the number of each further attempt.
            fields: further fields of the request's body.
        """
        shapes.check_names(kwargs)
        detach = self.detach if detach is None else detach
        headers = {**STREAM_HEADERS, "Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
        if detach:
            headers["Run-On-Disconnect"] = "continue"
        if recover is not None:
            headers["Run-Recover"] = "true" if recover else "false"
        body = payload.body(self.serializer, "input", value, config, kwargs=kwargs, **fields)
        return StreamSession(
            Request("POST", endpoint(self.url, name), headers, body),
            self.runs_url,
            self.retry,
            self.keepalive,
            one_shot=self._has_runs is False,
            polling=self._polling,
            passes=self._passes,
            detach=detach,
            on_run=on_run,
            on_attempt=on_attempt,
        )

    def attach(self, run_id: str, after: int, detach: bool, on_attempt: OnAttempt | None = None) -> StreamSession:
        """Return the session that joins a run.

        Args:
            run_id: the run's id.
            after: the sequence number of the caller's last block; 0 for all blocks.
            detach: whether the run continues when its reader leaves early.
            on_attempt: a function that is called with the number of each further attempt.
        """
        return StreamSession(
            None,
            self.runs_url,
            self.retry,
            self.keepalive,
            location=run_url(self.runs_url, run_id, "/stream"),
            run_id=run_id,
            last_id=after,
            joined_at=after,
            polling=self._polling,
            passes=self._passes,
            detach=detach,
            on_attempt=on_attempt,
        )

    def chunks(self, session: StreamSession, shape: Shape) -> Generator[Any]:
        """Yield the decoded chunks of a session.

        Args:
            session: a session from `start` or `attach`.
            shape: a function that is applied to each chunk.

        Raises:
            StreamServeError: the stream failed.
        """
        try:
            chunk_of = Chunks(self.serializer, shape, session).of
            with closing(read(self.clients, session)) as reads:
                for blocks in reads:
                    yield from map(chunk_of, blocks)
        finally:
            self._learn(session)

    async def achunks(self, session: StreamSession, shape: Shape) -> AsyncGenerator[Any]:
        """Yield the decoded chunks of a session; arguments and errors are those of `chunks`."""
        try:
            chunk_of = Chunks(self.serializer, shape, session).of
            async with aclosing(aread(self.clients, session)) as reads:
                async for blocks in reads:
                    for block in blocks:
                        yield chunk_of(block)
        finally:
            self._learn(session)

    def cancellation(self, run_id: str, wait: float | None) -> Request:
        """Return the request that cancels a run.

        Args:
            run_id: the run's id.
            wait: seconds that the server may wait for the run's end; default: none.
        """
        query = "" if wait is None else f"?wait={wait:g}"
        return Request("POST", run_url(self.runs_url, run_id, f"/cancel{query}"))

    def output(self, run_id: str | None) -> payload.Answer:
        """Return the output of a run whose stream has ended; after a cut it is asked for again.

        Args:
            run_id: the run's id.

        Raises:
            StreamServeError: the call failed.
        """
        call = self._output(run_id)
        return payload.answer(self.serializer, call.first, ask(self.clients, call))

    async def aoutput(self, run_id: str | None) -> payload.Answer:
        """Return the output of a run; arguments and errors are those of `output`."""
        call = self._output(run_id)
        return payload.answer(self.serializer, call.first, await aask(self.clients, call))

    def _output(self, run_id: str | None) -> Call:
        request = Request("GET", run_url(self.runs_url, run_id or "", "/output"), JSON_HEADERS)
        return Call(request, str(uuid4()), self.runs_url, self.retry, True, self.clients.limit, detach=True)

    def _call(
        self, name: str, value: Any, config: RunnableConfig | Sequence[RunnableConfig], kwargs: dict[str, Any]
    ) -> Call:
        shapes.check_names(kwargs)
        field_name = "inputs" if name == "batch" else "input"
        body = payload.body(self.serializer, field_name, value, config, kwargs=kwargs)
        request = Request("POST", endpoint(self.url, name), JSON_HEADERS, body)
        key, limit = str(uuid4()), self.clients.limit
        return Call(request, key, self.runs_url, self.retry, self._has_runs, limit, self.detach)

    def _shrink(self, parts: BatchParts, error: ServerError) -> None:
        parts.refused(error)
        # A limit in bytes depends on the inputs, so only one in inputs is kept for the next batch.
        self._largest_batch = largest_batch(error) or self._largest_batch

    def _learn(self, session: StreamSession) -> None:
        if session.answered:
            self._has_runs = session.resumable
            self._polling, self._passes = session.polling, self._passes or session.passes
