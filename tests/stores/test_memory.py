"""The store in memory: what it forgets."""

from __future__ import annotations

import pytest

from streamserve.stores import MemoryStore, Outcome, RunRecord, memory
from streamserve.stores.bounds import Bounds
from tests.conformance.stores import Clock

DONE = Outcome("done")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(Bounds(retention=100.0, tombstone=1000.0), clock=clock)


async def an_ended_run(store: MemoryStore, run_id: str, thread: str | None = None) -> None:
    await store.acquire(RunRecord(run_id, "chain", "stream", "ann", created_at=1.0, thread=thread))
    await store.append(run_id, 1, 1, [b"x"], DONE)


async def test_past_their_maximum_the_oldest_tombstones_go(
    store: MemoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MAX_TOMBSTONES", 2)
    for number in range(3):
        await an_ended_run(store, f"run-{number}")
    for number in range(2):
        await store.purge(f"run-{number}")
    await store.reap(clock.now)
    assert [await store.get(f"run-{number}") is not None for number in range(3)] == [True, True, True]
    await store.purge("run-2")
    await store.reap(clock.now)
    assert [await store.get(f"run-{number}") is not None for number in range(3)] == [False, True, True]


async def test_a_forgotten_run_leaves_its_thread(store: MemoryStore, clock: Clock) -> None:
    await an_ended_run(store, "ended", "thread")
    await store.acquire(RunRecord("live", "chain", "stream", "ann", created_at=1.0, thread="thread"))
    clock.now += 100
    await store.reap(clock.now)
    clock.now += 1000
    await store.reap(clock.now)
    assert await store.get("ended") is None
    following = RunRecord("next", "chain", "stream", "ann", created_at=1.0, thread="thread")
    assert await store.ahead(following) == ["live"]
    await store.append("live", 1, 1, [b"x"], DONE)
    await store.purge("live")
    assert await store.ahead(following) == []
    assert not store._threads  # nothing is left of a thread without runs


async def test_a_reader_that_leaves_twice_leaves_the_others_alone(store: MemoryStore) -> None:
    await store.acquire(RunRecord("run", "chain", "stream", "ann", created_at=1.0))
    woken: list[int] = []
    leave = store.subscribe("run", lambda: woken.append(1))
    store.subscribe("run", lambda: woken.append(2))
    leave()
    leave()
    await store.append("run", 1, 1, [b"x"])
    assert woken == [2]
    store.subscribe("unknown", lambda: woken.append(3))()


async def test_no_run_in_memory_is_read_or_lost_elsewhere(store: MemoryStore) -> None:
    await store.acquire(RunRecord("run", "chain", "stream", "ann", created_at=1.0))
    await store.set_reading("run", True)
    store.give_up("run")
    assert await store.is_read_elsewhere("run") is False
    assert await store.take_over_lost() == []
