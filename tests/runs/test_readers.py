"""Readers and the runs that they leave: a run is cancelled only while nobody reads it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamserve.call import Call
from streamserve.runs import readers as reading
from streamserve.runs.run import Events
from streamserve.runs.runs import Runs
from streamserve.settings import Settings
from streamserve.stores import MemoryStore, RunRecord, StoreDown
from tests.runs.support import LIMIT


class SlowStore(MemoryStore):
    """A store that answers the question for readers elsewhere when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: asyncio.Queue[asyncio.Future[bool]] = asyncio.Queue()

    async def is_read_elsewhere(self, run_id: str) -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        return await answer


async def waiting() -> Events:
    yield {"event": "data", "data": "1"}
    await asyncio.Event().wait()


@pytest.fixture
async def bench() -> AsyncIterator[tuple[Runs, SlowStore, RunRecord]]:
    store = SlowStore()
    runs = Runs(Settings(_env_file=None, orphan_grace=0.01), store)
    record = RunRecord("r", "c", "stream", "p", created_at=0, key="k")
    async with asyncio.timeout(LIMIT):
        await runs.start(record, waiting(), Call("r"), timeout=None, on_disconnect="cancel")
        with runs.reading("r", lambda: None):
            pass
        yield runs, store, record
        runs.end_all(reading.Cancelled())
        await asyncio.gather(*(live.run.ended for live in runs._live.values()))


async def test_a_reader_that_returns_meanwhile_keeps_its_run(bench: Any) -> None:
    runs, store, record = bench
    answer = await store.asked.get()
    with runs.reading("r", lambda: None):
        answer.set_result(False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert runs._live["r"].run._reason is None
    (await store.asked.get()).set_result(False)
    await runs._live["r"].run.ended
    assert record.status == "cancelled"


async def test_a_reader_that_came_and_left_has_its_time_to_return(bench: Any) -> None:
    runs, store, _ = bench
    answer = await store.asked.get()
    with runs.reading("r", lambda: None):
        pass
    answer.set_result(False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert runs._live["r"].run._reason is None
    (await store.asked.get()).set_result(False)
    await runs._live["r"].run.ended


async def test_a_store_that_is_away_is_asked_again(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, store, record = bench
    monkeypatch.setattr(reading, "OUTAGE_PAUSE", 0.01)
    (await store.asked.get()).set_exception(StoreDown("away"))
    (await store.asked.get()).set_result(False)
    await runs._live["r"].run.ended
    assert record.status == "cancelled"
