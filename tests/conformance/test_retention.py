"""Check the bounds of ended runs: every store keeps the newest, and forgets the others in the order of their end."""

from __future__ import annotations

import pytest

from streamserve.stores import Outcome, RunStore
from tests.conformance.stores import DONE, Options, a_run, an_ended_run


async def kept(store: RunStore, *run_ids: str) -> list[str]:
    """Return those of the runs that have ended and whose blocks are kept."""
    records = [await store.get(run_id) for run_id in run_ids]
    return [record.run_id for record in records if record is not None and record.ended and not record.purged]


async def test_the_oldest_ended_runs_go_first_when_there_are_too_many(store: RunStore) -> None:
    for number in range(4):
        await an_ended_run(store, f"run-{number}")
    records = [await store.get(f"run-{number}") for number in range(4)]
    assert [record and record.purged for record in records] == [True, False, False, False]


async def test_the_oldest_ended_runs_go_first_when_they_are_too_large(store: RunStore) -> None:
    await an_ended_run(store, "small", 40)
    await an_ended_run(store, "large", 90)
    assert list((await store.read("small", 0, 10)).blocks) == []
    assert (await store.read("large", 0, 10)).blocks == [b"x" * 90]


async def test_a_store_counts_its_ended_runs_and_their_bytes(store: RunStore, options: Options) -> None:
    assert store.retained == (0, 0)
    await store.acquire(a_run("live"))
    await store.append("live", 1, 1, [b"x" * 10])
    for number, size in enumerate((10, 20, 30)):
        await an_ended_run(store, f"run-{number}", size)
    await store.reap(options.clock.now)
    assert store.retained == (3, 60)
    await store.purge("run-1")
    await store.reap(options.clock.now)
    assert store.retained == (2, 40)


async def test_a_store_counts_the_bytes_of_outputs(store: RunStore, options: Options) -> None:
    await store.acquire(a_run("run"))
    for _ in range(2):  # the reply to the first may have been lost
        await store.append("run", 1, 1, [b"x" * 10], Outcome("done", output=b"y" * 7))
    await store.reap(options.clock.now)
    assert store.retained == (1, 17)
    await store.purge("run")
    await store.reap(options.clock.now)
    assert store.retained == (0, 0)


async def test_a_live_run_is_never_dropped(store: RunStore, options: Options) -> None:
    await store.acquire(a_run("live"))
    await store.append("live", 1, 1, [b"x" * 1000])
    for number in range(4):
        await an_ended_run(store, f"run-{number}")
    options.clock.now += 10 * (options.bounds.retention + options.bounds.tombstone)
    await store.reap(options.clock.now)
    await store.purge("live")
    assert await store.read("live", 0, 10) == ([b"x" * 1000], False)


async def test_a_tombstone_stays_and_frees_its_key(store: RunStore, options: Options) -> None:
    await an_ended_run(store, "run", key="key")
    options.clock.now += options.bounds.retention
    await store.reap(options.clock.now)
    record = await store.get("run")
    assert record is not None
    assert (record.purged, record.last_id, record.status) == (True, 1, "done")
    assert (await store.acquire(a_run("next", "key")))[1]
    options.clock.now += options.bounds.tombstone
    await store.reap(options.clock.now)
    assert await store.get("run") is None


@pytest.mark.parametrize(
    ("sizes", "left"),
    [
        ([150], [0]),  # the newest is kept whatever its size
        ([40, 60], [0, 1]),
        ([40, 61], [1]),
        ([60, 5, 40], [1, 2]),
        ([30, 30, 30, 90], [3]),
        ([1, 1, 1], [0, 1, 2]),
    ],
    ids=str,
)
async def test_no_more_runs_are_dropped_than_needed(store: RunStore, sizes: list[int], left: list[int]) -> None:
    for number, size in enumerate(sizes):
        await an_ended_run(store, f"run-{number}", size)
    assert await kept(store, *(f"run-{number}" for number in range(len(sizes)))) == [f"run-{number}" for number in left]


async def test_runs_are_dropped_in_the_order_of_their_end(store: RunStore, options: Options) -> None:
    names = [f"run-{number}" for number in range(8)]
    for name in names:
        await store.acquire(a_run(name))
    for count, name in enumerate(reversed(names), 1):
        await store.append(name, 1, 1, [b"x"], DONE)
        await store.reap(options.clock.now)
        assert await kept(store, *names) == names[-count:][:3]


async def test_a_reader_of_a_dropped_run_sees_its_end(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    store.subscribe("run", lambda: None)
    await store.append("run", 1, 1, [b"a", b"b"], DONE)
    assert await store.read("run", 0, 1) == ([b"a"], False)
    await store.purge("run")
    blocks, at_end = await store.read("run", 1, 10)
    assert (list(blocks), at_end) == ([], True)


async def test_many_expired_runs_are_dropped_at_once(store: RunStore, options: Options) -> None:
    object.__setattr__(options.bounds, "max_runs", 1000)
    object.__setattr__(options.bounds, "max_bytes", 10_000)
    names = [f"run-{number}" for number in range(230)]
    for name in names:
        await an_ended_run(store, name)
    await store.acquire(a_run("live"))
    assert len(await kept(store, *names)) == len(names)
    options.clock.now += options.bounds.retention
    await store.reap(options.clock.now)
    assert await kept(store, *names) == []
    live = await store.get("live")
    assert live is not None
    assert live.purged is False
    assert store.retained == (0, 0)
    options.clock.now += options.bounds.tombstone - 1
    await store.reap(options.clock.now)
    assert await store.get(names[0]) is not None
    options.clock.now += 1
    await store.reap(options.clock.now)
    assert [name for name in names if await store.get(name) is not None] == []
