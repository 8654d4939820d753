"""A step's stream as one run, as langchain-core makes it, without a task per item.

One question decides what a stream does beside its chunks: is it observed, that is, has its run a callback handler?
Observed, chunks are added up for the handlers, at the end instead of one by one. Unobserved, nothing is kept.

Unlike upstream, an early end closes the stream before it (there the garbage collector does), and all items come in
the caller's task, not each in one of its own.
"""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, BaseCallbackManager
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    patch_config,
    set_config_context,
    var_child_runnable_config,
)

from streamserve.lcel.chunk_sum import ChunkSum

Stream = AsyncIterator[Any]
Transform = Callable[[Stream, AsyncCallbackManagerForChainRun, RunnableConfig], Stream]

NOTHING: Any = object()
_MOVED: Any = object()
_ENDED: Any = object()


def is_observed(callbacks: BaseRunManager | BaseCallbackManager) -> bool:
    """Return whether a stream is observed: whether its run has callback handlers.

    Args:
        callbacks: the run's; LangChain adds debugging, tracing and the handlers of a context to those of a config.
    """
    return bool(callbacks.handlers)


async def traced(
    step: Runnable[Any, Any],
    inputs: Stream,
    transform: Transform,
    config: RunnableConfig | None,
    *,
    name: str | None = None,
    run_type: str | None = None,
    defers_inputs: bool = False,
    in_own_task: bool = False,
    prepare: Callable[[AsyncCallbackManagerForChainRun], None] | None = None,
) -> AsyncGenerator[Any]:
    """Stream one step as a run of its own.

    Args:
        step: the step, whose name the run has if neither the config nor `name` has one.
        inputs: the stream before it.
        transform: a function that makes the stream from the inputs, the run and the config of its children.
        config: the config of the run.
        name: the name of the run, if the config has none.
        run_type: the type of the run; None means a chain.
        defers_inputs: an argument of the callbacks (default false).
        in_own_task: the caller iterates the stream in a task of its own, so an unobserved step may use its context.
        prepare: called with an observed run before its steps begin (default none).
    """
    source, stream = aiter(inputs), NOTHING
    first = await anext(source, NOTHING)  # the step before starts first
    config = patch_config(config, run_name=(config or {}).get("run_name") or name)
    run = await start_run(step, config, run_type=run_type, defers_inputs=defers_inputs)
    observed = is_observed(run)
    if observed and prepare is not None:
        prepare(run)
    listened = observed and any(not handler.ignore_chain for handler in run.handlers)
    tap, outputs = _Tap(first, source, listened=listened), ChunkSum()
    try:
        child = patch_config(config, callbacks=run.get_child())
        if observed or not in_own_task:
            with set_config_context(child) as context:
                stream = context.run(transform, tap, run, child)
                with Relay(_tap_outputs(run, stream), context) as relay:
                    while relay.advance() or await relay.wait():
                        yield relay.chunk
                        if listened:
                            outputs.add(relay.chunk)
        else:
            var_child_runnable_config.set(child)
            stream = transform(tap, run, child)
            async for chunk in stream:
                yield chunk
        await tap.drain()
        output = outputs.value()
    except BaseException as error:
        await run.on_chain_error(error, inputs=tap.seen())
        raise
    else:
        await run.on_chain_end(output, inputs=tap.seen())
    finally:
        await close(stream)
        await close(source)


async def start_run(step: Runnable[Any, Any], config: RunnableConfig, **about: Any) -> AsyncCallbackManagerForChainRun:
    """Start the step's run; take its id out of the config, so that no other run has it."""
    name, run_id = config.get("run_name") or step.get_name(), config.pop("run_id", None)
    manager = get_async_callback_manager_for_config(config)
    return await manager.on_chain_start(None, {"input": ""}, name=name, run_id=run_id, **about)


async def stream_whole(step: Runnable[Any, Any], inputs: Stream, config: RunnableConfig, **kwargs: Any) -> Stream:
    """Stream a step that needs its whole input: as `Runnable.atransform`, closed with its reader."""
    whole = await gather(inputs)
    if whole is NOTHING:
        return
    stream = step.astream(whole, config, **kwargs)
    try:
        async for output in stream:
            yield output
    finally:
        await close(stream)


async def gather(inputs: Stream) -> Any:
    """Return the sum of all chunks of a stream, or `NOTHING` if it has none."""
    first, total = NOTHING, None
    async for chunk in inputs:
        if first is NOTHING:
            first = chunk
            continue
        if total is None:
            total = ChunkSum(restarts=True)
            total.add(first)
        total.add(chunk)
    return first if total is None else total.value()


async def close(stream: Any) -> None:
    """Close a stream that can be closed and that nothing is waiting for."""
    if hasattr(stream, "aclose") and not getattr(stream, "ag_running", False):
        await stream.aclose()


class _Tap:
    """The inputs as the step takes them, added up on their way if a handler listens."""

    __slots__ = ("_draining", "_first", "_next", "_start", "_sum")

    def __init__(self, first: Any, source: Stream, *, listened: bool) -> None:
        self._start = self._first = first
        self._next = source.__anext__
        self._sum = ChunkSum() if listened else None
        self._draining = False

    def __aiter__(self) -> _Tap:
        return self

    def __anext__(self) -> Awaitable[Any]:
        if self._sum is None and self._first is NOTHING:
            return self._next()
        return self._take()

    async def _take(self) -> Any:
        if self._first is NOTHING:
            chunk = await self._next()
        else:
            chunk, self._first = self._first, NOTHING
        if self._sum is not None:
            self._sum.add(chunk)
        return chunk

    async def drain(self) -> None:
        """Take what the step left."""
        self._draining = True
        async for _ in self:
            pass

    def seen(self) -> Any:
        """Return the inputs as callbacks are given them: their sum at the end, before it the first."""
        if self._sum is not None and self._draining:
            return self._sum.value()
        return None if self._start is NOTHING else self._start


def _tap_outputs(run: AsyncCallbackManagerForChainRun, stream: Stream) -> Stream:
    """Return a run's stream through the handler that shows its chunks in `astream_events` and `astream_log`."""
    for handler in run.handlers:
        if hasattr(handler, "tap_output_aiter"):
            tapped: Stream = handler.tap_output_aiter(run.run_id, stream)
            return tapped
    return stream


class Relay:
    """Iterate a stream in a context; a task per item would do so too, at the cost of a turn of the event loop.

    The stream's loop is a coroutine that is sent to by hand: what it gives out is either `_MOVED`, when there is a
    chunk, or a future, which is handed on to the task.

    Args:
        stream: to iterate.
        context: in which the stream's code runs.
    """

    __slots__ = ("_loop", "_pending", "_run", "_send", "chunk")

    def __init__(self, stream: AsyncIterator[Any], context: Context) -> None:
        self.chunk: Any = None
        self._loop: Coroutine[Any, Any, None] = self._iterate(stream)
        self._run, self._send = context.run, self._loop.send
        self._pending: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._loop.close)

    def advance(self) -> bool:
        """Return whether there was a next chunk without waiting."""
        return self._resume(self._send, None)

    @types.coroutine
    def wait(self) -> Generator[Any, Any, bool]:
        """Wait for the next chunk; return False at the stream's end."""
        while self._pending is not _ENDED:
            try:
                sent = yield self._pending
            except GeneratorExit:
                raise
            except BaseException as error:
                moved = self._resume(self._loop.throw, error)
            else:
                moved = self._resume(self._send, sent)
            if moved:
                return True
        return False

    def _resume(self, resume: Callable[[Any], Any], value: Any) -> bool:
        try:
            self._pending = self._run(resume, value)
        except StopIteration:
            self._pending = _ENDED
        return self._pending is _MOVED

    async def _iterate(self, stream: AsyncIterator[Any]) -> None:
        async for self.chunk in stream:
            await _move()


@types.coroutine
def _move() -> Generator[Any, None, None]:
    yield _MOVED
