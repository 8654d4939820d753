"""The writer: blocks on their way to a slow store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from streamserve.runs import writer as writing
from streamserve.runs.writer import Writer
from streamserve.stores import Fenced, Gap, MemoryStore, Outcome, RunRecord, StoreDown, UnknownRun
from streamserve.stores.base import Stored
from streamserve.stores.sqlite import SqliteStore
from tests.limits import LIMIT

DONE = Outcome("done")


class GatedStore(SqliteStore):
    """A store whose appends wait for a gate, and fail on demand."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = asyncio.Event()
        self.sizes: list[int] = []
        self.firsts: list[int] = []
        self.tries: asyncio.Queue[int] = asyncio.Queue()
        self.failures: list[Exception] = []
        self.posts: set[asyncio.Task[None]] = set()

    def post(
        self,
        run_id: str,
        attempt: int,
        first_seq: int,
        blocks: Sequence[bytes],
        outcome: Outcome | None,
        stored: Stored,
    ) -> None:
        task = asyncio.create_task(self._post_later(run_id, attempt, first_seq, blocks, outcome, stored))
        self.posts.add(task)

    async def _post_later(self, *append: Any) -> None:
        await self.gate.wait()
        self.sizes.append(len(append[3]))
        self.firsts.append(append[2])
        self.tries.put_nowait(append[2])
        if self.failures:
            append[-1](self.failures.pop(0))
        else:
            super().post(*append)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[GatedStore]:
    store = GatedStore(tmp_path / "runs.sqlite")
    await store.open()
    yield store
    await store.close()


class ObservedWriter(Writer):
    """A writer that keeps the exceptions that ended its writing."""

    def __init__(self, record: RunRecord, store: GatedStore, patience: float, **options: Any) -> None:
        self.failed: list[Exception] = []
        self.has_failed = asyncio.Event()
        super().__init__(record, store, patience, self.note, **options)

    def note(self, failure: Exception) -> None:
        self.failed.append(failure)
        self.has_failed.set()


async def writer_of(store: GatedStore, **options: Any) -> ObservedWriter:
    record = RunRecord(run_id="run", chain="c", endpoint="stream", principal="p", created_at=0)
    stored, _ = await store.acquire(record)
    return ObservedWriter(stored, store, options.pop("patience", LIMIT), **options)


async def test_a_block_is_shown_only_once_it_is_stored(store: GatedStore) -> None:
    writer = await writer_of(store)
    woken = asyncio.Event()
    unsubscribe = store.subscribe("run", woken.set)
    writer.write(b"a")
    assert (await store.read("run", 0, 10)).blocks in ([], ())
    store.gate.set()
    async with asyncio.timeout(LIMIT):
        while True:
            woken.clear()  # before the read, so that a block between the two is not missed
            if (await store.read("run", 0, 10)).blocks:
                break
            await woken.wait()
    unsubscribe()
    writer.close()


async def test_without_strictness_only_the_terminal_is_delayed(store: GatedStore) -> None:
    writer = await writer_of(store, strict=False)
    unsubscribe = store.subscribe("run", lambda: None)
    writer.write(b"a")
    assert list((await store.read("run", 0, 10)).blocks) == [b"a"]
    ending = asyncio.create_task(writer.finish(b"end", DONE))
    await asyncio.sleep(0)
    assert list((await store.read("run", 0, 10)).blocks) == [b"a"]
    store.gate.set()
    async with asyncio.timeout(LIMIT):
        await ending
    blocks, at_end = await store.read("run", 0, 10)
    assert (list(blocks), at_end) == ([b"a", b"end"], True)
    unsubscribe()


async def test_blocks_during_an_append_go_into_the_next_append(store: GatedStore) -> None:
    writer = await writer_of(store)
    writer.write(b"0")
    await asyncio.sleep(0)
    for number in range(1, 50):
        writer.write(b"%d" % number)
    store.gate.set()
    async with asyncio.timeout(LIMIT):
        await writer.finish(b"end", DONE)
    assert sum(store.sizes) == 51
    assert len(store.sizes) <= 3
    assert list((await store.read("run", 0, 100)).blocks) == [*(b"%d" % number for number in range(50)), b"end"]


async def test_a_short_outage_of_the_store_loses_no_block(store: GatedStore) -> None:
    store.failures = [StoreDown("away"), StoreDown("away")]
    store.gate.set()
    writer = await writer_of(store)
    writer.write(b"a")
    async with asyncio.timeout(LIMIT):
        await writer.finish(b"end", DONE)
    assert list((await store.read("run", 0, 10)).blocks) == [b"a", b"end"]


@pytest.mark.parametrize("failure", [StoreDown("away"), Fenced("run")])
async def test_a_failure_between_two_blocks_is_reported(store: GatedStore, failure: Exception) -> None:
    store.failures = [failure] * 100
    store.gate.set()
    writer = await writer_of(store, patience=0)
    writer.write(b"a")
    with pytest.raises(type(failure)):
        async with asyncio.timeout(LIMIT):
            await writer.finish(b"end", DONE)
    assert [type(error) for error in writer.failed] == [type(failure)]


async def test_a_gap_is_closed_from_the_first_missing_block(store: GatedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "HIGH_WATER", 0)  # `drain` waits for each block
    store.gate.set()
    writer = await writer_of(store)
    async with asyncio.timeout(LIMIT):
        for block in (b"a", b"b"):
            writer.write(block)
            await writer.drain()
        store.failures = [Gap(2)]  # the store lost the second block
        await writer.finish(b"end", DONE)
    assert store.firsts == [1, 2, 3, 2]
    assert list((await store.read("run", 0, 10)).blocks) == [b"a", b"b", b"end"]
    assert writer.failed == []


PATIENCE = 100.0


@pytest.fixture
async def leap(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that moves the event loop's clock on by a share of the writer's patience."""
    loop = asyncio.get_running_loop()
    real, moved = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: real() + moved[0])

    def move(share: float) -> None:
        moved[0] += share * PATIENCE

    return move


async def test_patience_is_counted_from_the_first_try(store: GatedStore, leap: Callable[[float], None]) -> None:
    store.failures = [StoreDown("away")] * 100
    writer = await writer_of(store, patience=PATIENCE)
    writer.write(b"a")
    await asyncio.sleep(0)
    leap(0.6)  # while the store does not answer
    store.gate.set()
    for _ in range(2):
        await store.tries.get()
        assert writer.failed == []
        leap(0.3)
    await writer.has_failed.wait()
    assert [type(error) for error in writer.failed] == [StoreDown]
    with pytest.raises(StoreDown):
        await writer.finish(b"end", DONE)


async def test_an_outage_that_has_ended_costs_no_patience(
    store: GatedStore, leap: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "HIGH_WATER", 0)
    store.gate.set()
    writer = await writer_of(store, patience=PATIENCE)
    for block in (b"a", b"b"):
        store.failures = [StoreDown("away")]
        writer.write(block)
        await store.tries.get()
        leap(0.6)
        await writer.drain()
        await store.tries.get()
    leap(0.6)
    await writer.finish(b"end", DONE)
    assert writer.failed == []


async def test_each_outage_has_its_own_patience(
    store: GatedStore, leap: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "HIGH_WATER", 0)
    store.gate.set()
    store.failures = [StoreDown("away")]
    writer = await writer_of(store, patience=PATIENCE)
    writer.write(b"a")
    await writer.drain()
    leap(0.9)
    store.failures = [StoreDown("away")] * 100
    writer.write(b"b")
    for _ in range(3):
        await store.tries.get()
    leap(0.9)
    await store.tries.get()
    assert writer.failed == []
    leap(0.2)
    await writer.has_failed.wait()
    monkeypatch.setattr(writing, "HIGH_WATER", 100)
    assert writer.write(b"c")  # the chain must wait, and hears of the failure
    with pytest.raises(StoreDown):
        await writer.drain()


async def test_the_time_of_each_append_is_told(
    store: GatedStore, leap: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "HIGH_WATER", 0)
    writer = await writer_of(store, patience=10 * PATIENCE)
    told: list[float] = []
    writer.on_stored = told.append
    for _ in range(2):
        store.gate.clear()
        store.failures = [StoreDown("away")]  # counts, too
        writer.write(b"a")
        leap(0.6)
        store.gate.set()
        await writer.drain()
        leap(0.6)
    assert [seconds // (0.6 * PATIENCE) for seconds in told] == [1, 1]
    writer.close()


async def test_a_chain_waits_above_the_high_water_mark_only(store: GatedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = await writer_of(store)
    monkeypatch.setattr(writing, "HIGH_WATER", 1)
    assert [writer.write(b"a"), writer.write(b"b")] == [False, True]
    store.gate.set()
    async with asyncio.timeout(LIMIT):
        await writer.drain()
        monkeypatch.setattr(writing, "HIGH_WATER", 0)
        await writer.drain()
    monkeypatch.setattr(writing, "HIGH_WATER", 1)
    assert not writer.write(b"c")
    writer.close()


async def test_a_chain_never_waits_for_a_store_in_memory() -> None:
    store = MemoryStore()
    record, _ = await store.acquire(RunRecord("run", "c", "stream", "p", created_at=0))
    writer = Writer(record, store, LIMIT, lambda _failure: None)
    assert not writer.write(b"a")
    await writer.finish(b"end", DONE)
    assert (record.last_id, writer.next_seq) == (2, 3)


async def test_a_finish_waits_for_the_terminal(store: GatedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = await writer_of(store)
    ending = asyncio.create_task(writer.finish(b"end", DONE))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not ending.done()
    store.gate.set()
    async with asyncio.timeout(LIMIT):
        await ending


async def test_a_closed_writer_tries_no_more(store: GatedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "RETRY_PAUSE", 0)
    store.failures = [StoreDown("away")] * 1000
    store.gate.set()
    writer = await writer_of(store)
    writer.write(b"a")
    async with asyncio.timeout(LIMIT):
        await store.tries.get()
        await store.tries.get()
    deadline = writer._deadline
    writer.close()
    for _ in range(50):
        await asyncio.sleep(0)
    assert store.tries.qsize() <= 1  # one was under way
    assert deadline
    assert deadline.cancelled()
    assert writer.failed == []


async def test_a_closed_writer_stores_no_run_again(store: GatedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    restoring, ended = asyncio.Event(), asyncio.Event()

    async def restore(_run: RunRecord) -> None:
        restoring.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(store, "restore", restore)
    store.failures = [UnknownRun("run")]
    store.gate.set()
    writer = await writer_of(store)
    writer.write(b"a")
    async with asyncio.timeout(LIMIT):
        await restoring.wait()
        writer.close()
        await ended.wait()


@pytest.mark.parametrize("faults", [[], [StoreDown("away")]], ids=["at once", "after an outage"])
async def test_a_run_that_the_store_lost_is_stored_again(
    store: GatedStore, faults: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "HIGH_WATER", 0)
    restored: list[str] = []

    async def restore(run: RunRecord) -> None:
        if faults:
            store.failures = [UnknownRun("run")]  # still, at the next try
            raise faults.pop()
        restored.append(run.run_id)

    monkeypatch.setattr(store, "restore", restore)
    store.gate.set()
    writer = await writer_of(store)
    async with asyncio.timeout(LIMIT):
        writer.write(b"a")
        await writer.drain()
        store.failures = [UnknownRun("run")]
        await writer.finish(b"end", DONE)
    assert (restored, store.firsts[-2:], writer.failed) == (["run"], [2, 1], [])


async def test_a_run_that_cannot_be_stored_again_fails(store: GatedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def restore(_run: RunRecord) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(store, "restore", restore)
    store.gate.set()
    store.failures = [UnknownRun("run")]
    writer = await writer_of(store)
    async with asyncio.timeout(LIMIT):
        with pytest.raises(OSError, match="full"):
            await writer.finish(b"end", DONE)
    assert [type(error) for error in writer.failed] == [OSError]
