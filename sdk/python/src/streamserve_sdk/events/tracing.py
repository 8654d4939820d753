"""Report a remote stream to the caller's callbacks as one chain run, whose output is added up once at the end."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing
from typing import Any, cast

from langchain_core.callbacks.manager import AsyncCallbackManagerForChainRun, BaseRunManager, CallbackManagerForChainRun
from langchain_core.runnables.config import (
    RunnableConfig,
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)

Merge = Callable[[list[Any]], Any]


def traced(
    name: str,
    value: Any,
    config: RunnableConfig | None,
    start: Callable[[RunnableConfig, BaseRunManager], Generator[Any]],
    merge: Merge,
) -> Generator[Any]:
    """Yield the chunks of a stream and report them.

    Args:
        name: the run's name, unless the config has one.
        value: the run's input.
        config: the caller's config.
        start: a function that starts the stream of a config below a run; its stream is closed with this one.
        merge: a function that makes the run's output of all chunks.
    """
    config = ensure_config(config)
    manager = get_callback_manager_for_config(config)
    run = manager.on_chain_start(None, value, name=config.get("run_name") or name, run_id=config.pop("run_id", None))
    seen: list[Any] = []
    try:
        with closing(start(config, run)) as chunks:
            for chunk in _tapped(run, chunks):
                if run.handlers:
                    seen.append(chunk)
                yield chunk
    except BaseException as error:
        run.on_chain_error(error)
        raise
    run.on_chain_end(merge(seen))


async def atraced(
    name: str,
    value: Any,
    config: RunnableConfig | None,
    start: Callable[[RunnableConfig, BaseRunManager], AsyncGenerator[Any]],
    merge: Merge,
) -> AsyncGenerator[Any]:
    """Yield the chunks of a stream and report them; arguments are those of `traced`."""
    config = ensure_config(config)
    manager = get_async_callback_manager_for_config(config)
    run = await manager.on_chain_start(
        None, value, name=config.get("run_name") or name, run_id=config.pop("run_id", None)
    )
    seen: list[Any] = []
    try:
        async with aclosing(start(config, run)) as chunks:
            async for chunk in _atapped(run, chunks):
                if run.handlers:
                    seen.append(chunk)
                yield chunk
    except BaseException as error:
        await run.on_chain_error(error)
        raise
    await run.on_chain_end(merge(seen))


# langchain-core's own streams pass through the same two taps; without them, a surrounding
# astream_events would not see the chunks of this step.
def _tapped(run: CallbackManagerForChainRun, chunks: Iterator[Any]) -> Iterator[Any]:
    for handler in run.handlers:
        if tap := getattr(handler, "tap_output_iter", None):
            return cast("Iterator[Any]", tap(run.run_id, chunks))
    return chunks


def _atapped(run: AsyncCallbackManagerForChainRun, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    for handler in run.handlers:
        if tap := getattr(handler, "tap_output_aiter", None):
            return cast("AsyncIterator[Any]", tap(run.run_id, chunks))
    return chunks
