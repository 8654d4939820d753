"""A step's stream as one run of its callbacks: as langchain-core does it, without a task per item.

Unlike there: chunks are added up once, at the end, and only if a callback handler listens; an early end closes the
stream before it (there the garbage collector does); all items come in the caller's task, not each in one of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    patch_config,
    set_config_context,
    var_child_runnable_config,
)
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from streamserve.lcel.chunk_sum import ChunkSum
from streamserve.lcel.relay import Relay

Stream = AsyncIterator[Any]
Transform = Callable[[Stream, AsyncCallbackManagerForChainRun, RunnableConfig], Stream]

NOTHING: Any = object()

# Said by who iterates a stream in a task of its own: the outermost step's context may then be the task's
# own; another one takes a change to it and back for each chunk.
alone: ContextVar[bool] = ContextVar("alone", default=False)


async def traced(
    step: Runnable[Any, Any],
    inputs: Stream,
    transform: Transform,
    config: RunnableConfig | None,
    *,
    name: str | None = None,
    run_type: str | None = None,
    defers_inputs: bool = False,
    own_context: bool = True,
) -> AsyncGenerator[Any]:
    """The stream of one step, as a run of its own.

    Args:
        step: names the run, if neither the config nor `name` does.
        inputs: the stream before it.
        transform: makes the stream from the inputs, the run and the config of its children.
        config: of the run.
        name: of the run, if the config has none.
        run_type: for the callbacks; None: a chain.
        defers_inputs: for the callbacks.
        own_context: False: nobody looks at the context that the step's own code runs in, unless somebody listens.
    """
    source, stream = aiter(inputs), NOTHING
    outermost = alone.get()
    alone.set(False)
    first = await anext(source, NOTHING)  # the step before starts first
    config = patch_config(config, run_name=(config or {}).get("run_name") or name)
    run = await _begun(step, config, run_type=run_type, defers_inputs=defers_inputs)
    listened = any(not handler.ignore_chain for handler in run.handlers)
    tap, outputs = _Tap(first, source, listened=listened), ChunkSum()
    try:
        child = patch_config(config, callbacks=run.get_child())
        if run.handlers or (own_context and not outermost):
            with set_config_context(child) as context:
                stream = context.run(transform, tap, run, child)
                with Relay(_announced(run, stream), context) as relay:
                    while relay.moved() or await relay.waited():
                        yield relay.chunk
                        if listened:
                            outputs.add(relay.chunk)
        else:
            if outermost:
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
        await closed(stream)
        await closed(source)


async def _begun(step: Runnable[Any, Any], config: RunnableConfig, **said: Any) -> AsyncCallbackManagerForChainRun:
    """The step's run; takes its id out of the config, so that no other has it."""
    name, run_id = config.get("run_name") or step.get_name(), config.pop("run_id", None)
    manager = get_async_callback_manager_for_config(config)
    return await manager.on_chain_start(None, {"input": ""}, name=name, run_id=run_id, **said)


async def buffered(step: Runnable[Any, Any], inputs: Stream, config: RunnableConfig, **kwargs: Any) -> Stream:
    """The stream of a step that needs its whole input: as `Runnable.atransform`, closed with its reader."""
    whole = await gathered(inputs)
    if whole is NOTHING:
        return
    stream = step.astream(whole, config, **kwargs)
    try:
        async for output in stream:
            yield output
    finally:
        await closed(stream)


async def gathered(inputs: Stream) -> Any:
    """Return the sum of all chunks of a stream, or `NOTHING` if it has none."""
    total, empty = ChunkSum(restarts=True), True
    async for chunk in inputs:
        empty = False
        total.add(chunk)
    return NOTHING if empty else total.value()


async def closed(stream: Any) -> None:
    """Closes a stream that can be closed and that nothing is waiting for."""
    if hasattr(stream, "aclose") and not getattr(stream, "ag_running", False):
        await stream.aclose()


class _Tap:
    """The inputs as the step takes them, added up on their way if somebody listens."""

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
        return self._taken()

    async def _taken(self) -> Any:
        if self._first is NOTHING:
            chunk = await self._next()
        else:
            chunk, self._first = self._first, NOTHING
        if self._sum is not None:
            self._sum.add(chunk)
        return chunk

    async def drain(self) -> None:
        """Takes what the step left."""
        self._draining = True
        async for _ in self:
            pass

    def seen(self) -> Any:
        """What callbacks are told of the inputs: their sum at the end, before it the first."""
        if self._sum is not None and self._draining:
            return self._sum.value()
        return None if self._start is NOTHING else self._start


def _announced(run: AsyncCallbackManagerForChainRun, stream: Stream) -> Stream:
    """The stream of a run, through the handler that shows chunks in `astream_events` and `astream_log`."""
    for handler in run.handlers:
        if isinstance(handler, _StreamingCallbackHandler):
            return handler.tap_output_aiter(run.run_id, stream)
    return stream
