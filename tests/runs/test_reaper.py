"""The reaper: a fault of one part of a poll, or of one lost run, holds up nothing else."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from streamserve.runs import reaper as reaping
from streamserve.runs.lost import LostRuns
from streamserve.runs.reaper import Reaper
from streamserve.stores import MemoryStore, RunRecord, StoreDown
from tests.runs.support import LIMIT


def a_run(run_id: str) -> RunRecord:
    return RunRecord(run_id, "c", "stream", "p", created_at=0, request=b"{}")


class FaultyStore(MemoryStore):
    """A store with lost runs, of which each method may have a fault."""

    def __init__(self, *faulty: str) -> None:
        super().__init__()
        self._faulty = faulty
        self.lost: list[RunRecord] = []
        self.reaped: asyncio.Queue[float] = asyncio.Queue()

    async def take_over_lost(self) -> list[RunRecord]:
        self._fail("take_over_lost")
        lost, self.lost = self.lost, []
        return lost

    async def reap(self, now: float) -> None:
        self.reaped.put_nowait(now)
        self._fail("reap")

    def _fail(self, name: str) -> None:
        if name in self._faulty:
            raise ZeroDivisionError(name)


@asynccontextmanager
async def polling(store: FaultyStore, lost: LostRuns) -> AsyncIterator[Reaper]:
    reaper = Reaper(store, lost, LIMIT, lambda: False)
    task = asyncio.create_task(reaper.run())
    try:
        async with asyncio.timeout(LIMIT):
            yield reaper
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaping, "POLL_INTERVAL", 0.01)


async def recover(record: RunRecord) -> bool:
    if record.run_id == "odd":
        raise ZeroDivisionError("recover")
    return record.run_id != "lost"


@pytest.mark.parametrize("faulty", ["take_over_lost", "reap"])
async def test_a_fault_of_a_poll_does_not_end_the_polls(faulty: str) -> None:
    store = FaultyStore(faulty)
    async with polling(store, LostRuns(store, 3, recover)) as reaper:
        for _ in range(3):
            await store.reaped.get()
    assert not reaper.store_down


async def test_a_lost_run_that_cannot_be_recovered_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    store = FaultyStore()
    for run_id in ("odd", "unstored", "lost", "fine"):
        record, _ = await store.acquire(a_run(run_id))
        store.lost.append(record)
    store._entries["unstored"].record.attempt = 2  # another owner has it by now
    async with polling(store, LostRuns(store, 3, recover)):
        await store.reaped.get()
    statuses = {run_id: store._entries[run_id].record.status for run_id in ("odd", "lost", "fine")}
    assert statuses == {"odd": "lost", "lost": "lost", "fine": "queued"}
    told = {(vars(record)["run_id"], vars(record)["chain"]) for record in caplog.records}
    assert told == {(run_id, "c") for run_id in ("odd", "unstored", "lost", "fine")}


class Recovery:
    """A recovery that notes the runs that it gets, and is without the store at the first one."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.asked: list[str] = []

    async def __call__(self, record: RunRecord) -> bool:
        self.asked.append(record.run_id)
        if self.away:
            self.away = False
            raise StoreDown("away")
        return True


async def lost_in(store: FaultyStore, run_id: str, **fields: Any) -> RunRecord:
    """Return the record of a lost run."""
    record, _ = await store.acquire(a_run(run_id))
    for name, value in fields.items():
        setattr(record, name, value)
    store.lost.append(record)
    return record


async def test_a_lost_run_is_recovered_once_and_not_too_often() -> None:
    store, recovery = FaultyStore(), Recovery()
    lost = LostRuns(store, 3, recovery)
    await lost_in(store, "second", attempt=2)
    await lost_in(store, "third", attempt=3)
    fourth = await lost_in(store, "fourth", attempt=4)
    bare = await lost_in(store, "bare", request=None)
    await lost.take_over()
    for _ in range(2):
        await lost.recover_or_end()
    assert recovery.asked == ["second", "third"]
    assert (fourth.status, bare.status) == ("lost", "lost")


async def test_a_cancelled_lost_run_is_ended() -> None:
    store, recovery = FaultyStore(), Recovery()
    lost = LostRuns(store, 3, recovery)
    await lost_in(store, "other")
    cancelled = await lost_in(store, "cancelled")
    await lost.take_over()
    lost.cancel("cancelled")
    await lost.recover_or_end()
    assert (recovery.asked, cancelled.status) == (["other"], "lost")


async def test_a_lost_run_waits_for_the_store_to_return() -> None:
    store, recovery = FaultyStore(), Recovery(away=True)
    lost = LostRuns(store, 3, recovery)
    record = await lost_in(store, "waiting")
    await lost.take_over()
    with pytest.raises(StoreDown):
        await lost.recover_or_end()
    await lost.recover_or_end()
    assert (recovery.asked, record.status) == (["waiting", "waiting"], "queued")


async def test_the_terminal_of_a_lost_run_follows_its_last_block() -> None:
    store = FaultyStore()
    record = await lost_in(store, "lost", request=None)
    await store.append("lost", 1, 1, [b"a"])
    lost = LostRuns(store, 3, Recovery())
    await lost.take_over()
    await lost.recover_or_end()
    assert (await store.read("lost", 0, 9)).blocks[1].startswith(b"id: 2\nevent: error\n")
    assert record.last_id == 2


class Outage(FaultyStore):
    """A store that is away until the test says otherwise."""

    is_away = True

    async def take_over_lost(self) -> list[RunRecord]:
        self.reaped.put_nowait(0)
        return await super().take_over_lost()

    def _fail(self, name: str) -> None:
        if self.is_away:
            raise StoreDown("away")

    async def check(self) -> None:
        self._fail("check")


async def test_a_store_is_missed_once_patience_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(reaping, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    store = Outage()
    async with polling(store, LostRuns(store, 3, recover)) as reaper:
        assert not await reaper.is_without_store()
        await store.reaped.get()
        now[0] = 100 + LIMIT
        await store.reaped.get()
        assert reaper.store_down
        assert not await reaper.is_without_store()
        now[0] += 1
        await store.reaped.get()
        assert await reaper.is_without_store()
        store.is_away = False
        assert not await reaper.is_without_store()
        for _ in range(4):  # each poll takes over and reaps
            await store.reaped.get()
        assert not reaper.store_down


async def test_a_process_that_shuts_down_takes_nothing_over() -> None:
    store = FaultyStore("take_over_lost")
    record = await lost_in(store, "lost", request=None)
    reaper = Reaper(store, LostRuns(store, 3, recover), LIMIT, lambda: True)
    task = asyncio.create_task(reaper.run())
    async with asyncio.timeout(LIMIT):
        await store.reaped.get()
    task.cancel()
    await asyncio.wait({task})
    assert (store.lost, record.ended) == ([record], False)


async def test_a_run_waits_for_a_store_that_is_away() -> None:
    store = FaultyStore()
    record, _ = await store.acquire(a_run("lost"))
    store.lost.append(record)
    away = asyncio.Event()

    async def unreachable(_record: RunRecord) -> bool:
        if not away.is_set():
            away.set()
            raise StoreDown("away")
        return False

    async with polling(store, LostRuns(store, 3, unreachable)):
        await store.reaped.get()
    assert record.status == "lost"
