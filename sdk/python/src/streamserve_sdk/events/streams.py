"""Stream the events of a remote chain: as dicts (versions 1 and 2), or as LangChain's own streams (version 3)."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Sequence
from typing import Any, Literal, overload

from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables.config import RunnableConfig
from langchain_core.runnables.schema import StreamEvent

from streamserve_sdk.chain_client import ChainClient, OnRun
from streamserve_sdk.codec import shapes
from streamserve_sdk.events.compact import Expander, head
from streamserve_sdk.events.message_stream import RemoteMessageStream, message_stream
from streamserve_sdk.events.run_stream import Transformer, arun_stream, asked_modes, run_stream
from streamserve_sdk.events.tracing import atraced, traced
from streamserve_sdk.transport.session import StreamSession

Older = Literal["v1", "v2"]


class EventStreams:
    """The part of RemoteRunnable that streams events."""

    _client: ChainClient

    @overload
    def astream_events(
        self, input: Any, config: RunnableConfig | None = None, *, version: Older = "v2", **kwargs: Any
    ) -> AsyncIterator[StreamEvent]: ...

    @overload
    def astream_events(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v3"],
        transformers: Sequence[Transformer] = (),
        detach: bool | None = None,
        on_run: OnRun | None = None,
        **kwargs: Any,
    ) -> Awaitable[Any]: ...

    def astream_events(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        **kwargs: Any,
    ) -> AsyncIterator[StreamEvent] | Awaitable[Any]:
        """Yield the events of every step, or for version 3 return a stream with typed projections.

        LangChain calls version 3 a beta. Its run starts when the result is awaited: an `AsyncChatModelStream` for a
        chat model, an `AsyncGraphRunStream`, which needs langgraph, for a graph or any other chain.

        Args:
            input: the chain's input.
            config: the caller's config; all but its callbacks is sent to the server.
            version: the events' version; the server decides between v1 and v2. Default "v2".
            transformers: version 3 of a graph: further projections, those of `CompiledStateGraph.astream_events`.
            detach: version 3: whether the run continues when its reader leaves early; default: the constructor's.
            on_run: version 3: a function that is called with the run's id as soon as it is known.
            kwargs: the filters of `Runnable.astream_events` (versions 1 and 2); the rest is sent to the server as JSON.

        Raises:
            StreamServeError: the stream failed.
            NotImplementedError: the server has no events of version 3.
            ValueError: the version is unknown.
        """
        if version == "v3":
            return self._arun_events(input, config, **kwargs)
        _check(version)
        return self._older_events(input, config, **kwargs)

    def stream_events(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        **kwargs: Any,
    ) -> Any:
        """Return a stream of the events of version 3; arguments and errors are those of `astream_events`.

        Raises:
            NotImplementedError: the version is v1 or v2, which LangChain streams asynchronously only.
        """
        if version != "v3":
            _check(version)
            raise NotImplementedError(f"events of version {version!r} are asynchronous: use astream_events")

        def start(config: RunnableConfig, _run: BaseRunManager) -> Generator[Any]:
            return self._client.chunks(self._third(input, config, **kwargs), shapes.as_is)

        return _opened(traced(self._name(), input, config, start, shapes.last_state), kwargs.get("transformers", ()))

    def join_events(self, run_id: str, *, transformers: Sequence[Transformer] = (), detach: bool = True) -> Any:
        """Return the stream of a run's events of version 3, from the first event.

        Args:
            run_id: the id of a run of this chain that was started for such events.
            transformers: further projections of the stream modes that the run was started with.
            detach: whether the run continues when its reader leaves early; default True.

        Raises:
            StreamServeError: the run is unknown, or its stream failed.
            NotImplementedError: the run has other events.
        """
        session = self._client.attach(run_id, 0, detach)
        return _opened(self._client.chunks(session, shapes.as_is), transformers)

    async def ajoin_events(self, run_id: str, *, transformers: Sequence[Transformer] = (), detach: bool = True) -> Any:
        """Return the stream of a run's events of version 3; arguments and errors are those of `join_events`."""
        session = self._client.attach(run_id, 0, detach)
        return await _aopened(self._client.achunks(session, shapes.as_is), transformers)

    async def _arun_events(self, input: Any, config: RunnableConfig | None, **kwargs: Any) -> Any:
        def start(config: RunnableConfig, _run: BaseRunManager) -> AsyncGenerator[Any]:
            return self._client.achunks(self._third(input, config, **kwargs), shapes.as_is)

        events = atraced(self._name(), input, config, start, shapes.last_state)
        return await _aopened(events, kwargs.get("transformers", ()))

    def _older_events(self, input: Any, config: RunnableConfig | None, **kwargs: Any) -> AsyncGenerator[StreamEvent]:
        def start(config: RunnableConfig, _run: BaseRunManager) -> AsyncGenerator[StreamEvent]:
            session = self._client.start("stream_events", input, config, **shapes.filtered(kwargs))
            return self._client.achunks(session, shapes.as_is)

        return atraced(self._name(), input, config, start, shapes.all_events)

    def _third(
        self,
        input: Any,
        config: RunnableConfig,
        *,
        transformers: Sequence[Transformer] = (),
        detach: bool | None = None,
        on_run: OnRun | None = None,
        **kwargs: Any,
    ) -> StreamSession:
        fields = shapes.filtered(kwargs)
        arguments = {**fields.pop("kwargs"), "version": "v3"}
        if modes := asked_modes(transformers):
            arguments["stream_mode"] = modes
        return self._client.start("stream_events", input, config, arguments, detach=detach, on_run=on_run, **fields)

    def _name(self) -> str:
        return str(self.get_name())  # type: ignore[attr-defined]  # defined by Runnable


def _check(version: str) -> None:
    if version not in ("v1", "v2"):
        raise ValueError(f"events have the versions 'v1', 'v2' and 'v3', not {version!r}")


def _opened(values: Generator[Any], transformers: Sequence[Transformer]) -> Any:
    try:
        first = head(next(values, None))
        expander = Expander(first.timestamp)
        if first.kind == "message":
            return message_stream(values, expander)
        return run_stream(values, expander, transformers)
    except BaseException:
        values.close()
        raise


async def _aopened(values: AsyncGenerator[Any], transformers: Sequence[Transformer]) -> Any:
    try:
        first = head(await anext(values, None))
        expander = Expander(first.timestamp)
        if first.kind == "message":
            return RemoteMessageStream(values, expander)
        return arun_stream(values, expander, transformers)
    except BaseException:
        await values.aclose()
        raise
