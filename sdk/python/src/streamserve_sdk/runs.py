"""The methods for runs by their id, and for the client's connections."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import httpx

from streamserve_sdk.chain_client import ChainClient, OnAttempt
from streamserve_sdk.codec import payload, shapes
from streamserve_sdk.errors import RequestRejected
from streamserve_sdk.transport.exchange import asend, send
from streamserve_sdk.transport.failures import from_missing_run
from streamserve_sdk.transport.wire import Reply, Request


class Runs:
    """The part of RemoteRunnable that local Runnables lack."""

    _client: ChainClient

    def join(
        self, run_id: str, after: int = 0, *, detach: bool = True, on_attempt: OnAttempt | None = None
    ) -> Iterator[Any]:
        """Yield the chunks of a run that is under way, or has ended and is still kept.

        Args:
            run_id: the run's id, for example from `on_run` or an error's `run_id`.
            after: the sequence number of the caller's last block, for example an error's `last_id`; default 0.
            detach: whether the run continues when its reader leaves early; default True.
            on_attempt: a function that is called with the number of each further attempt, before its first chunk.

        Raises:
            StreamServeError: the run is unknown, or its stream failed.
        """
        yield from self._client.chunks(self._client.attach(run_id, after, detach, on_attempt), shapes.addable)

    async def ajoin(
        self, run_id: str, after: int = 0, *, detach: bool = True, on_attempt: OnAttempt | None = None
    ) -> AsyncIterator[Any]:
        """Yield the chunks of a run; arguments and errors are those of `join`."""
        session = self._client.attach(run_id, after, detach, on_attempt)
        async with aclosing(self._client.achunks(session, shapes.addable)) as chunks:
            async for chunk in chunks:
                yield chunk

    def cancel(self, run_id: str, wait: float | None = None) -> Any:
        """Cancel a run, and return the server's description of it.

        Args:
            run_id: the run's id.
            wait: seconds that the server may wait for the run's end; default: none.

        Raises:
            StreamServeError: the run is unknown, or the call failed.
        """
        request = self._client.cancellation(run_id, wait)
        return _state(request, send(self._client.clients, request))

    async def acancel(self, run_id: str, wait: float | None = None) -> Any:
        """Cancel a run; arguments and errors are those of `cancel`."""
        request = self._client.cancellation(run_id, wait)
        return _state(request, await asend(self._client.clients, request))

    @property
    def sync_client(self) -> httpx.Client:
        """The client for synchronous calls. One that you set is used as it is, and you close it."""
        return self._client.clients.sync()

    @sync_client.setter
    def sync_client(self, client: httpx.Client) -> None:
        self._client.clients.own_sync = client

    @property
    def async_client(self) -> httpx.AsyncClient:
        """The client of the running event loop. One that you set is used as it is in every loop, and you close it."""
        return self._client.clients.of_loop()

    @async_client.setter
    def async_client(self, client: httpx.AsyncClient) -> None:
        self._client.clients.own_async = client

    def close(self) -> None:
        """Close the connections of synchronous calls."""
        self._client.clients.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop and of synchronous calls."""
        await self._client.clients.aclose()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections of synchronous calls."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.aclose()


def _state(request: Request, reply: Reply) -> Any:
    try:
        return payload.checked(request, reply)
    except RequestRejected as error:
        if reply.status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            raise from_missing_run(error) from None
        raise
