"""Readers and the runs that they leave: a run is cancelled only while nobody reads it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streamserve.call import Call
from streamserve.errors import RunTimeout, TooManyReaders
from streamserve.runs import readers as reading
from streamserve.runs.readers import Readers
from streamserve.runs.run import Events
from streamserve.runs.runs import Runs
from streamserve.settings import Settings
from streamserve.stores import Fenced, MemoryStore, RunRecord, StoreDown
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
    yield {"event": "data", "data": b"1"}
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


@pytest.mark.parametrize(
    "news",
    [lambda runs: runs.store.on_readers("r"), lambda runs: runs._readers.adopt_run("r")],
    ids=["they left", "taken over"],
)
async def test_a_run_read_elsewhere_continues_until_news(bench: Any, news: Callable[[Runs], None]) -> None:
    runs, store, record = bench
    (await store.asked.get()).set_result(True)
    await asyncio.gather(*runs._readers._background)
    assert not record.ended
    news(runs)
    (await store.asked.get()).set_result(False)
    await runs._live["r"].run.ended
    assert record.status == "cancelled"


async def test_a_run_may_end_while_the_store_is_asked(bench: Any) -> None:
    runs, store, record = bench
    answer = await store.asked.get()
    assert len(runs._readers._background) == 1  # the event loop itself keeps no task
    run = runs._live["r"].run
    runs.end_all(RunTimeout())
    await run.ended
    assert runs._live == {}
    answer.set_result(False)
    await asyncio.gather(*runs._readers._background)
    await asyncio.sleep(0)
    assert not runs._readers._background  # nothing is kept of it
    store.on_readers("r")
    assert record.error is not None
    assert record.error["code"] == "timeout"


async def test_news_of_other_readers_is_nothing_to_a_read_run(bench: Any) -> None:
    runs, store, record = bench
    (await store.asked.get()).set_result(True)
    with runs.reading("r", lambda: None):
        store.on_readers("r")
        assert not runs._live["r"].is_waiting
    (await store.asked.get()).set_result(False)
    await runs._live["r"].run.ended
    assert record.status == "cancelled"


class SharedStore(MemoryStore):
    """A store with runs of other processes, which are told of readers here."""

    immediate = False

    def __init__(self) -> None:
        super().__init__()
        self.told: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    async def set_reading(self, run_id: str, reading: bool) -> None:
        self.told.put_nowait((run_id, reading))


@pytest.fixture
def shared() -> tuple[Readers, SharedStore]:
    store = SharedStore()
    return Readers(store, {}, 2), store


async def told(store: SharedStore) -> tuple[str, bool]:
    async with asyncio.timeout(LIMIT):
        return await store.told.get()


async def in_a_task(readers: Readers, run_id: str) -> tuple[asyncio.Task[None], asyncio.Event]:
    reads, leave = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        with readers.reading(run_id, leave.set):
            reads.set()
            await leave.wait()

    task = asyncio.create_task(read())
    async with asyncio.timeout(LIMIT):
        await reads.wait()
    return task, leave


async def test_the_owner_elsewhere_is_told_of_first_and_last_reader(shared: Any) -> None:
    readers, store = shared
    first, leave_first = await in_a_task(readers, "r")
    assert await told(store) == ("r", True)
    second, leave_second = await in_a_task(readers, "r")
    assert (len(readers), readers.tasks) == (2, {first, second})
    leave_first.set()
    await first
    with readers.reading("other", lambda: None):
        assert await told(store) == ("other", True)  # nothing of `r` before it
    assert await told(store) == ("other", False)
    leave_second.set()
    await second
    assert await told(store) == ("r", False)
    assert len(readers._counts) == 0  # nothing is kept of a run that nobody reads


async def test_a_run_has_a_maximum_of_readers(shared: Any) -> None:
    readers, _ = shared
    readers_of_r = [await in_a_task(readers, "r") for _ in range(2)]
    with pytest.raises(TooManyReaders), readers.reading("r", lambda: None):
        pass
    readers.drop_all()
    for task, _ in readers_of_r:
        await task
    assert len(readers) == 0


async def test_a_reader_stops_the_timer_of_its_run() -> None:
    runs = Runs(Settings(_env_file=None, orphan_grace=LIMIT))
    record = RunRecord("r", "c", "stream", "p", created_at=0, key="k")
    await runs.start(record, waiting(), Call("r"), timeout=None, on_disconnect="cancel")
    live = runs._live["r"]
    for _ in range(2):
        with runs.reading("r", lambda: None):
            assert not live.is_waiting
        assert live.is_waiting
    runs.end_all(reading.Cancelled())
    await live.run.ended
    assert not live.is_waiting


async def test_a_run_that_changes_its_owner_takes_its_readers_along() -> None:
    store, live = SharedStore(), dict[str, Any]()
    readers = Readers(store, live, 2)
    readers.owner_changed("r")
    readers.adopt_run("r")
    with readers.reading("r", lambda: None):
        assert await told(store) == ("r", True)
        readers.owner_changed("r")
        assert await told(store) == ("r", True)
        live["r"] = None
        readers.adopt_run("r")
        assert await told(store) == ("r", False)


async def test_a_reader_from_before_the_start_is_none_elsewhere() -> None:
    store = SharedStore()
    runs = Runs(Settings(_env_file=None), store)
    record = RunRecord("r", "c", "stream", "p", created_at=0, key="k")
    async with asyncio.timeout(LIMIT):
        with runs.reading("r", lambda: None):
            assert await told(store) == ("r", True)
            await runs.start(record, waiting(), Call("r"), timeout=None, on_disconnect="cancel")
            assert await told(store) == ("r", False)
        runs.end_all(reading.Cancelled())
        await asyncio.gather(*(live.run.ended for live in runs._live.values()))


async def test_a_reader_that_leaves_at_once_is_not_stored(shared: Any) -> None:
    readers, store = shared
    with readers.reading("r", lambda: None):
        pass  # the tasks that store this may run in any order
    assert [await told(store), await told(store)] == [("r", False)] * 2


async def test_an_outage_while_readers_change_is_logged(shared: Any, caplog: pytest.LogCaptureFixture) -> None:
    readers, store = shared

    async def away(run_id: str, reading: bool) -> None:
        store.told.put_nowait((run_id, reading))
        raise StoreDown("away")

    store.set_reading = away
    with readers.reading("r", lambda: None):
        assert await told(store) == ("r", True)
    assert await told(store) == ("r", False)
    assert "a change of readers is not stored yet" in caplog.text


async def test_readers_are_made_known_after_an_outage(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "OUTAGE_PAUSE", 0.01)
    readers, store = shared
    set_reading, tries = store.set_reading, asyncio.Queue[bool]()

    async def away(_run_id: str, is_read: bool) -> None:
        tries.put_nowait(is_read)
        raise StoreDown("away")

    async with asyncio.timeout(LIMIT):
        store.set_reading = away
        with readers.reading("r", lambda: None):
            assert await tries.get()
            store.set_reading = set_reading
            assert await told(store) == ("r", True)
            store.set_reading = away
        assert not await tries.get()
        store.set_reading = set_reading
        assert await told(store) == ("r", False)


async def test_what_was_said_of_readers_in_an_outage_is_out_of_date(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "OUTAGE_PAUSE", 0.01)
    readers, store = shared
    set_reading, tried = store.set_reading, asyncio.Event()

    async def away(_run_id: str, _is_read: bool) -> None:
        store.set_reading = set_reading
        tried.set()
        raise StoreDown("away")

    store.set_reading = away
    with readers.reading("r", lambda: None):
        async with asyncio.timeout(LIMIT):
            await tried.wait()
    assert [await told(store), await told(store)] == [("r", False)] * 2


async def test_a_server_that_stops_makes_no_readers_known_again(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "OUTAGE_PAUSE", 0.01)
    readers, store = shared

    async def away(run_id: str, is_read: bool) -> None:
        store.told.put_nowait((run_id, is_read))
        raise StoreDown("away")

    store.set_reading = away
    with readers.reading("r", lambda: None):
        assert await told(store) == ("r", True)
        readers.drop_all()
        await asyncio.gather(*readers._background)
    assert await told(store) == ("r", False)
    await asyncio.gather(*readers._background)
    assert store.told.empty()


async def test_a_run_given_up_tells_its_next_owner_of_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SharedStore()
    runs = Runs(Settings(_env_file=None), store)
    record = RunRecord("r", "c", "stream", "p", created_at=0)
    await runs.start(record, waiting(), Call("r"), timeout=None, on_disconnect="cancel")
    with runs.reading("r", lambda: None):
        monkeypatch.setattr(store, "post", lambda *append: append[-1](Fenced("r")))
        runs.end_all(reading.Cancelled())
        assert await told(store) == ("r", True)
    assert await told(store) == ("r", False)
