"""The reaper: a fault of one part of a poll, or of one lost run, holds up nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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


async def test_a_lost_run_that_cannot_be_recovered_holds_up_no_other() -> None:
    store = FaultyStore()
    for run_id in ("odd", "unstored", "lost"):
        record, _ = await store.acquire(a_run(run_id))
        store.lost.append(record)
    store._entries["unstored"].record.attempt = 2  # another owner has it by now
    async with polling(store, LostRuns(store, 3, recover)):
        await store.reaped.get()
    statuses = {run_id: store._entries[run_id].record.status for run_id in ("odd", "lost")}
    assert statuses == {"odd": "lost", "lost": "lost"}


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
