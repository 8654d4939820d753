"""RemoteRunnable: a chain on a server that is used like a local one."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from typing import Any, cast

import httpx
from langchain_core.callbacks.manager import AsyncCallbackManagerForChainRun, BaseRunManager, CallbackManagerForChainRun
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import RunnableConfig
from langchain_core.tracers.log_stream import RunLogPatch
from typing_extensions import TypeVar

from streamserve_sdk.chain_client import ChainClient, OnAttempt, OnRun
from streamserve_sdk.codec import payload, shapes
from streamserve_sdk.codec.merge import merge
from streamserve_sdk.codec.serializer import Serializer, WireSerializer
from streamserve_sdk.events.callbacks import areplay, replay
from streamserve_sdk.events.streams import EventStreams
from streamserve_sdk.events.tracing import atraced, traced
from streamserve_sdk.graphs.nodes import Nodes
from streamserve_sdk.runs import Runs
from streamserve_sdk.schemas import Schemas
from streamserve_sdk.transport.clients import CertTypes, HttpClients, Transport
from streamserve_sdk.transport.failures import public_url
from streamserve_sdk.transport.links import endpoint, runs_beside
from streamserve_sdk.transport.retry import RetryPolicy

# Only a caller who names the types narrows them: a URL tells none.
Input = TypeVar("Input", contravariant=True, default=Any)
Output = TypeVar("Output", covariant=True, default=Any)


class RemoteRunnable(Runs, Nodes, EventStreams, Schemas[Input, Output], Runnable[Input, Output]):
    """A chain served by StreamServe or LangServe, with the interface of a local one.

    A broken stream resumes; if it cannot, it raises an error instead of ending like a complete one.
    Leaving a stream early cancels its run. On a stock LangServe server, each stream has one attempt.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float | None = None,
        auth: httpx.Auth | tuple[str, str] | Callable[[httpx.Request], httpx.Request] | None = None,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | str | bool = True,
        cert: CertTypes | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        use_server_callback_events: bool = True,
        serializer: Serializer | None = None,
        detach: bool = False,
        keepalive: float = 15.0,
        retry: RetryPolicy | None = None,
        runs_url: str | None = None,
        transport: Transport = "httpx",
    ) -> None:
        """Keep the settings; open nothing before the first call.

        Args:
            url: the chain's URL, for example `http://127.0.0.1:8000/joke`.
            timeout: seconds to connect, and to wait for an answer; default none. Within a stream of StreamServe,
                three missing keep-alives end the wait instead.
            auth: httpx's `auth`.
            headers: headers of every request.
            cookies: cookies of every request.
            verify: httpx's `verify`: False, a path of certificates or a context; default: the usual authorities.
            cert: httpx's `cert`: the client's certificate.
            client_kwargs: further arguments of httpx.Client and httpx.AsyncClient.
            use_server_callback_events: whether to replay the callbacks that the server reports; default True.
            serializer: the serializer of inputs and outputs; a `langserve` serializer fits.
            detach: whether a run continues when its reader leaves early; default False.
            keepalive: seconds between the server's keep-alives; default 15.
            retry: the bounds of reconnecting.
            runs_url: the URL of the runs; default: `runs` beside the chain.
            transport: "aiohttp" carries asynchronous calls over aiohttp (extra `aiohttp`); default "httpx".

        Raises:
            ModuleNotFoundError: at the first asynchronous call, if `transport` is "aiohttp" and it is not installed.
        """
        options = {"timeout": timeout, "auth": auth, "headers": headers, "cookies": cookies}
        self.url = endpoint(url, "")  # as LangServe's client has it, for urljoin
        self._client = ChainClient(
            url,
            runs_url or runs_beside(url),
            HttpClients(verify, cert, {**options, **(client_kwargs or {})}, transport, (url, runs_url or url)),
            serializer or WireSerializer(),
            retry or RetryPolicy(),
            keepalive,
            detach,
        )
        self._replays = use_server_callback_events

    def __repr__(self) -> str:
        """Show the URL without credentials."""
        return f"{type(self).__name__}({str(public_url(self._client.url))!r})"

    def invoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:
        """Return the chain's output.

        Args:
            input: the chain's input.
            config: the caller's config; all but its callbacks is sent to the server.
            kwargs: further arguments, which are sent to the server as JSON.

        Raises:
            StreamServeError: the call failed.
        """
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:
        """Return the chain's output; arguments and errors are those of `invoke`."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def batch(
        self,
        inputs: list[Input],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Output]:
        """Return the outputs for several inputs.

        Args:
            inputs: the chain's inputs, sent in as few requests as the server's limits allow, one after another.
            config: one config for all inputs, or one for each.
            return_exceptions: whether to send each input in a request of its own, and return errors in place of
                outputs; default False.
            kwargs: further arguments, which are sent to the server as JSON.

        Raises:
            StreamServeError: the call failed.
        """
        if return_exceptions:
            return super().batch(inputs, config, return_exceptions=True, **kwargs)
        return self._batch_with_config(self._batch, inputs, config, **kwargs)

    async def abatch(
        self,
        inputs: list[Input],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Output]:
        """Return the outputs for several inputs; arguments and errors are those of `batch`."""
        if return_exceptions:
            return await super().abatch(inputs, config, return_exceptions=True, **kwargs)
        return await self._abatch_with_config(self._abatch, inputs, config, **kwargs)

    def stream(
        self,
        input: Input,
        config: RunnableConfig | None = None,
        *,
        detach: bool | None = None,
        on_run: OnRun | None = None,
        recover: bool | None = None,
        on_attempt: OnAttempt | None = None,
        **kwargs: Any,
    ) -> Iterator[Output]:
        """Yield the chain's chunks, each once and in order.

        Args:
            input: the chain's input.
            config: the caller's config; all but its callbacks is sent to the server.
            detach: whether the run continues when its reader leaves early; default: the constructor's.
            on_run: a function that is called with the run's id as soon as it is known.
            recover: whether another worker continues the run if its own worker dies; default: the server's setting.
            on_attempt: a function that is called with the number of each further attempt, before its first chunk.
                The attempt repeats the chunks of a step that was not finished.
            kwargs: further arguments, which are sent to the server as JSON, for example `stream_mode`.

        Raises:
            StreamServeError: the stream failed, or is incomplete.
        """
        options: dict[str, Any] = {"detach": detach, "on_run": on_run, "recover": recover, "on_attempt": on_attempt}

        def start(config: RunnableConfig, run: BaseRunManager) -> Generator[Output]:
            return self._chunks(input, config, run, kwargs, options)

        return traced(self.get_name(), input, config, start, shapes.merging(kwargs))

    def astream(
        self,
        input: Input,
        config: RunnableConfig | None = None,
        *,
        detach: bool | None = None,
        on_run: OnRun | None = None,
        recover: bool | None = None,
        on_attempt: OnAttempt | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Output]:
        """Yield the chain's chunks, each once and in order; arguments and errors are those of `stream`."""
        options: dict[str, Any] = {"detach": detach, "on_run": on_run, "recover": recover, "on_attempt": on_attempt}

        def start(config: RunnableConfig, run: BaseRunManager) -> AsyncGenerator[Output]:
            return self._achunks(input, config, run, kwargs, options)

        return atraced(self.get_name(), input, config, start, shapes.merging(kwargs))

    def transform(
        self, input: Iterator[Input], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Output]:
        """Yield the chunks for an input that arrives in chunks; arguments and errors are those of `stream`."""
        if parts := list(input):
            yield from self.stream(merge(parts), config, **kwargs)

    async def atransform(
        self, input: AsyncIterator[Input], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Output]:
        """Yield the chunks for an input that arrives in chunks; arguments and errors are those of `stream`."""
        if parts := [part async for part in input]:
            async for chunk in self.astream(merge(parts), config, **kwargs):
                yield chunk

    def astream_log(  # type: ignore[override]  # one signature for both
        self, input: Any, config: RunnableConfig | None = None, *, diff: bool = True, **kwargs: Any
    ) -> AsyncIterator[RunLogPatch]:
        """Yield the patches of the chain's log, or the log after each of them.

        Args:
            input: the chain's input.
            config: the caller's config; all but its callbacks is sent to the server.
            diff: whether to yield the patches; False: a `RunLog` with the state so far. Default True.
            kwargs: the filters of `Runnable.astream_log`; the rest is sent to the server as JSON.

        Raises:
            StreamServeError: the stream failed.
        """

        def start(config: RunnableConfig, _run: BaseRunManager) -> AsyncGenerator[RunLogPatch]:
            session = self._client.start("stream_log", input, config, diff=True, **shapes.filtered(kwargs))
            return self._client.achunks(session, shapes.log_patch if diff else shapes.growing_log())

        return atraced(self.get_name(), input, config, start, shapes.whole_log if diff else shapes.last)

    def _invoke(
        self, input: Input, run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Output:
        answer = self._answer(input, config, run_manager, kwargs)
        self._replay(answer.callback_events, run_manager)
        self._ask(answer.output, config)
        return cast("Output", answer.output)

    async def _ainvoke(
        self,
        input: Input,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Output:
        answer = await self._aanswer(input, config, run_manager, kwargs)
        await self._areplay(answer.callback_events, run_manager)
        await self._aask(answer.output, config)
        return cast("Output", answer.output)

    def _batch(
        self,
        inputs: list[Input],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Exception | Output]:
        answer = self._client.batch(inputs, list(map(payload.of_caller, config, run_manager)), kwargs)
        for manager, events in zip(run_manager, answer.callback_events, strict=True):
            self._replay(events, manager)
        return cast("list[Exception | Output]", answer.output)

    async def _abatch(
        self,
        inputs: list[Input],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Exception | Output]:
        answer = await self._client.abatch(inputs, list(map(payload.of_caller, config, run_manager)), kwargs)
        for manager, events in zip(run_manager, answer.callback_events, strict=True):
            await self._areplay(events, manager)
        return cast("list[Exception | Output]", answer.output)

    def _replay(self, events: Any, run: CallbackManagerForChainRun) -> None:
        if self._replays and events:
            replay(run.handlers, run.run_id, events)

    async def _areplay(self, events: Any, run: AsyncCallbackManagerForChainRun) -> None:
        if self._replays and events:
            await areplay(run.handlers, run.run_id, events)
