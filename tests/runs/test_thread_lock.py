"""The lock of a thread: a run waits for the runs ahead, and is a run while it holds the lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest

from streamserve.call import Call
from streamserve.errors import Cancelled, ThreadBusy
from streamserve.runs import thread_lock
from streamserve.runs.runs import Runs
from streamserve.runs.thread_lock import acquire, of_call, of_run, on_thread
from streamserve.settings import Settings
from streamserve.stores import Fenced, MemoryStore, Outcome, RunRecord, StoreDown
from tests.runs.support import LIMIT
from tests.runs.test_run import HeldStore


def run_of(run_id: str) -> RunRecord:
    """Return a run on the one thread of these tests."""
    return RunRecord(run_id, "c", "invoke", "p", created_at=0, thread="t")


class WatchedStore(MemoryStore):
    """A store that counts the questions for runs ahead, and the readers that have not left."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.subscribers = 0
        self.cancels: list[str] = []
        self.on_cancel = self.cancels.append

    async def ahead(self, run: RunRecord) -> list[str]:
        self.asked += 1
        return await super().ahead(run)

    def subscribe(self, run_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        self.subscribers += 1
        leave = super().subscribe(run_id, wake)

        def unsubscribe() -> None:
            self.subscribers -= 1
            leave()

        return unsubscribe

    async def end(self, run_id: str, outcome: Outcome) -> None:
        """End a run."""
        await self.append(run_id, 1, 1, [b"end"], outcome)


@pytest.fixture
async def store() -> WatchedStore:
    store = WatchedStore()
    await store.acquire(run_of("first"))
    await store.acquire(run_of("second"))
    return store


async def turns() -> None:
    """Let the other tasks continue."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_queued_run_waits_for_the_run_ahead(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_lock, "PAUSE", 0)
    waiting = asyncio.create_task(acquire(store, run_of("second"), "enqueue"))
    await turns()
    assert (waiting.done(), store.asked, store.subscribers) == (False, 1, 1)
    await store.end("first", Outcome("cancelled"))
    async with asyncio.timeout(LIMIT):
        assert await waiting == []
    assert (store.asked, store.subscribers, store.cancels) == (2, 0, [])


async def test_the_queue_is_not_polled_for_every_block(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_lock, "PAUSE", LIMIT)
    waiting = asyncio.create_task(acquire(store, run_of("second"), "enqueue"))
    await turns()
    await store.append("first", 1, 1, [b"a"])
    await turns()
    assert store.asked == 1
    waiting.cancel()
    await asyncio.wait({waiting})
    assert store.subscribers == 0


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
@pytest.mark.parametrize(("status", "stopped"), [("cancelled", ["first"]), ("done", []), (None, ["first"])])
async def test_a_run_learns_which_runs_it_stopped(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch, strategy: Any, status: Any, stopped: list[str]
) -> None:
    monkeypatch.setattr(thread_lock, "PAUSE", 0)
    waiting = asyncio.create_task(acquire(store, run_of("second"), strategy))
    await turns()
    assert store.cancels == ["first"]
    await store.end("first", Outcome(status or "done"))
    if status is None:  # dropped meanwhile
        monkeypatch.setattr(store, "get", AsyncMock(return_value=None))
    async with asyncio.timeout(LIMIT):
        assert await waiting == stopped


async def test_a_queued_run_waits_for_a_store_that_is_away(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_lock, "POLL_INTERVAL", 0)
    away = True
    ahead = store.ahead

    def back() -> None:
        nonlocal away
        away = False

    async def maybe(run: RunRecord) -> list[str]:
        if away:
            raise StoreDown("away")
        return await ahead(run)

    monkeypatch.setattr(store, "ahead", maybe)
    asyncio.get_running_loop().call_later(0, back)
    async with asyncio.timeout(LIMIT), of_run(store, run_of("first"), "enqueue")("t", "first") as stopped:
        assert stopped == []


@pytest.fixture
async def runs() -> Runs:
    return Runs(Settings(_env_file=None), MemoryStore())


async def test_reject_refuses_a_busy_thread(runs: Runs) -> None:
    async with on_thread(runs, run_of("first"), "reject"):
        with pytest.raises(ThreadBusy):
            async with on_thread(runs, run_of("second"), "reject"):
                pass
        second = asyncio.create_task(holding(runs, "third", asyncio.Event()))
        await turns()
        assert not second.done()
        second.cancel()
        await asyncio.wait({second})


async def holding(runs: Runs, run_id: str, holds: asyncio.Event) -> None:
    """Hold the lock until the task is cancelled."""
    async with on_thread(runs, run_of(run_id), "enqueue"):
        holds.set()
        await asyncio.Event().wait()


async def status_of(runs: Runs, run_id: str) -> tuple[str, Any]:
    record = await runs.store.get(run_id)
    assert record
    return record.status, record.error and record.error["code"]


async def test_a_cancelled_call_ends_its_run_and_its_task_goes_on(runs: Runs) -> None:
    task = asyncio.current_task()
    assert task

    async def cancelled() -> None:
        async with on_thread(runs, run_of("first"), "enqueue"):
            await runs.store.request_cancel("first")
            await runs.store.request_cancel("first")
            await asyncio.Event().wait()

    with pytest.raises(Cancelled):
        await cancelled()
    assert (task.cancelling(), await status_of(runs, "first")) == (0, ("cancelled", "cancelled"))


async def test_a_failure_after_a_cancel_is_the_failure(runs: Runs) -> None:
    async def failing() -> None:
        async with on_thread(runs, run_of("first"), "enqueue"):
            await runs.store.request_cancel("first")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                asyncio.current_task().uncancel()  # type: ignore[union-attr]
                raise ZeroDivisionError from None

    with pytest.raises(ZeroDivisionError):
        await failing()
    assert await status_of(runs, "first") == ("error", "internal")


@pytest.mark.parametrize(("draining", "end"), [(False, ("cancelled", "cancelled")), (True, ("error", "shutting_down"))])
async def test_a_caller_that_leaves_ends_its_run(runs: Runs, draining: bool, end: tuple[str, str]) -> None:
    holds = asyncio.Event()
    task = asyncio.create_task(holding(runs, "first", holds))
    await holds.wait()
    runs.draining = draining
    task.cancel()
    await asyncio.wait({task})
    assert (task.cancelled(), await status_of(runs, "first")) == (True, end)


async def test_a_cancel_while_the_end_is_stored_is_too_late() -> None:
    store = HeldStore()
    runs = Runs(Settings(_env_file=None), store)

    async def short() -> str:
        async with on_thread(runs, run_of("first"), "enqueue"):
            return "answer"

    task = asyncio.create_task(short())
    await turns()
    assert store.held
    await store.request_cancel("first")
    await turns()
    assert not task.done()
    store.release()
    assert await task == "answer"
    assert await status_of(runs, "first") == ("done", None)


@pytest.mark.parametrize(("failure", "given_up"), [(Fenced("first"), []), (OSError("full"), ["first"])])
async def test_an_end_that_is_not_stored_gives_its_run_up(runs: Runs, failure: Exception, given_up: list[str]) -> None:
    def fail(*_append: Any) -> int:
        raise failure

    found: list[str] = []
    runs.store.append_now = fail  # type: ignore[attr-defined]
    runs.store.give_up = found.append  # type: ignore[method-assign]
    async with on_thread(runs, run_of("first"), "enqueue"):
        pass
    assert found == given_up


@pytest.mark.parametrize(("principal", "stored"), [("ann", "ann"), (None, "")])
async def test_a_call_is_a_run_of_its_principal(runs: Runs, principal: str | None, stored: str) -> None:
    call = Call(chain="c", principal=principal)
    async with of_call(runs, call, "invoke", "enqueue")("t", "r") as stopped:
        record = await runs.store.get("r")
    assert record
    assert (stopped, record.principal, record.endpoint) == ([], stored, "invoke")
