"""The methods for a graph's threads, with the names that langgraph's `CompiledStateGraph` gives them."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.runnables.config import RunnableConfig

from streamserve_sdk.chain_client import ChainClient
from streamserve_sdk.codec import payload
from streamserve_sdk.graphs import thread_calls
from streamserve_sdk.graphs.snapshots import StateSnapshot
from streamserve_sdk.graphs.thread_calls import History
from streamserve_sdk.transport.exchange import asend, send


class Threads:
    """The part of RemoteRunnable that compiled graphs have and other Runnables lack."""

    _client: ChainClient

    def get_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        """Return the state of a thread; the state of an unknown thread is empty.

        Args:
            config: a config with `configurable.thread_id`, and optionally a checkpoint's id.
            subgraphs: whether the state includes those of waiting subgraphs; default False.

        Raises:
            StreamServeError: the call failed.
        """
        request = thread_calls.state(self._client.url, config, subgraphs)
        reply = send(self._client.clients, request)
        return thread_calls.read_state(self._client.serializer, config, request, reply)

    async def aget_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        """Return the state of a thread; arguments and errors are those of `get_state`."""
        request = thread_calls.state(self._client.url, config, subgraphs)
        reply = await asend(self._client.clients, request)
        return thread_calls.read_state(self._client.serializer, config, request, reply)

    def get_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[StateSnapshot]:
        """Yield the past states of a thread, latest first, fetched page by page.

        Args:
            config: a config with `configurable.thread_id`.
            filter: the keys and values that the states' metadata must have.
            before: a config with a checkpoint's id; only older states are returned.
            limit: the greatest number of states; default: all.

        Raises:
            StreamServeError: a call failed.
        """
        history = self._history(config, filter, before, limit)
        while request := history.request():
            yield from history.take(request, send(self._client.clients, request))

    async def aget_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """Yield the past states of a thread; arguments and errors are those of `get_state_history`."""
        history = self._history(config, filter, before, limit)
        while request := history.request():
            for state in history.take(request, await asend(self._client.clients, request)):
                yield state

    def update_state(
        self,
        config: RunnableConfig,
        values: dict[str, Any] | Any | None,
        as_node: str | None = None,
        task_id: str | None = None,
    ) -> RunnableConfig:
        """Update a thread's state, and return the config of the new checkpoint.

        Args:
            config: a config with `configurable.thread_id`; with a checkpoint's id, the update forks from there.
            values: the values that the node would have returned.
            as_node: the node's name; default: the last node that ran, if there is exactly one.
            task_id: the id of the node's task.

        Raises:
            StreamServeError: the update does not fit, or the call failed.
        """
        return self.bulk_update_state(config, [[(values, as_node, task_id)]])

    async def aupdate_state(
        self,
        config: RunnableConfig,
        values: dict[str, Any] | Any,
        as_node: str | None = None,
        task_id: str | None = None,
    ) -> RunnableConfig:
        """Update a thread's state; arguments and errors are those of `update_state`."""
        return await self.abulk_update_state(config, [[(values, as_node, task_id)]])

    def bulk_update_state(self, config: RunnableConfig, supersteps: Sequence[Sequence[Any]]) -> RunnableConfig:
        """Apply several steps of updates, and return the config of the last new checkpoint.

        Args:
            config: a config with `configurable.thread_id`.
            supersteps: lists of updates `(values, as_node, task_id)`, such as langgraph's `StateUpdate`.

        Raises:
            StreamServeError: an update does not fit, or the call failed.
        """
        request = thread_calls.update(self._client.url, self._client.serializer, config, supersteps)
        return thread_calls.read_update(request, send(self._client.clients, request))

    async def abulk_update_state(self, config: RunnableConfig, supersteps: Sequence[Sequence[Any]]) -> RunnableConfig:
        """Apply several steps of updates; arguments and errors are those of `bulk_update_state`."""
        request = thread_calls.update(self._client.url, self._client.serializer, config, supersteps)
        return thread_calls.read_update(request, await asend(self._client.clients, request))

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread with all its checkpoints.

        Args:
            thread_id: the thread's id.

        Raises:
            StreamServeError: the thread is unknown, a run of it is under way, or the call failed.
        """
        request = thread_calls.delete(self._client.url, thread_id)
        payload.checked(request, send(self._client.clients, request))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread; arguments and errors are those of `delete_thread`."""
        request = thread_calls.delete(self._client.url, thread_id)
        payload.checked(request, await asend(self._client.clients, request))

    def _history(
        self, config: RunnableConfig, filter: dict[str, Any] | None, before: RunnableConfig | None, limit: int | None
    ) -> History:
        return History(self._client.url, self._client.serializer, config, filter, before, limit)
