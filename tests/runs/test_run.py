"""A run in process, without HTTP."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any
from unittest.mock import AsyncMock

import pytest

from streamserve.call import Call
from streamserve.errors import Cancelled, RunTimeout, ServeError
from streamserve.runs import producers
from streamserve.runs import run as running
from streamserve.runs import writer as writing
from streamserve.runs.limits import RunLimits
from streamserve.runs.run import Run
from streamserve.runs.sync_calls import current_calls
from streamserve.stores import Fenced, MemoryStore, Outcome, RunRecord, StoreDown
from streamserve.wire.blocks import data_block
from tests.runs.support import LIMIT
from tests.runs.test_producers import Held

Events = AsyncGenerator[dict[str, Any], None]
DATA = {"event": "data", "data": b"1"}
END = {"event": "end"}


class FailingStore(MemoryStore):
    """A store that fails once, at a given block."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def append_now(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None
    ) -> int:
        if first_seq == self._at:
            self._at = -1
            raise OSError("the disk is full")
        return super().append_now(run_id, attempt, first_seq, blocks, outcome)


class Bench:
    """A run of an iterator like LangServe's, which yields a bare error and raises."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.inner_closed = asyncio.Event()
        self.waiting = asyncio.Event()

    async def run(
        self, chain: Callable[[], Events], stored: Sequence[bytes] = (), request: bytes | None = None, **limits: Any
    ) -> Run:
        record = RunRecord("r", "c", "stream", "p", created_at=0, request=request)
        await self.store.acquire(record)
        bounds = {
            "events": 100_000,
            "bytes": 10**9,
            "timeout": LIMIT,
            "cancel_grace": 10 * LIMIT,
            "store_patience": LIMIT,
            **limits,
        }
        return Run(record, self.store, self._as_langserve(chain), Call(), RunLimits(**bounds), stored)

    async def _as_langserve(self, chain: Callable[[], Events]) -> Events:
        try:
            async for item in chain():
                yield item
            yield END
        except BaseException:
            yield {"event": "error", "data": b"{}"}
            raise

    async def two_then_wait(self) -> Events:
        try:
            yield DATA
            yield DATA
            self.waiting.set()
            await asyncio.Event().wait()
        finally:
            self.inner_closed.set()

    async def never_waiting(self) -> Events:
        try:
            while True:
                self.waiting.set()
                yield DATA
        finally:
            self.inner_closed.set()

    async def blocks(self) -> list[bytes]:
        return list((await self.store.read("r", 0, 1_000_000)).blocks)


async def finish(run: Run) -> None:
    async with asyncio.timeout(LIMIT):
        await run.ended


async def test_a_cancel_before_the_start_is_not_lost() -> None:
    bench = Bench()
    run = await bench.run(bench.two_then_wait)
    run.cancel(Cancelled())
    run.start()
    await finish(run)
    assert run.record.status == "cancelled"


async def test_a_cancel_before_the_start_reaches_a_chain_that_waits() -> None:
    bench, closed = Bench(), []

    async def waiting() -> Events:
        try:
            await asyncio.Event().wait()
            yield DATA
        finally:
            closed.append(1)

    run = await bench.run(waiting)
    run.cancel(Cancelled())
    run.start()
    await finish(run)
    assert (run.record.error and run.record.error["message"], closed) == ("The run was cancelled", [1])


async def test_a_cancel_waits_until_the_chains_generators_are_closed() -> None:
    bench = Bench()
    run = await bench.run(bench.two_then_wait)
    run.start()
    await asyncio.wait_for(bench.waiting.wait(), LIMIT)
    run.cancel(Cancelled())
    await finish(run)
    assert bench.inner_closed.is_set()
    assert len(await bench.blocks()) == 4


async def test_the_first_reason_counts() -> None:
    bench = Bench()
    run = await bench.run(bench.two_then_wait)
    run.start()
    await asyncio.wait_for(bench.waiting.wait(), LIMIT)
    run.cancel(RunTimeout())
    run.cancel(Cancelled())
    assert run._calls.stopper.stopped
    await finish(run)
    assert run.record.error
    assert run.record.error["code"] == "timeout"


async def test_a_chain_that_never_waits_is_cancelled_and_closed() -> None:
    bench, complaints = Bench(), []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    run = await bench.run(bench.never_waiting)
    run.start()
    await asyncio.wait_for(bench.waiting.wait(), LIMIT)
    run.cancel(Cancelled())
    await finish(run)
    await asyncio.wait_for(bench.inner_closed.wait(), LIMIT)
    assert run.record.status == "cancelled"
    assert complaints == []


async def test_a_failing_store_stops_the_chain_with_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(FailingStore(at=3))
    run = await bench.run(bench.two_then_wait)
    run.start()
    await finish(run)
    assert bench.inner_closed.is_set()
    assert run.record.error
    assert run.record.error["code"] == "internal"
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info
    assert isinstance(record.exc_info[1], OSError)


async def test_a_stream_without_its_end_event_is_a_failure() -> None:
    bench = Bench()

    async def short() -> Events:
        yield DATA

    run = await bench.run(short)
    run._events = short()
    run.start()
    await finish(run)
    assert run.record.status == "error"


async def test_a_cancel_after_the_end_changes_nothing() -> None:
    bench = Bench()

    async def one() -> Events:
        yield DATA

    run = await bench.run(one)
    run.start()
    await finish(run)
    run.cancel(Cancelled())
    assert run.record.status == "done"
    assert (await bench.blocks())[-1] == b"id: 3\nevent: end\ndata:\n\n"
    assert not run._calls.stopper.stopped
    assert run._deadline  # nothing waits for this run any more
    assert (run._deadline.cancelled(), run._producer) == (True, None)


async def test_a_cancel_after_the_chains_end_is_too_late() -> None:
    bench = Bench()
    run = await bench.run(two)
    run.start()
    assert run._producer
    run._producer.add_done_callback(lambda _chain: run.cancel(Cancelled()))
    await finish(run)
    assert run.record.status == "done"


async def test_each_block_of_the_chain_is_told() -> None:
    bench, told = Bench(), []
    run = await bench.run(two)
    run.observe(lambda: told.append(1), None)
    run.start()
    await finish(run)
    assert len(told) == 2


async def test_nothing_is_stored_after_a_block_that_was_not() -> None:
    bench = Bench(FailingStore(at=3))

    async def deaf() -> Events:
        yield DATA
        yield DATA
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield DATA

    run = await bench.run(deaf)
    run.start()
    await finish(run)
    blocks = await bench.blocks()
    assert len(blocks) == 3  # with the metadata
    assert [b"event: data" in blocks[1], b"event: error" in blocks[2]] == [True, True]


async def test_nothing_is_stored_above_the_bound() -> None:
    bench = Bench()

    async def deaf() -> Events:
        for _ in range(3):
            with suppress(asyncio.CancelledError):
                yield DATA
                await asyncio.sleep(0)
            yield DATA

    run = await bench.run(deaf, events=3)
    run.start()
    await finish(run)
    assert len(await bench.blocks()) == 3
    assert run.record.error
    assert run.record.error["code"] == "log_full"


async def test_a_chain_that_closes_is_not_cancelled_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "CANCEL_AGAIN", LIMIT)
    bench, closed = Bench(), asyncio.Event()

    async def closing() -> Events:
        try:
            bench.waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield DATA
            await asyncio.sleep(0)
            closed.set()
            raise

    run = await bench.run(closing)
    run.start()
    await asyncio.wait_for(bench.waiting.wait(), LIMIT)
    run.cancel(Cancelled())
    await finish(run)
    assert (closed.is_set(), run.record.status) == (True, "cancelled")


async def two() -> Events:
    yield DATA
    yield DATA


@pytest.mark.parametrize(("missing", "status", "blocks"), [(0, "done", 4), (1, "error", 3)])
async def test_a_run_may_have_as_many_bytes_as_its_bound(missing: int, status: str, blocks: int) -> None:
    bench = Bench()
    enough = len(data_block(2, b"1") + data_block(3, b"1"))
    run = await bench.run(two, bytes=enough - missing)
    run.start()
    await finish(run)
    assert (run.record.status, len(await bench.blocks())) == (status, blocks)
    assert status == "done" or (run.record.error and run.record.error["code"] == "log_full")


@pytest.mark.parametrize(("missing", "status"), [(0, "done"), (1, "error")])
async def test_blocks_of_earlier_attempts_count_to_the_bound(missing: int, status: str) -> None:
    bench = Bench()
    first = [data_block(1, b"1")]
    enough = len(first[0] + data_block(3, b"1") + data_block(4, b"1"))
    run = await bench.run(two, stored=first, bytes=enough - missing)
    await bench.store.append("r", 1, 1, first)
    run.start()
    await finish(run)
    assert run.record.status == status


class Turns:
    """A task that counts the turns of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    async def take(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


async def test_a_large_chunk_has_turns_of_the_loop_for_itself() -> None:
    bench, turns, seen = Bench(), Turns(), []

    async def chain() -> Events:
        for _ in range(3):
            seen.append(turns.count)
            yield {"event": "data", "data": b"1" * running.LARGE}

    run = await bench.run(chain)
    run.observe(lambda: seen.append(turns.count), None)
    taking = asyncio.create_task(turns.take())
    run.start()
    await finish(run)
    taking.cancel()
    assert len(seen) == len(set(seen)) == 6  # each chunk is made in one turn, and its block in another
    assert len(await bench.blocks()) == 5


async def test_a_cancel_during_the_turns_of_a_large_chunk_ends_the_run() -> None:
    bench, closed = Bench(), []

    async def chain() -> Events:
        try:
            asyncio.get_running_loop().call_soon(run.cancel, Cancelled())
            yield {"event": "data", "data": b"1" * running.LARGE}
            await asyncio.Event().wait()
        finally:
            closed.append(1)

    run = await bench.run(chain)
    run.start()
    await finish(run)
    assert (closed, run.record.status, len(await bench.blocks())) == ([1], "cancelled", 3)


class HeldStore(MemoryStore):
    """A store of which a test holds the appends back."""

    immediate = False

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] | None = []

    def post(self, *append: Any) -> None:
        if self.held is None:
            super().post(*append)
        else:
            self.held.append(append)

    def release(self) -> None:
        held, self.held = self.held or [], None
        for append in held:
            super().post(*append)


async def test_a_chain_waits_for_a_store_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "HIGH_WATER", 3)
    store, given = HeldStore(), []
    bench = Bench(store)

    async def ten() -> Events:
        for number in range(10):
            given.append(number)
            yield DATA
            await asyncio.sleep(0)

    run = await bench.run(ten)
    run.start()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(given) == 3  # with the metadata, one block above the mark
    store.release()
    await finish(run)
    assert (run.record.status, len(given), len(await bench.blocks())) == ("done", 10, 12)


async def test_a_cancel_while_a_block_is_stored_closes_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "HIGH_WATER", 0)
    store = HeldStore()
    bench = Bench(store)
    run = await bench.run(bench.two_then_wait)
    run.start()
    for _ in range(5):
        await asyncio.sleep(0)
    run.cancel(Cancelled())
    store.release()
    await finish(run)
    assert (bench.inner_closed.is_set(), run.record.status) == (True, "cancelled")


@pytest.mark.parametrize(
    ("failure", "given_up"), [(Fenced("r"), []), (StoreDown("away"), ["r"]), (OSError("full"), ["r"])]
)
@pytest.mark.parametrize("is_behind", [True, False])
async def test_a_run_that_cannot_be_stored_stops_its_chain(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    given_up: list[str],
    is_behind: bool,
) -> None:
    if is_behind:  # the chain waits for the store
        monkeypatch.setattr(writing, "HIGH_WATER", 0)
    store = HeldStore()
    bench = Bench(store)
    found: list[str] = []
    store.give_up = found.append  # type: ignore[method-assign]
    run = await bench.run(bench.two_then_wait, store_patience=0)
    run.start()
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.waiting.is_set() != is_behind
    assert store.held
    store.held.pop()[-1](failure)
    await finish(run)
    assert bench.inner_closed.is_set()
    assert (run.given_up, found) == (True, given_up)
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert errors[-1].startswith("run given up")
    assert len(errors) == (2 if isinstance(failure, OSError) else 1)


async def test_the_frames_of_a_failed_chain_are_freed() -> None:
    bench, held, errors = Bench(), [], []

    async def failing() -> Events:
        local = Held()
        held.append(weakref.ref(local))
        errors.append(ValueError("failed"))
        yield DATA
        raise errors[0]

    run = await bench.run(failing)
    run.start()
    await finish(run)
    assert (held[0](), run.record.status) == (None, "error")


async def test_a_recoverable_run_can_ask_whether_it_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(HeldStore())
    run = await bench.run(two, request=b"{}")
    assert run.call.guard
    await run.call.guard()
    for stored in (None, RunRecord("r", "c", "stream", "p", created_at=0, attempt=2)):
        monkeypatch.setattr(bench.store, "get", AsyncMock(return_value=stored))
        with pytest.raises(Fenced):
            await run.call.guard()


async def test_a_run_with_one_owner_only_asks_nobody() -> None:
    assert (await Bench(HeldStore()).run(two)).call.guard is None
    assert (await Bench().run(two, request=b"{}")).call.guard is None


async def in_a_task(run: Run, work: Coroutine[Any, Any, None]) -> Events:
    """Stream in an inner task, as /stream_log does."""
    inner = run.call.task = asyncio.create_task(work)
    yield DATA
    await asyncio.wait({inner})


async def test_a_cancel_reaches_the_task_that_streams() -> None:
    bench, closed = Bench(), asyncio.Event()

    async def deep() -> None:
        bench.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()

    run = await bench.run(lambda: in_a_task(run, deep()))
    run.start()
    await asyncio.wait_for(bench.waiting.wait(), LIMIT)
    await asyncio.sleep(0)
    run.cancel(Cancelled())
    await finish(run)
    assert (closed.is_set(), run.record.status) == (True, "cancelled")


async def test_a_streaming_task_that_cancels_itself_is_a_failure() -> None:
    async def leave() -> None:
        raise asyncio.CancelledError

    run = await Bench().run(lambda: in_a_task(run, leave()))
    run.start()
    await finish(run)
    assert run.record.status == "error"


@pytest.mark.parametrize("returns", [True, False])
async def test_a_cancelled_run_waits_for_its_sync_calls(returns: bool) -> None:
    bench, call = Bench(), Future[None]()
    run = await bench.run(bench.two_then_wait, **({} if returns else {"cancel_grace": 0.01}))
    run._calls.pending.add(call)
    call.add_done_callback(run._calls.pending.discard)
    run.start()
    await asyncio.wait_for(bench.waiting.wait(), LIMIT)
    run.cancel(Cancelled())
    if returns:
        for _ in range(10):
            await asyncio.sleep(0)
        assert not run.ended.done()
        call.set_result(None)
    await finish(run)
    assert run.record.error
    assert ("may still be running" in run.record.error["message"]) != returns


async def test_a_lost_cancel_is_repeated_at_the_next_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "CANCEL_AGAIN", -1)
    bench = Bench()

    async def losing() -> Events:
        with suppress(asyncio.CancelledError):
            bench.waiting.set()
            await asyncio.Event().wait()
        yield DATA
        await asyncio.Event().wait()

    run = await bench.run(losing)
    run.start()
    await asyncio.wait_for(bench.waiting.wait(), LIMIT)
    run.cancel(Cancelled())
    await finish(run)
    assert run.record.status == "cancelled"


async def test_a_lost_cancel_is_repeated_after_the_grace() -> None:
    bench = Bench()

    async def losing() -> Events:
        yield DATA
        with suppress(asyncio.CancelledError):
            bench.waiting.set()
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    run = await bench.run(losing, cancel_grace=0.01)
    run.start()
    await asyncio.wait_for(bench.waiting.wait(), LIMIT)
    chain = run._producer
    assert chain
    run.cancel(Cancelled())
    await finish(run)
    await asyncio.wait({chain}, timeout=LIMIT)
    assert chain.done()


async def test_a_run_has_a_time_limit_and_its_own_sync_calls() -> None:
    found = []

    async def waiting() -> Events:
        found.append(current_calls.get())
        yield DATA
        await asyncio.Event().wait()

    run = await Bench().run(waiting, timeout=0.01)
    run.start()
    await finish(run)
    assert found == [run._calls]
    assert run.record.error
    assert run.record.error["code"] == "timeout"


async def test_a_failed_chain_does_not_wait_for_its_sync_calls() -> None:
    async def failing() -> Events:
        yield DATA
        raise ValueError("failed")

    run = await Bench().run(failing)
    run._calls.pending.add(Future())
    run.start()
    await finish(run)
    assert run.record.status == "error"


async def test_a_chain_that_ends_after_its_run_ends_it_once() -> None:
    bench, late = Bench(), asyncio.Event()

    async def ignoring() -> Events:
        yield DATA
        bench.waiting.set()
        while not late.is_set():
            with suppress(asyncio.CancelledError):
                await late.wait()

    run = await bench.run(ignoring, cancel_grace=0.01)
    run.start()
    await asyncio.wait_for(bench.waiting.wait(), LIMIT)
    (chain,) = (task for task in asyncio.all_tasks() if task.get_name() == "chain of run r")
    run.cancel(Cancelled())
    await finish(run)
    assert run.record.error
    assert "may still be running" in run.record.error["message"]
    assert chain in producers._abandoned  # the event loop itself keeps no task
    before = await bench.blocks()
    late.set()
    await asyncio.wait({chain}, timeout=LIMIT)
    await asyncio.sleep(0)  # what follows the chain's end is called
    assert (chain.done(), run.given_up, run.outcome and run.outcome.status) == (True, False, "cancelled")
    assert await bench.blocks() == before


class Unspeakable(Exception):
    """An exception whose own text cannot be made."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Unreadable(Exception):
    """An exception whose cause cannot be read."""

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise ValueError("no cause")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("half \ud83d"), "half ?"),
        (Unspeakable(), "Internal Server Error"),
        (Unreadable(), "Internal Server Error"),
        (ServeError(object()), "Internal Server Error"),  # type: ignore[arg-type]
        (ServeError([{"loc": ("\ud83d",), "msg": "m", "type": "t"}]), "?: m"),
    ],
)
async def test_an_error_that_has_no_text_ends_its_run(
    caplog: pytest.LogCaptureFixture, error: Exception, message: str
) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest's workers cannot send the text of such a record
    bench = Bench()

    async def fail() -> Events:
        yield DATA
        raise error

    run = await bench.run(fail)
    run.call.expose_errors = True
    run.start()
    await finish(run)
    assert (run.record.status, run.record.error and run.record.error["message"]) == ("error", message)
    assert b"event: error" in (await bench.blocks())[-1]


async def test_a_run_whose_end_cannot_be_stored_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(FailingStore(at=3))
    given_up: list[str] = []
    bench.store.give_up = given_up.append  # type: ignore[method-assign]

    async def one() -> Events:
        yield DATA

    run = await bench.run(one)
    run.start()
    await finish(run)
    assert (run.given_up, given_up) == (True, ["r"])
    (record,) = (record for record in caplog.records if "given up" in record.message)
    assert (vars(record)["run_id"], vars(record)["chain"]) == ("r", "c")
