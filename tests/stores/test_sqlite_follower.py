"""Readers and owners in several stores on one file: what reaches whom, and how often the file is asked for it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamserve.stores import Fenced, Gap, Outcome, StoreDown
from streamserve.stores.base import Slice
from streamserve.stores.sqlite import SqliteStore, follower, schema, takeover
from streamserve.stores.sqlite import store as store_module
from streamserve.stores.sqlite.reads import ReadSession
from streamserve.stores.sqlite.session import WriteSession
from tests.conformance.machine import Follower
from tests.conformance.stores import DONE, a_run
from tests.limits import LIMIT
from tests.stores.place import Place

LEASE = 1_000.0  # no heartbeat disturbs


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "runs.sqlite", LEASE)


@pytest.fixture(autouse=True)
async def limited() -> AsyncIterator[None]:
    async with asyncio.timeout(LIMIT):
        yield


async def reaches(reader: Follower, count: int) -> None:
    """Wait until a reader has this number of blocks."""
    while len(reader.blocks) < count:
        await reader.woken.wait()
        await reader.catch_up()


def heard(store: SqliteStore, name: str) -> asyncio.Queue[str]:
    queue: asyncio.Queue[str] = asyncio.Queue()
    setattr(store, name, queue.put_nowait)
    return queue


class Counted:
    """Counts the calls of a method, and goes on with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._changed = threading.Event()
        call = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(args)
            self._changed.set()
            return call(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    async def reach(self, count: int) -> None:
        """Wait until there were this number of calls."""
        while len(self.calls) < count:
            self._changed.clear()
            await asyncio.to_thread(self._changed.wait, LIMIT)


async def test_a_late_reader_is_woken_without_a_further_block(one: SqliteStore, other: SqliteStore) -> None:
    await one.acquire(a_run("run"))
    await one.append("run", 1, 1, [b"a", b"b"])
    await other.check()
    reader = Follower(other, "run")
    await reader.woken.wait()
    await reader.catch_up()
    assert reader.blocks == [b"a", b"b"]


async def test_an_end_without_a_new_block_reaches_readers(one: SqliteStore, other: SqliteStore) -> None:
    await one.acquire(a_run("run"))
    reader = Follower(other, "run")
    await one.append("run", 1, 1, [b"end"])
    await reaches(reader, 1)
    await one.append("run", 1, 1, [b"end"], DONE)
    while await other.read("run", 1, 10) != Slice([], True):
        await reader.woken.wait()
        reader.woken.clear()


async def test_each_piece_is_taken_once(one: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[str, int]] = []
    take = other._take

    def counted(pieces: Any, signals: Any) -> None:
        taken.extend((piece.run_id, piece.first_seq) for piece in pieces)
        take(pieces, signals)

    monkeypatch.setattr(other._follower, "_on_news", counted)
    for run_id in ("a", "b", "unread"):
        await one.acquire(a_run(run_id))
    first, unknown = Follower(other, "a"), Follower(other, "unknown")
    for seq in range(1, 6):
        for run_id in ("a", "unread"):
            await one.append(run_id, 1, seq, [b"x"])
        await reaches(first, seq)
    second = Follower(other, "b")
    for seq in range(1, 6):
        await one.append("b", 1, seq, [b"y"])
        await one.append("a", 1, seq + 5, [b"x"])
        await reaches(second, seq)
        await reaches(first, seq + 5)
    first.unsubscribe()
    await asyncio.sleep(0)
    for seq in range(6, 9):
        await one.append("a", 1, seq + 5, [b"x"])
        await one.append("b", 1, seq, [b"y"])
        await reaches(second, seq)
    assert sorted(set(taken)) == sorted(taken)
    assert {run_id for run_id, _ in taken} == {"a", "b"}
    assert {seq for run_id, seq in taken if run_id == "a"} <= set(range(1, 12))
    second.unsubscribe()
    unknown.unsubscribe()


async def test_each_signal_is_taken_once(one: SqliteStore, other: SqliteStore) -> None:
    readers, cancels = heard(one, "on_readers"), heard(one, "on_cancel")
    await one.acquire(a_run("run"))
    for reading in (True, False, True):
        await other.set_reading("run", reading)
        assert await readers.get() == "run"
    await other.request_cancel("run")
    assert await cancels.get() == "run"
    assert (readers.empty(), cancels.empty()) == (True, True)


async def test_an_idle_follower_rests(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    polls = Counted(monkeypatch, follower.Follower, "_poll")
    renewals = Counted(monkeypatch, WriteSession, "renew")
    async with place.store() as store, place.store() as busy:
        await busy.acquire(a_run("run"))
        await store.acquire(a_run("own"))
        await store.append("own", 1, 1, [b"x"], DONE)
        await polls.reach(4)
        known = len(polls.calls)
        busy._follower._wanted, busy._follower._listening = frozenset(), False  # only the other one counts
        for seq in range(1, 31):
            await busy.append("run", 1, seq, [b"x"])
            await busy._reader.do(ReadSession.get, "run")
        assert len(polls.calls) <= known + 30 + 4 + 4
        assert len(renewals.calls) == 2  # at the start


@pytest.mark.parametrize("reads", [False, True], ids=["own run", "run of another"])
async def test_a_follower_rests_between_two_polls(
    one: SqliteStore, other: SqliteStore, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "SIGNAL_PAUSE", LIMIT)
    monkeypatch.setattr(follower, "FOLLOW_PAUSE", LIMIT)
    await one.acquire(a_run("run"))
    polls = Counted(monkeypatch, other._follower, "_poll")
    if reads:
        other.subscribe("run", lambda: None)
    else:
        await other.acquire(a_run("own"))
    await polls.reach(1)
    for seq in range(1, 31):
        await one.append("run", 1, seq, [b"x"])
        await other.check()
    assert len(polls.calls) <= 3


async def test_an_unchanged_file_is_not_searched(
    one: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "SIGNAL_PAUSE", 0.0001)
    searches = Counted(monkeypatch, other._follower, "_new_pieces")
    connections = Counted(monkeypatch, follower, "connect")
    await other.acquire(a_run("own"))
    polls = Counted(monkeypatch, other._follower, "_poll")
    await polls.reach(30)
    assert len(searches.calls) <= 3
    await one.acquire(a_run("run"))
    await polls.reach(60)
    assert len(searches.calls) <= 5
    assert connections.calls == []


async def test_a_follower_that_fails_goes_on_with_a_new_connection(
    one: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "FAILURE_PAUSE", LIMIT)
    await one.acquire(a_run("run"))
    failed: list[sqlite3.Connection] = []
    poll, found = other._follower._poll, threading.Event()

    def fail_once(connection: sqlite3.Connection) -> None:
        if failed:
            return poll(connection)
        failed.append(connection)
        found.set()
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(other._follower, "_poll", fail_once)
    reader = Follower(other, "run")
    assert await asyncio.to_thread(found.wait, LIMIT)
    for seq in range(1, 4):
        await one.append("run", 1, seq, [b"x"])
        other._follower._changed.set()  # instead of the pause
        await reaches(reader, seq)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        failed[0].execute("SELECT 1")


async def test_a_failing_follower_rests(one: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "FAILURE_PAUSE", LIMIT)

    def fail(_connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(other._follower, "_poll", fail)
    polls = Counted(monkeypatch, other._follower, "_poll")
    await one.acquire(a_run("run"))
    other.subscribe("run", lambda: None)
    await polls.reach(1)
    for seq in range(1, 31):
        await one.append("run", 1, seq, [b"x"])
    assert len(polls.calls) <= 3


async def test_a_reader_that_has_caught_up_asks_the_file_no_more(one: SqliteStore, other: SqliteStore) -> None:
    await one.acquire(a_run("run"))
    await one.append("run", 1, 1, [b"a", b"b"])
    other.subscribe("run", lambda: None)
    other._follower.follow(frozenset(), listening=False)
    assert await other.read("run", 30, 10) == Slice([], False)  # beyond the end
    assert await other.read("run", 0, 10) == Slice([b"a", b"b"], False)
    await other._reader.stop()
    assert await other.read("run", 2, 10) == Slice([], False)
    assert await other.read("run", 1, 10) == Slice([b"b"], False)
    other._reader = store_module.DatabaseThread("store reader", lambda: ReadSession(other._path))


async def test_a_reader_with_a_small_limit_gets_all_blocks(one: SqliteStore, other: SqliteStore) -> None:
    await one.acquire(a_run("run"))
    await one.append("run", 1, 1, [b"%d" % number for number in range(7)])
    other.subscribe("run", lambda: None)
    for limit in (1, 2, 3, 7):
        found: list[bytes] = []
        while blocks := (await other.read("run", len(found), limit)).blocks:
            found += blocks
        assert found == [b"%d" % number for number in range(7)]


async def test_nothing_is_followed_that_nobody_reads_or_that_has_ended(
    one: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    follows: list[tuple[frozenset[str], bool]] = []
    monkeypatch.setattr(other._follower, "follow", lambda runs, *, listening: follows.append((runs, listening)))
    for run_id in ("a", "b", "ended"):
        await one.acquire(a_run(run_id))
        await one.append(run_id, 1, 1, [b"x"], DONE if run_id == "ended" else None)
    leave = [other.subscribe(run_id, lambda: None) for run_id in ("a", "b", "ended")]
    await asyncio.sleep(0)
    assert follows == [(frozenset({"a", "b", "ended"}), False)]  # once for all three
    assert await other.read("ended", 0, 10) == Slice([b"x"], True)
    leave[0]()
    await asyncio.sleep(0)
    assert follows[1:] == [(frozenset({"b"}), False)]
    await other.acquire(a_run("own"))
    await asyncio.sleep(0)
    assert follows[-1] == (frozenset({"b"}), True)
    other.subscribe("own", lambda: None)
    await other.append("own", 1, 1, [b"x"], DONE)
    await asyncio.sleep(0)
    assert follows[-1] == (frozenset({"b"}), False)
    await one.purge("ended")
    await one.set_reading("b", True)
    leave[2]()
    assert not other._ended - {"own"}
    assert not other._dropped


async def test_a_dropped_run_is_forgotten_with_its_last_reader(one: SqliteStore) -> None:
    await one.acquire(a_run("run"))
    leave = one.subscribe("run", lambda: None)
    await one.append("run", 1, 1, [b"x"], DONE)
    await one.purge("run")
    assert await one.read("run", 0, 10) == Slice((), True)
    assert one._dropped == {"run"}
    leave()
    assert (one._dropped, one._ended, one._own) == (set(), set(), {})


async def test_an_append_that_fails_leaves_the_run_to_its_owner(one: SqliteStore, other: SqliteStore) -> None:
    cancels = heard(one, "on_cancel")
    await one.acquire(a_run("run"))
    with pytest.raises(Gap):
        await one.append("run", 1, 3, [b"c"])
    await other.request_cancel("run")
    assert await cancels.get() == "run"
    one.give_up("run")
    assert [run.attempt for run in await one.take_over_lost()] == [2]
    with pytest.raises(Fenced):
        await one.append("run", 1, 1, [b"late"])
    await other.request_cancel("run")
    assert await cancels.get() == "run"


async def test_a_former_owner_reads_on_and_the_new_one_is_told(
    one: SqliteStore, other: SqliteStore, place: Place
) -> None:
    cancels = heard(other, "on_cancel")
    await one.acquire(a_run("run"))
    reader = Follower(one, "run")
    await one.append("run", 1, 1, [b"a"])
    place.clock.now += LEASE + 1
    assert [run.run_id for run in await other.take_over_lost()] == ["run"]
    with pytest.raises(Fenced):
        await one.append("run", 1, 2, [b"late"])
    await one.request_cancel("run")
    assert await cancels.get() == "run"
    await other.append("run", 2, 2, [b"lost"], Outcome("lost"))
    await reaches(reader, 2)
    assert reader.blocks == [b"a", b"lost"]


async def test_readers_of_a_silent_owner_follow_the_next_one(
    one: SqliteStore, other: SqliteStore, place: Place
) -> None:
    await one.acquire(a_run("run"))
    reader = Follower(one, "run")
    place.clock.now += LEASE + 1
    assert [run.run_id for run in await other.take_over_lost()] == ["run"]
    await one.acquire(a_run("new"))
    await one._renew()
    assert set(one._own) == {"new"}
    await other.append("run", 2, 1, [b"lost"], Outcome("lost"))
    await reaches(reader, 1)
    assert await one.read("run", 0, 10) == Slice([b"lost"], True)


async def test_a_worker_that_wakes_has_its_readers_again(one: SqliteStore, other: SqliteStore, place: Place) -> None:
    await one.acquire(a_run("run"))
    await other.set_reading("run", True)
    await other.set_reading("left", True)
    await other.set_reading("left", False)
    place.clock.now += LEASE + 1
    await one.take_over_lost()
    await other.check()
    assert await one.is_read_elsewhere("run")
    assert not await one.is_read_elsewhere("left")


async def test_runs_that_one_takeover_leaves_are_taken_by_the_next(
    one: SqliteStore, other: SqliteStore, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "MAX_RUNS", 1)
    for run_id in ("a", "b"):
        await one.acquire(a_run(run_id))
    place.clock.now += LEASE + 1
    assert [run.run_id for run in await other.take_over_lost()] == ["a"]
    await one.check()  # it wakes, under a new name
    assert [run.run_id for run in await other.take_over_lost()] == ["b"]
    assert await other.take_over_lost() == []


async def test_others_have_time_to_renew_their_leases_after_an_outage(
    one: SqliteStore, other: SqliteStore, place: Place
) -> None:
    await other.acquire(a_run("run"))
    await one.acquire(a_run("own"))
    place.clock.now += LEASE + 1
    one._writer._transactions.drop()  # as after a failure
    one.give_up("own")
    assert [run.run_id for run in await one.take_over_lost()] == ["own"]
    for seconds, lost in ((LEASE / 2 - 1, []), (1, ["run"])):
        place.clock.now += seconds
        assert [run.run_id for run in await one.take_over_lost()] == lost


async def test_a_first_block_and_a_new_run_begin_at_once(one: SqliteStore) -> None:
    acquiring = asyncio.create_task(one.acquire(a_run("run")))
    await asyncio.sleep(0)  # the task has begun
    assert one._writer._posted == []
    await acquiring
    answers: asyncio.Queue[int | Exception] = asyncio.Queue()
    one.post("run", 1, 1, [b"a"], None, answers.put_nowait)
    assert one._writer._posted == []
    one.post("run", 1, 2, [b"b"], None, answers.put_nowait)
    assert len(one._writer._posted) == 1  # later ones of a turn go together
    assert [await answers.get(), await answers.get()] == [2, 3]


async def test_heartbeats_and_checkpoints_go_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "RENEWALS", 1e5)
    monkeypatch.setattr(store_module, "COMPACT_PAUSE", 0.01)
    renewals = Counted(monkeypatch, WriteSession, "renew")
    rounds = Counted(monkeypatch, store_module.Compactor, "compact")
    async with place.store() as store:
        await renewals.reach(4)
        await rounds.reach(3)
        with monkeypatch.context() as broken:  # a failure ends neither
            broken.setattr(store, "_compact", None)
            broken.setattr(WriteSession, "commit", None)
            await renewals.reach(len(renewals.calls) + 2)
        await renewals.reach(len(renewals.calls) + 2)
        vacuums = Counted(monkeypatch, store_module.retention, "vacuum")
        monkeypatch.setattr(store_module.Compactor, "compact", lambda _session: True)
        await vacuums.reach(1)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("store ")]


async def test_a_closed_store_leaves_no_thread(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections(monkeypatch)
    before = set(threads())
    async with place.store() as store:
        opened = set(threads()) - before
        assert sorted(thread.name for thread in opened) == [
            *("store compactor", "store follower", "store reader", "store writer")
        ]
        assert all(thread.daemon for thread in opened)
        assert await store.get("run") is None
        await store._compact()
        beside = store._tasks
    assert set(threads()) <= before
    assert all(task.done() for task in beside)
    assert len(connections.made) == 4
    for connection in connections.made:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


class Connections:
    """The connections that were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[sqlite3.Connection] = []
        connect = sqlite3.connect

        def kept(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            self.made.append(connect(*args, **kwargs))
            return self.made[-1]

        monkeypatch.setattr(schema.sqlite3, "connect", kept)


@pytest.fixture
def pauses(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Return what happens in the pauses between the tries to open a file; each takes the last one."""
    schema.connect(place.path).close()
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.001)
    monkeypatch.setattr(store_module, "OPEN_PAUSE", 0.0123)
    sleep, happens = asyncio.sleep, list[Callable[[], None]]()

    async def counted(seconds: float) -> None:
        if seconds == store_module.OPEN_PAUSE:
            if happens:
                happens.pop()()
            return
        await sleep(seconds)

    monkeypatch.setattr(store_module.asyncio, "sleep", counted)
    return happens


async def test_a_file_that_stays_locked_is_not_opened(place: Place, pauses: list[Callable[[], None]]) -> None:
    before = set(threads())
    pauses += [lambda: None] * (store_module.OPEN_TRIES - 1)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as hog:
        hog.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreDown, match="locked"):
            async with place.store():
                pass
    assert pauses == []
    assert set(threads()) <= before


async def test_a_file_that_is_free_in_time_is_used_at_once(place: Place, pauses: list[Callable[[], None]]) -> None:
    async with place.store() as store:
        await store.acquire(a_run("lost"))
    with closing(sqlite3.connect(place.path, isolation_level=None)) as hog:
        hog.execute("BEGIN IMMEDIATE")
        pauses.append(lambda: hog.execute("ROLLBACK") and None)
        async with place.store() as store:
            assert pauses == []
            assert [run.run_id for run in await store.take_over_lost()] == ["lost"]
