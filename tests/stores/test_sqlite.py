"""Test SQLite alone: several stores on one file, also in two processes; a full disk; a restart; the file's size."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from streamserve.stores import Fenced, Outcome, RunRecord, StoreDown
from streamserve.stores.base import Slice
from streamserve.stores.sqlite import SqliteStore, compactor, schema, session
from tests.conformance.machine import Follower
from tests.limits import LIMIT
from tests.stores.place import Place, opened
from tests.stores.sqlite_worker import block, start_worker

LEASE = 10.0
DONE = Outcome("done")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "folder" / "runs.sqlite", LEASE)


@pytest.fixture(autouse=True)
async def limited() -> AsyncIterator[None]:
    async with asyncio.timeout(LIMIT):
        yield


def a_run(run_id: str, key: str | None = None) -> RunRecord:
    return RunRecord(run_id, "chain", "stream", "ann", created_at=1.0, key=key)


async def read_to_end(store: SqliteStore, run_id: str) -> list[bytes]:
    follower = Follower(store, run_id)
    while True:
        await follower.catch_up()
        record = await store.get(run_id)
        if record is not None and record.ended and len(follower.blocks) >= record.last_id:
            follower.unsubscribe()
            return follower.blocks
        await follower.woken.wait()


async def heard(set_up: Callable[[Callable[[str], None]], None]) -> asyncio.Queue[str]:
    queue: asyncio.Queue[str] = asyncio.Queue()
    set_up(queue.put_nowait)
    return queue


async def test_a_reader_elsewhere_gets_each_block_once_in_order(one: SqliteStore, other: SqliteStore) -> None:
    await one.acquire(a_run("run"))
    reading = asyncio.create_task(read_to_end(other, "run"))
    for seq in range(1, 301):
        await one.append("run", 1, seq, [b"%d" % seq], DONE if seq == 300 else None)
    assert await reading == [b"%d" % seq for seq in range(1, 301)]


async def test_a_key_used_in_two_stores_at_once_makes_one_run(one: SqliteStore, other: SqliteStore) -> None:
    found = await asyncio.gather(*(store.acquire(a_run(f"{id(store)}", "key")) for store in (one, other)))
    assert sorted(new for _, new in found) == [False, True]
    assert found[0][0].run_id == found[1][0].run_id


async def test_a_cancel_reaches_the_owner_in_another_store(one: SqliteStore, other: SqliteStore) -> None:
    cancelled = await heard(lambda hear: setattr(one, "on_cancel", hear))
    await one.acquire(a_run("run"))
    await other.request_cancel("run")
    assert await cancelled.get() == "run"


async def test_the_owner_learns_when_readers_elsewhere_come_and_leave(one: SqliteStore, other: SqliteStore) -> None:
    changed = await heard(lambda hear: setattr(one, "on_readers", hear))
    await one.acquire(a_run("run"))
    for reading in (True, False):
        await other.set_reading("run", reading)
        assert await changed.get() == "run"
        assert await one.is_read_elsewhere("run") is reading
    await other.set_reading("run", True)
    assert await changed.get() == "run"
    assert not await other.is_read_elsewhere("run")


async def test_readers_of_a_worker_that_died_do_not_count(one: SqliteStore, other: SqliteStore, place: Place) -> None:
    changed = await heard(lambda hear: setattr(one, "on_readers", hear))
    await one.acquire(a_run("run"))
    await other.set_reading("run", True)
    assert await changed.get() == "run"
    place.clock.now += LEASE + 1
    assert not await one.is_read_elsewhere("run")
    await one.take_over_lost()
    assert await changed.get() == "run"


async def test_lost_runs_are_handed_out_once_and_their_owner_is_fenced(
    one: SqliteStore, other: SqliteStore, place: Place
) -> None:
    await one.acquire(a_run("run"))
    await one.append("run", 1, 1, [b"a", b"b"])
    place.clock.now += LEASE + 1
    async with place.store() as third:
        taken = [
            record for found in await asyncio.gather(other.take_over_lost(), third.take_over_lost()) for record in found
        ]
        assert [(record.run_id, record.attempt, record.last_id) for record in taken] == [("run", 2, 2)]
        with pytest.raises(Fenced):
            await one.append("run", 1, 3, [b"late"])
        taker = other if "run" in other._own else third
        await taker.append("run", 2, 3, [b"lost"], Outcome("lost"))
    assert await one.read("run", 0, 10) == Slice([b"a", b"b", b"lost"], True)


async def test_a_worker_that_wakes_before_a_takeover_continues(
    one: SqliteStore, other: SqliteStore, place: Place
) -> None:
    await one.acquire(a_run("run"))
    place.clock.now += LEASE + 1
    assert await one.take_over_lost() == []
    assert await one.append("run", 1, 1, [b"a"]) == 2
    assert await other.take_over_lost() == []


async def test_a_worker_that_was_found_dead_serves_new_runs(one: SqliteStore, other: SqliteStore, place: Place) -> None:
    place.clock.now += LEASE + 1
    await other.take_over_lost()
    await one.acquire(a_run("new"))
    assert await one.append("new", 1, 1, [b"a"]) == 2
    assert await other.take_over_lost() == []


async def test_closing_a_store_loses_live_runs_and_keeps_ended_ones(other: SqliteStore, place: Place) -> None:
    async with place.store() as store:
        await store.acquire(a_run("live"))
        await store.acquire(a_run("ended"))
        await store.append("ended", 1, 1, [b"a", b"b"], DONE)
    assert [record.run_id for record in await other.take_over_lost()] == ["live"]
    assert await other.read("ended", 0, 10) == Slice([b"a", b"b"], True)


async def test_a_run_of_another_process_is_followed_and_cancelled(one: SqliteStore, place: Place) -> None:
    process = start_worker(place.path, 1)
    try:
        assert process.stdout is not None
        run_id = (await asyncio.to_thread(process.stdout.readline)).split()[0]
        follower = Follower(one, run_id)
        while len(follower.blocks) < 100:
            await follower.catch_up()
            await follower.woken.wait()
        assert follower.blocks == [block(run_id, seq) for seq in range(1, len(follower.blocks) + 1)]
        await one.request_cancel(run_id)
        lines = await asyncio.to_thread(lambda: list(iter(process.stdout.readline, f"{run_id} cancelled\n")))
        assert lines
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return the maximum of the file's pages, which a test lowers: the disk is then full."""
    allowed = [1 << 30]

    def bounded(path: Path) -> sqlite3.Connection:
        connection = schema.connect(path)
        connection.execute(f"PRAGMA max_page_count = {allowed[0]}")
        return connection

    monkeypatch.setattr(session, "connect", bounded)
    return allowed


async def test_a_store_on_a_full_disk_is_down_until_there_is_room(pages: list[int], place: Place) -> None:
    async with place.store() as store:
        await store.acquire(a_run("run"))
        await store.append("run", 1, 1, [b"kept"])
        pages[0] = 1  # SQLite raises it to the present size
        store._writer._transactions.drop()
        with pytest.raises(StoreDown, match="full"):
            await store.append("run", 1, 2, [b"x" * 100_000])
        with pytest.raises(StoreDown, match="full"):
            await store.check()
        assert await store.read("run", 0, 10) == Slice([b"kept"], False)
        pages[0] = 1 << 30
        assert await store.append("run", 1, 2, [b"x" * 100_000], DONE) == 3
        await store.check()


async def test_a_run_given_up_during_an_outage_is_lost_after_it(pages: list[int], tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path / "runs.sqlite", lease=0.5)) as store:
        await store.acquire(a_run("run"))
        pages[0] = 1
        store._writer._transactions.drop()
        with pytest.raises(StoreDown, match="full"):
            await store.append("run", 1, 1, [b"x" * 100_000])
        store.give_up("run")
        pages[0] = 1 << 30
        taken = await store.take_over_lost()
        assert [(record.run_id, record.attempt) for record in taken] == [("run", 2)]


async def test_a_run_whose_storing_failed_late_is_lost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = session.WriteSession.commit

    def commit_and_fail(writer: session.WriteSession) -> None:
        commit(writer)
        raise sqlite3.OperationalError("disk I/O error")

    async with place.store() as store:
        with monkeypatch.context() as faulty:
            faulty.setattr(session.WriteSession, "commit", commit_and_fail)
            with pytest.raises(StoreDown):
                await store.acquire(a_run("run"))
        assert [record.run_id for record in await store.take_over_lost()] == ["run"]


async def test_a_store_on_a_locked_file_is_down_until_it_is_free(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
    async with place.store() as store:
        await store.acquire(a_run("run"))
        with closing(sqlite3.connect(place.path, isolation_level=None)) as hog:
            hog.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreDown, match="locked"):
                await store.append("run", 1, 1, [b"a"])
            hog.execute("ROLLBACK")
        assert await store.append("run", 1, 1, [b"a"]) == 2


async def test_a_purged_run_leaves_no_blocks_in_the_file(one: SqliteStore, other: SqliteStore, place: Place) -> None:
    blocks = [b"block %d, much like the others" % number for number in range(1000)]
    await one.acquire(a_run("run"))
    for first in range(0, 1000, 10):
        await one.append("run", 1, first + 1, blocks[first : first + 10], DONE if first == 990 else None)
    assert stored(place.path) == (100, sum(map(len, blocks)))
    for store in (one, other):
        assert await store.read("run", 0, 2000) == Slice(blocks, True)
        assert await store.read("run", 333, 100) == Slice(blocks[333:433], False)
    await one.purge("run")
    assert stored(place.path) == (0, 0)


def stored(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as connection:
        row: tuple[int, int] = connection.execute(
            "SELECT count(*), coalesce(sum(length(data)), 0) FROM blocks"
        ).fetchone()
        return row


async def test_runs_written_together_read_apart_after_each_compaction(
    one: SqliteStore, other: SqliteStore, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compactor, "MIN_LOG", 0)
    blocks = [b"%d" % number for number in range(100)]
    await one.acquire(a_run("run"))
    await one.acquire(a_run("dropped"))
    for seq, each in enumerate(blocks, 1):
        await asyncio.gather(*(one.append(run_id, 1, seq, [each]) for run_id in ("run", "dropped")))
        if seq % 30 == 0:
            await (one, other)[seq % 2]._compact()
            assert await other.read("run", 0, 200) == Slice(blocks[:seq], False)
            assert await other.read("run", seq - 2, 200) == Slice(blocks[seq - 2 : seq], False)
            found = await other.get("run")
            assert found is not None
            assert found.last_id == seq
    await one.append("dropped", 1, 101, [b"end"], DONE)
    await one.purge("dropped")
    await one._compact()
    await one.append("run", 1, 101, [b"end"], DONE)
    assert await read_to_end(other, "run") == [*blocks, b"end"]
    with closing(sqlite3.connect(place.path)) as connection:
        assert connection.execute("SELECT DISTINCT run_id FROM blocks JOIN runs ON run = number").fetchall() == [
            ("run",)
        ]


async def test_a_subscriber_of_another_store_learns_of_a_purge(
    one: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one.acquire(a_run("run"))
    await one.append("run", 1, 1, [b"a"])
    follower = Follower(other, "run")
    await follower.catch_up()
    with monkeypatch.context() as blind:  # the end comes and goes between two polls
        blind.setattr(other._follower, "_poll", lambda _connection: None)
        await one.append("run", 1, 2, [b"b"], DONE)
        await one.purge("run")
    while await other.read("run", 1, 10) != Slice((), True):
        await follower.woken.wait()
        follower.woken.clear()
    follower.unsubscribe()


async def test_a_late_reader_gets_an_ended_run_block_by_block(
    one: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other._follower, "_poll", lambda _connection: None)  # nothing comes but by reads
    await one.acquire(a_run("run"))
    await one.append("run", 1, 1, [b"a", b"b", b"c"], DONE)
    leave = other.subscribe("run", lambda: None)
    assert [await other.read("run", after, 1) for after in range(4)] == [
        *(Slice([block], False) for block in (b"a", b"b")),
        *(Slice([b"c"], True), Slice([], True)),
    ]
    leave()


async def test_checkpoints_bound_the_log(one: SqliteStore, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "MIN_LOG", 2**16)
    monkeypatch.setattr(compactor, "MAX_LOG", 2**18)
    log = place.path.with_name("runs.sqlite-wal")
    await one.acquire(a_run("run"))
    for seq in range(1, 41):
        await one.append("run", 1, seq, [b"x" * 2**15])
        await one._compact()
        assert log.stat().st_size < 2**19


async def test_a_file_of_another_version_is_left_alone(place: Place) -> None:
    place.path.parent.mkdir()
    with closing(sqlite3.connect(place.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreDown, match="version 99"):
        async with place.store():
            pass


async def test_blocks_of_a_worker_that_was_found_dead_are_not_stored(
    place: Place, one: SqliteStore, other: SqliteStore
) -> None:
    await one.acquire(a_run("run"))
    await one.append("run", 1, 1, [b"first"])
    place.clock.now += 2 * LEASE
    assert [run.run_id for run in await other.take_over_lost()] == ["run"]
    await other.append("run", 2, 2, [b"lost"], Outcome("lost"))
    # All three come in the transaction in which the worker finds out.
    late, _, known = await asyncio.gather(
        one.append("run", 1, 2, [b"late"]), one.set_reading("another", True), one.get("run"), return_exceptions=True
    )
    assert isinstance(late, Fenced)
    assert isinstance(known, RunRecord)
    assert await read_to_end(other, "run") == [b"first", b"lost"]
    await one.acquire(a_run("next"))
    assert await one.append("next", 1, 1, [b"goes on"]) == 2
