"""The lock of a thread: one run at a time, by the multitask strategy of the chain."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

from streamserve.call import Call, ThreadLock
from streamserve.catalog.chain import MultitaskStrategy
from streamserve.errors import Cancelled, ServeError, ShuttingDown
from streamserve.errors.failures import classify
from streamserve.graphs.thread_keys import thread_key
from streamserve.runs.chain_tasks import is_cancellation
from streamserve.runs.runs import Runs
from streamserve.runs.terminal import terminal
from streamserve.runs.writer import Writer
from streamserve.stores import Fenced, RunRecord, RunStore, StoreDown

logger = logging.getLogger(__name__)

# Seconds between two polls of the queue without a notification that a run has ended.
POLL_INTERVAL = 1.0
# Minimum seconds between two polls: a run notifies for each of its blocks.
PAUSE = 0.02

R = TypeVar("R")


async def acquire(store: RunStore, run: RunRecord, strategy: MultitaskStrategy) -> list[str]:
    """Wait until no run of the thread is ahead; `interrupt` and `rollback` cancel the runs ahead.

    Returns:
        The ids of the runs that were cancelled for this run.
    """
    cancelled: dict[str, None] = {}
    while ahead := await _retry_while_down(lambda: store.ahead(run)):
        if strategy in ("interrupt", "rollback"):
            cancelled |= dict.fromkeys(ahead)
            for run_id in ahead:  # again at each poll: a run that is just starting may miss the first request
                await _retry_while_down(partial(store.request_cancel, run_id))
        await _wait_for_change(store, ahead)
    return [run_id for run_id in cancelled if await _was_stopped(store, run_id)]


async def _was_stopped(store: RunStore, run_id: str) -> bool:
    record = await _retry_while_down(lambda: store.get(run_id))
    return record is None or record.status != "done"


async def _wait_for_change(store: RunStore, run_ids: Sequence[str]) -> None:
    changed = asyncio.Event()
    unsubscribers = [store.subscribe(run_id, changed.set) for run_id in run_ids]
    try:
        async with asyncio.timeout(POLL_INTERVAL):
            await changed.wait()
            await asyncio.sleep(PAUSE)
    except TimeoutError:
        pass
    finally:
        for unsubscribe in unsubscribers:
            unsubscribe()


async def _retry_while_down(operation: Callable[[], Awaitable[R]]) -> R:
    while True:
        try:
            return await operation()
        except StoreDown as error:
            logger.warning("a run waits for the store before it locks its thread: %s", error)
            await asyncio.sleep(POLL_INTERVAL)


def of_run(store: RunStore, run: RunRecord, strategy: MultitaskStrategy) -> ThreadLock:
    """Return the lock of a run that is stored with its thread before it starts."""

    @asynccontextmanager
    async def lock(thread_id: str, run_id: str) -> AsyncIterator[list[str]]:  # noqa: ARG001 - `run` has both
        yield await acquire(store, run, strategy)

    return lock


def of_call(runs: Runs, call: Call, endpoint: str, strategy: MultitaskStrategy) -> ThreadLock:
    """Return the lock of a call of /invoke or /batch: each of its inputs is a run on its thread."""

    def lock(thread_id: str, run_id: str) -> AbstractAsyncContextManager[list[str]]:
        principal = call.principal or ""
        thread = thread_key(call.chain, principal, thread_id)
        run = RunRecord(run_id, call.chain, endpoint, principal, time.time(), thread=thread)
        return on_thread(runs, run, strategy)

    return lock


@asynccontextmanager
async def on_thread(runs: Runs, run: RunRecord, strategy: MultitaskStrategy) -> AsyncIterator[list[str]]:
    """Make the current task a run on its thread inside the `with` block; its state is stored, its output is not.

    Yields:
        The ids of the runs that were cancelled for this run, once it has the lock.

    Raises:
        ThreadBusy: The strategy is `reject`, and another run has the thread.
        Cancelled: The run was cancelled.
    """
    current = _CurrentTask()
    error: ServeError | None = None
    with runs.cancellable(run.run_id, current.cancel):
        await runs.claim(run, alone=strategy == "reject")
        try:
            yield await acquire(runs.store, run, strategy)
        except BaseException as failure:
            if current.reason is not None and isinstance(failure, asyncio.CancelledError):
                error = current.reason
                current.task.uncancel()
                raise error from None
            error = _left(runs) if is_cancellation(failure) else classify(failure)
            raise
        finally:
            current.ended = True
            await asyncio.shield(asyncio.create_task(_end(runs, run, error)))


def _left(runs: Runs) -> ServeError:
    return ShuttingDown() if runs.draining else Cancelled("The caller left")


class _CurrentTask:
    """The current task, and the reason of its cancellation."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.reason: ServeError | None = None
        self.ended = False

    def cancel(self, reason: ServeError) -> None:
        if self.reason is None and not self.ended:
            self.reason = reason
            self.task.cancel()


async def _end(runs: Runs, run: RunRecord, error: ServeError | None) -> None:
    writer = Writer(run, runs.store, runs.settings.store_patience, lambda _failure: None)
    try:
        await writer.finish(*terminal(writer.next_seq, run.run_id, error))
    except Exception as failure:
        logger.error("the end of a run is not stored: %r", failure, extra={"run_id": run.run_id, "chain": run.chain})
        if not isinstance(failure, Fenced):
            runs.store.give_up(run.run_id)
