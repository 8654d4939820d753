"""One run of a thread at a time: whose turn it is, by the strategy that its chain's record declares."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

from streamserve.call import Call, Turn
from streamserve.catalog.chain import MultitaskStrategy
from streamserve.errors import Cancelled, ServeError, ShuttingDown
from streamserve.errors.failures import classify
from streamserve.graphs.thread_keys import thread_key
from streamserve.runs.runs import Runs
from streamserve.runs.writer import Writer
from streamserve.stores import Fenced, Outcome, RunRecord, RunStore, Status, StoreDown
from streamserve.wire.blocks import end_block, error_block

logger = logging.getLogger(__name__)

# Seconds between two looks at the queue if nobody tells that a run has ended.
LOOK_AGAIN = 1.0
# The least pause between two looks, in seconds: a run tells of each block.
PAUSE = 0.02

R = TypeVar("R")


async def take_turn(store: RunStore, run: RunRecord, strategy: MultitaskStrategy) -> list[str]:
    """Waits until no run of the thread is ahead.

    Args:
        store: where the runs are.
        run: stored, with its thread.
        strategy: `interrupt` and `rollback` cancel those ahead.

    Returns:
        The ids of those that were cancelled for it.
    """
    asked: dict[str, None] = {}
    while ahead := await _despite_the_store(lambda: store.ahead(run)):
        if strategy in ("interrupt", "rollback"):
            asked |= dict.fromkeys(ahead)
            for run_id in ahead:  # again at each look: a run that is just being started may not hear it
                await _despite_the_store(partial(store.request_cancel, run_id))
        await _news_of(store, ahead)
    return [run_id for run_id in asked if await _was_stopped(store, run_id)]


async def _was_stopped(store: RunStore, run_id: str) -> bool:
    record = await _despite_the_store(lambda: store.get(run_id))
    return record is None or record.status != "done"


async def _news_of(store: RunStore, run_ids: Sequence[str]) -> None:
    told = asyncio.Event()
    unsubscribers = [store.subscribe(run_id, told.set) for run_id in run_ids]
    try:
        async with asyncio.timeout(LOOK_AGAIN):
            await told.wait()
            await asyncio.sleep(PAUSE)
    except TimeoutError:
        pass
    finally:
        for unsubscribe in unsubscribers:
            unsubscribe()


async def _despite_the_store(ask: Callable[[], Awaitable[R]]) -> R:
    while True:
        try:
            return await ask()
        except StoreDown as error:
            logger.warning("the turn of a run waits for the store: %s", error)
            await asyncio.sleep(LOOK_AGAIN)


def of_run(store: RunStore, run: RunRecord, strategy: MultitaskStrategy) -> Turn:
    """The turn of a run that is stored with its thread before it begins."""

    @asynccontextmanager
    async def turn(thread_id: str, run_id: str) -> AsyncIterator[list[str]]:  # noqa: ARG001 - those of the run
        yield await take_turn(store, run, strategy)

    return turn


def of_call(runs: Runs, call: Call, endpoint: str, strategy: MultitaskStrategy) -> Turn:
    """The turns of a call without a stream: each of its inputs is a run on its thread.

    Args:
        runs: of this process.
        call: the guard has said whose it is once the chain begins.
        endpoint: the last part of the path.
        strategy: of the chain.
    """

    def turn(thread_id: str, run_id: str) -> AbstractAsyncContextManager[list[str]]:
        principal = call.principal or ""
        thread = thread_key(call.chain, principal, thread_id)
        run = RunRecord(run_id, call.chain, endpoint, principal, time.time(), thread=thread)
        return on_thread(runs, run, strategy)

    return turn


@asynccontextmanager
async def on_thread(runs: Runs, run: RunRecord, strategy: MultitaskStrategy) -> AsyncIterator[list[str]]:
    """Makes what the current task does a run on its thread; it is stored for its state only, without output.

    Args:
        runs: of this process.
        run: not stored yet.
        strategy: of the chain.

    Returns:
        The runs that were cancelled for it, once it is its turn.

    Raises:
        ThreadBusy: the strategy is `reject`, and another run has the thread.
        Cancelled: somebody cancelled the run.
    """
    call = _Call()
    error: ServeError | None = None
    with runs.cancellable(run.run_id, call.cancel):
        await runs.claim(run, alone=strategy == "reject")
        try:
            yield await take_turn(runs.store, run, strategy)
        except asyncio.CancelledError:
            error = call.reason or (ShuttingDown() if runs.draining else Cancelled("The caller left"))
            if call.reason is None:
                raise
            call.task.uncancel()
            raise call.reason from None
        except Exception as failure:
            error = classify(failure)
            raise
        finally:
            call.over = True
            await asyncio.shield(asyncio.create_task(_end(runs, run, error)))


class _Call:
    """The current task, and why it was cancelled."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.reason: ServeError | None = None
        self.over = False

    def cancel(self, reason: ServeError) -> None:
        if self.reason is None and not self.over:
            self.reason = reason
            self.task.cancel()


async def _end(runs: Runs, run: RunRecord, error: ServeError | None) -> None:
    writer = Writer(run, runs.store, runs.settings.store_patience, lambda _failure: None)
    try:
        if error is None:
            await writer.finish(end_block(writer.next_seq), Outcome("done"))
        else:
            body = error.event(run.run_id)
            status: Status = "cancelled" if isinstance(error, Cancelled) else "error"
            await writer.finish(error_block(writer.next_seq, body), Outcome(status, body))
    except (Fenced, StoreDown) as failure:
        logger.error("the end of a run is not stored: %r", failure, extra={"run_id": run.run_id, "chain": run.chain})
    finally:
        writer.close()
