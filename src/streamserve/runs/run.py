"""A run: one execution of a chain for one request. It owns the task that iterates the chain.

States: queued -> running -> done | error | cancelled | lost.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any

from streamserve.call import Call
from streamserve.errors import Internal, InvalidInput, LogFull, RunTimeout, ServeError
from streamserve.errors.failures import explain, record
from streamserve.runs import producers
from streamserve.runs.fairness import TimeSlice
from streamserve.runs.limits import RunLimits
from streamserve.runs.sync_calls import SyncCalls, current_calls
from streamserve.runs.terminal import terminal
from streamserve.runs.writer import Writer
from streamserve.stores import Fenced, Outcome, RunRecord, RunStore, StoreDown
from streamserve.wire.blocks import data_block, metadata_block, patch_block

logger = logging.getLogger(__name__)

# Seconds after which a chain that still yields chunks is cancelled again: before Python 3.12, asyncio.wait_for loses
# a cancellation that comes with a chunk, and ChatOpenAI awaits each chunk under it.
CANCEL_AGAIN = 0.1

# Bytes of a chunk from which on it has turns of the event loop for itself: its JSON, its block, and the next chunk.
LARGE = 64 * 2**10

# The blocks of a chain's events.
_BLOCKS: dict[str, Callable[[int, bytes], bytes]] = {"data": data_block, "patch": patch_block}

# LangServe's events, and `patch`: a dict with `event` and, except for `end`, `data`.
Events = AsyncGenerator[dict[str, Any], None]


class Run:
    """One execution of a chain, and the writer of its blocks.

    Args:
        events: LangServe's iterator, not started.
        call: the request's call; its output is stored with the terminal block.
        stored: the blocks of earlier attempts. Default: none.
    """

    __slots__ = (
        "_abandoned",
        "_bytes",
        "_calls",
        "_cancelled_at",
        "_conclusion",
        "_deadline",
        "_events",
        "_failure",
        "_in_chain",
        "_limits",
        "_on_block",
        "_producer",
        "_reason",
        "_store",
        "_writer",
        "call",
        "ended",
        "given_up",
        "outcome",
        "record",
    )

    def __init__(
        self,
        record: RunRecord,
        store: RunStore,
        events: Events,
        call: Call,
        limits: RunLimits,
        stored: Sequence[bytes] = (),
    ) -> None:
        self.record = record
        strict, patience = limits.store_strict, limits.store_patience
        self._writer = Writer(record, store, patience, self._on_write_failure, strict=strict, stored=stored)
        self._store = store
        self._events = events
        self.call = call
        self._limits = limits
        self._bytes = sum(map(len, stored))
        self._reason: ServeError | None = None
        self._failure: Exception | None = None
        self._cancelled_at: float | None = None
        self._calls = SyncCalls()
        self._in_chain = False
        self._producer: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._abandoned: asyncio.Future[None] = loop.create_future()
        # Created once the chain has ended: a run that waits for its model takes less memory without it.
        self._conclusion: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[None] = loop.create_future()
        self.given_up = False
        self.outcome: Outcome | None = None
        self._on_block: Callable[[], None] | None = None
        if record.request is not None and not store.immediate:
            call.guard = self._require_ownership

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id

    def observe(self, block: Callable[[], None] | None, stored: Callable[[float], None] | None) -> None:
        """Call `block` for each block of the chain, and `stored` with the seconds of each write to the store."""
        self._on_block, self._writer.on_stored = block, stored

    def start(self) -> None:
        """Store the attempt's first block and start the chain in a new task, in the caller's context.

        The future `ended` resolves after the run's terminal block.
        """
        if self.record.endpoint in ("stream", "runs"):
            self._writer.write(metadata_block(self._writer.next_seq, self.run_id, self.record.attempt))
        current_calls.set(self._calls)
        self._deadline = asyncio.get_running_loop().call_later(self._limits.timeout, self._time_out)
        self._producer = asyncio.create_task(self._produce(), name=f"chain of run {self.run_id}")
        self._producer.add_done_callback(self._conclude)

    async def _require_ownership(self) -> None:
        stored = await self._store.get(self.run_id)
        if stored is None or stored.attempt != self.record.attempt:
            raise Fenced(self.run_id)

    def cancel(self, reason: ServeError) -> None:
        """Stop the chain and return at once; `ended` resolves later. Only the first reason counts."""
        if self._reason is not None or self.ended.done() or (self._producer is not None and self._producer.done()):
            return
        self._reason = reason
        self._stop_chain()

    def _time_out(self) -> None:
        self.cancel(RunTimeout())

    def _on_write_failure(self, failure: Exception) -> None:
        if self._producer is not None and not self._producer.done():
            self._failure = failure
            self._stop_chain()

    def _stop_chain(self) -> None:
        self._calls.stop()
        asyncio.get_running_loop().call_later(self._limits.cancel_grace, self._abandon)
        # While a block is being stored, the producer cancels itself afterwards: an exception at LangServe's `yield`
        # would not reach the chain's own generators.
        if self._in_chain or self._inner_task() is not None:
            self._cancel_chain()

    def _cancel_chain(self) -> None:
        task = self._inner_task() or self._producer
        if task is not None:
            self._cancelled_at = time.monotonic()
            task.cancel()

    def _inner_task(self) -> asyncio.Task[Any] | None:
        # /stream_log streams in an inner task and awaits it; a cancellation of the outer task is lost.
        inner = self.call.task
        return None if inner is self._producer else inner

    def _abandon(self) -> None:
        if not self._abandoned.done():
            self._abandoned.set_result(None)
        if self._producer is not None:
            self._cancel_chain()
            self._conclude(self._producer)

    def _conclude(self, producer: asyncio.Task[None]) -> None:
        if self._conclusion is None:
            self._conclusion = asyncio.create_task(self._end(producer), name=f"end of run {self.run_id}")

    async def _end(self, producer: asyncio.Task[None]) -> None:
        try:
            error = await self._error_of(producer)
            await self._finish(error)
        except Exception as error:
            # No terminal block can be stored: the readers get it from the owner that takes the run over.
            self.given_up = True
            logger.error("run given up: %r", error, extra=self._extra())
            if not isinstance(error, Fenced):
                self._store.give_up(self.run_id)
        finally:
            if self._deadline is not None:
                self._deadline.cancel()
            self._writer.close()
            self._producer = None
            self.ended.set_result(None)

    async def _error_of(self, producer: asyncio.Task[None]) -> ServeError | None:
        if not producer.done():
            producers.abandon(producer)
        if isinstance(self._failure, Fenced | StoreDown):
            raise self._failure
        if not producer.done():
            return self._explain(None, still_running=True)
        cause = self._failure or producers.exception_of(producer)
        # A cancelled chain that returns without an exception has half an answer, so its run is not done.
        if cause is None and self._reason is None:
            return None
        still_running = self._reason is not None and not await self._sync_calls_returned()
        error = self._explain(cause, still_running)
        producers.free_frames(cause)
        return error

    def _explain(self, cause: BaseException | None, still_running: bool) -> ServeError:
        if self._reason is None:
            shown = Internal() if cause is None else explain(cause, self.call)
            if not isinstance(shown, InvalidInput):
                record(shown, cause, self.run_id, self.record.chain)
            return shown
        if still_running:
            logger.warning("run %s: a step ignores its cancellation", self.run_id, extra=self._extra())
            return type(self._reason)(f"{self._reason.detail}; a step that ignores cancellation may still be running")
        return self._reason

    def _extra(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "chain": self.record.chain}

    async def _sync_calls_returned(self) -> bool:
        while self._calls.pending and not self._abandoned.done():
            calls = [asyncio.wrap_future(call) for call in self._calls.pending]
            await asyncio.wait({*calls, self._abandoned}, return_when=asyncio.FIRST_COMPLETED)
        return not self._calls.pending

    async def _produce(self) -> None:
        time_slice, complete = TimeSlice(), False
        self._cancel_if_stopping()
        self._in_chain = True
        async for item in self._events:
            self._in_chain = False
            # LangServe raises the cause of its `error` next, and its `metadata` was sent already: both are dropped.
            large = len(item.get("data", b"")) >= LARGE
            if large:
                await self._yield_to_loop()
            if item["event"] in _BLOCKS:
                if self._write_data(_BLOCKS[item["event"]], item["data"]):
                    await self._drain()
            elif item["event"] == "end":
                complete = True
            if large or time_slice.is_spent():
                await self._yield_to_loop()
            self._cancel_if_stopping()
            self._in_chain = True
        inner = self._inner_task()
        if inner is not None and inner.cancelled():
            inner.result()  # raises the chain's own CancelledError
        if not complete:
            raise RuntimeError("the stream ended without its end event")

    def _cancel_if_stopping(self) -> None:
        if self._reason is None and self._failure is None:
            return
        if self._cancelled_at is None or time.monotonic() - self._cancelled_at > CANCEL_AGAIN:
            self._cancel_chain()

    async def _yield_to_loop(self) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            # The chain never waits, so the cancellation is raised inside it here.
            await self._events.athrow(asyncio.CancelledError())

    def _write_data(self, block_of: Callable[[int, bytes], bytes], data: bytes) -> bool:
        # True: the writer must drain before the next block.
        if self._on_block is not None:
            self._on_block()
        number = self._writer.next_seq
        block = block_of(number, data)
        self._bytes += len(block)
        if self._failure is not None:
            return False
        if number >= self._limits.events or self._bytes > self._limits.bytes:
            self.cancel(LogFull())
            return False
        try:
            return self._writer.write(block)
        except Exception as failure:  # kept: the chain is cancelled first, so that its generators close in order
            self._failure = failure
            return False

    async def _drain(self) -> None:
        with suppress(Exception):  # `_on_write_failure` has it, and the chain is cancelled first
            await self._writer.drain()

    async def _finish(self, error: ServeError | None) -> None:
        block, outcome = terminal(self._writer.next_seq, self.run_id, error, self.call.output)
        await self._writer.finish(block, outcome)
        self.outcome = outcome
