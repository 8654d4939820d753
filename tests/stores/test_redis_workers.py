"""Several workers on one Redis: leases, lost runs, readers, and a Redis that has lost its data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from streamserve.stores import Fenced, Outcome, StoreDown
from streamserve.stores.base import Slice
from streamserve.stores.bounds import DEFAULT_BOUNDS
from streamserve.stores.redis import RedisStore, retention, scripts, subscriber, workers
from streamserve.stores.redis import store as store_module
from streamserve.stores.redis.idempotency import KEY_SLACK
from tests.conformance.machine import Follower
from tests.conformance.stores import DONE, a_run
from tests.limits import LIMIT
from tests.stores.servers import RedisServer, redis_server

LEASE = 60.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@asynccontextmanager
async def worker(server: RedisServer, **options: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, **{"lease": LEASE, **options})
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def one(server: RedisServer) -> AsyncIterator[RedisStore]:
    async with worker(server) as store:
        yield store


@pytest.fixture
async def other(server: RedisServer, one: RedisStore) -> AsyncIterator[RedisStore]:
    async with worker(server) as store:
        yield store


@pytest.fixture(autouse=True)
async def limited() -> AsyncIterator[None]:
    async with asyncio.timeout(LIMIT):
        yield


def heard(store: RedisStore, name: str) -> asyncio.Queue[str]:
    queue: asyncio.Queue[str] = asyncio.Queue()
    setattr(store, name, queue.put_nowait)
    return queue


async def reaches(reader: Follower, count: int) -> None:
    """Wait until a reader has this number of blocks."""
    while len(reader.blocks) < count:
        await reader.woken.wait()
        await reader.catch_up()


async def die(store: RedisStore, server: RedisServer) -> None:
    """End a worker's lease, and the time after an outage in which none counts as dead."""
    await store._worker.leave()
    with server.client() as client:
        client.hset("streamserve:{workers}:beats", "grace", 0)


async def take_over(store: RedisStore, dead: RedisStore, server: RedisServer) -> list[Any]:
    await die(dead, server)
    return await store.take_over_lost()


async def test_a_former_owner_reads_on_and_the_new_one_is_told(
    server: RedisServer, one: RedisStore, other: RedisStore
) -> None:
    cancels = heard(other, "on_cancel")
    await one.acquire(replace(a_run("run"), thread="thread", request=b"request"))
    reader = Follower(one, "run")
    await one.append("run", 1, 1, [b"a"])
    await reaches(reader, 1)
    (taken,) = await take_over(other, one, server)
    assert (taken.run_id, taken.attempt, taken.last_id, taken.request) == ("run", 2, 1, b"request")
    with pytest.raises(Fenced):
        await one.append("run", 1, 2, [b"late"])
    assert "run" not in one._worker.owned
    await one.check()  # forgets the run, which stays in its thread
    assert await one.ahead(replace(a_run("next"), thread="thread")) == ["run"]
    await one.request_cancel("run")
    assert await cancels.get() == "run"
    assert await other.append("run", 2, 2, [b"lost"], Outcome("lost")) == 3
    await reaches(reader, 2)
    assert reader.blocks == [b"a", b"lost"]
    await other.check()
    with server.client() as client:
        assert client.keys("streamserve:thread:*") == []
        assert client.keys("*:runs") == []  # no worker has a run
        assert client.keys("*:request") == []


async def test_readers_see_the_end_of_a_run_taken_over_unnoticed(
    server: RedisServer, one: RedisStore, other: RedisStore
) -> None:
    await one.acquire(a_run("run"))
    reader = Follower(one, "run")
    await one.append("run", 1, 1, [b"a"])
    await reaches(reader, 1)
    assert len(await take_over(other, one, server)) == 1
    assert await other.append("run", 2, 2, [b"lost"], Outcome("lost")) == 3
    one.give_up("run")  # no append of this worker was refused: it had no answer
    assert await one.take_over_lost() == []
    assert "run" not in one._worker.owned
    await reaches(reader, 2)
    assert reader.blocks == [b"a", b"lost"]


async def test_a_run_that_was_given_up_is_not_created_later(server: RedisServer, one: RedisStore) -> None:
    run = replace(a_run("run"), request=b"request")
    one._worker.pending_discard["run"] = run
    await one.check()
    await one._worker.own(run)  # the command was on its way, on another connection
    assert await one.get("run") is None
    with server.client() as client:
        assert client.exists("streamserve:{run}:request") == 0
        assert client.pttl("streamserve:{run}:run") > 0


async def test_a_worker_that_dies_at_a_runs_end_leaves_no_request(
    server: RedisServer, one: RedisStore, other: RedisStore
) -> None:
    await one.acquire(replace(a_run("run"), request=b"request"))
    with server.client() as client:
        client.hset("streamserve:{run}:run", "status", "done")
        assert await take_over(other, one, server) == []
        assert client.exists("streamserve:{run}:request") == 0


@pytest.mark.parametrize("is_dead", [True, False])
async def test_a_run_that_ended_uncounted_is_counted_later(
    server: RedisServer, one: RedisStore, other: RedisStore, is_dead: bool
) -> None:
    await one.acquire(a_run("run"))
    await one.append("run", 1, 1, [b"end"], DONE)
    with server.client() as client:
        client.delete(*client.keys("streamserve:{ended}:*"))  # as if Redis went away after the end was stored
        one.give_up("run")
        assert await (take_over(other, one, server) if is_dead else one.take_over_lost()) == []
        assert client.zrange("streamserve:{ended}:order", 0, -1) == [b"run"]
    await other.reap(one._clock() + 10 * retention.SLACK + DEFAULT_BOUNDS.retention)
    assert (await other.read("run", 0, 9)).blocks == ()


async def test_a_worker_that_wakes_learns_which_runs_it_has_lost(
    server: RedisServer, one: RedisStore, other: RedisStore
) -> None:
    cancels = heard(one, "on_cancel")
    for name in ("lost", "kept"):
        await one.acquire(a_run(name))
    await die(one, server)
    with server.client() as client:
        client.hincrby("streamserve:{lost}:run", "attempt", 1)
        client.hset("streamserve:{lost}:run", "worker", other._worker.id)
    await one.check()
    assert await cancels.get() == "lost"
    assert cancels.empty()
    await one.check()
    assert cancels.empty()


async def test_readers_elsewhere_count_while_their_worker_lives(
    server: RedisServer, one: RedisStore, other: RedisStore
) -> None:
    changed = heard(one, "on_readers")
    await one.acquire(a_run("run"))
    await one.set_reading("run", True)
    assert not await one.is_read_elsewhere("run")
    await other.set_reading("run", True)
    assert await changed.get() == "run"
    assert await one.is_read_elsewhere("run") is True
    await die(other, server)
    assert await one.is_read_elsewhere("run") is False
    assert await one.take_over_lost() == []
    assert await changed.get() == "run"
    with server.client() as client:
        assert client.hkeys("streamserve:{run}:readers") == [one._worker.id.encode()]
        assert client.keys(f"streamserve:{{{other._worker.id}}}:*") == []
    await other.check()
    await other.set_reading("run", True)
    await other.set_reading("run", False)
    assert await one.is_read_elsewhere("run") is False


async def test_a_takeover_is_bounded_and_goes_on(
    server: RedisServer, one: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "BATCH", 2)
    monkeypatch.setattr(workers, "REMOVE_AFTER", 0)
    names = [f"run-{number}" for number in range(5)]
    for name in names:
        await one.acquire(a_run(name))
    await one.append("run-0", 1, 1, [b"x"], DONE)
    found: list[str] = []
    counts = []
    for _ in range(4):
        taken = await take_over(other, one, server)
        counts.append(len(taken))
        found += [run.run_id for run in taken]
    assert sorted(found) == names[1:]
    assert max(counts) <= 2
    with server.client() as client:
        assert client.smembers(f"streamserve:{{{other._worker.id}}}:runs") == {name.encode() for name in names[1:]}
        assert client.zscore("streamserve:{workers}:leases", one._worker.id) is None  # nothing of it is left
        assert client.zscore("streamserve:{workers}:leases", other._worker.id)


async def test_a_takeover_that_fails_returns_what_it_has(
    server: RedisServer, one: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        await one.acquire(a_run(name))
    run, taken = other._client.run, []

    async def fails_second(script: Any, *args: Any) -> Any:
        if script is scripts.TAKE:
            taken.append(1)
            if len(taken) != 1:
                raise StoreDown("away")
        return await run(script, *args)

    with monkeypatch.context() as failing:
        failing.setattr(other._client, "run", fails_second)
        assert len(await take_over(other, one, server)) == 1
        with pytest.raises(StoreDown):
            await take_over(other, one, server)
    assert len(await take_over(other, one, server)) == 1


async def test_a_failing_heartbeat_is_followed_by_the_next(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "HEARTBEATS_PER_LEASE", LEASE * 50)
    async with worker(server) as store:
        beats: asyncio.Queue[int] = asyncio.Queue()
        beat = store._worker.heartbeat

        async def counted() -> None:
            beats.put_nowait(1)
            await beat()
            if beats.qsize() == 1:
                raise ValueError("no")  # must not end them

        monkeypatch.setattr(store._worker, "heartbeat", counted)
        for _ in range(3):
            await beats.get()


async def test_a_lease_lasts_as_long_as_it_says(server: RedisServer, one: RedisStore) -> None:
    with server.client() as client:
        seconds, micros = client.time()  # type: ignore[misc]
        until = client.zscore("streamserve:{workers}:leases", one._worker.id)
        assert LEASE * 1000 - LIMIT * 1000 < until - (seconds * 1000 + micros // 1000) <= LEASE * 1000


async def test_a_redis_without_its_data_is_filled_again(
    server: RedisServer, one: RedisStore, other: RedisStore
) -> None:
    cancels, readers = heard(one, "on_cancel"), heard(one, "on_readers")
    await one.acquire(replace(a_run("run", "key"), thread="thread"))
    await one.append("run", 1, 1, [b"a"])
    await other.set_reading("run", True)
    assert await readers.get() == "run"
    with server.client() as client:
        client.flushall()
    with pytest.raises(StoreDown, match="empty"):
        await one.get("run")
    with pytest.raises(StoreDown, match="empty"):
        await other.get("another")  # it may be one that is being stored again
    found = await one.get("run")
    assert found is not None
    assert (found.last_id, found.attempt) == (0, 1)
    assert await other.ahead(replace(a_run("next"), thread="thread")) == ["run"]
    assert await one.is_read_elsewhere("run")
    await other.request_cancel("run")
    assert await cancels.get() == "run"


async def test_soon_after_a_loss_a_missing_run_is_no_unknown_one(
    server: RedisServer, one: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert await one.get("unknown") is None
    with server.client() as client:
        client.flushall()
    for later, known in ((0.0, False), (LEASE - 1, False), (LEASE, True), (LEASE + 1, True)):
        now[0] = 1_000.0 + later
        for ask in (one.get("unknown"), one.read("unknown", 0, 1)):
            if known:
                assert await ask in (None, Slice((), True))
            else:
                with pytest.raises(StoreDown, match="empty"):
                    await ask


async def test_a_new_worker_does_not_take_a_new_redis_for_an_empty_one(server: RedisServer) -> None:
    async with worker(server) as store:
        assert store._worker.recently_emptied is False
        assert await store.get("unknown") is None


async def test_a_lost_message_is_made_good_within_a_period(
    server: RedisServer, one: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one.acquire(a_run("run"))
    reader = Follower(other, "run")
    await one.append("run", 1, 1, [b"a"])
    await reaches(reader, 1)
    monkeypatch.setattr(other._subscriber, "_receive", lambda _run_id, _data: None)  # all messages are lost
    monkeypatch.setattr(subscriber, "PERIOD", 0.01)
    other._subscriber.look_soon()
    for seq in range(2, 5):
        await one.append("run", 1, seq, [b"x"], DONE if seq == 4 else None)
        await reaches(reader, seq)
    assert await other.read("run", 4, 10) == Slice([], True)
    assert not other._subscriber.is_live("run")


async def test_an_end_without_a_new_block_is_found_within_a_period(
    one: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one.acquire(a_run("run"))
    reader = Follower(other, "run")
    await one.append("run", 1, 1, [b"end"])
    await reaches(reader, 1)
    monkeypatch.setattr(subscriber, "PERIOD", 0.01)
    other._subscriber.look_soon()
    assert await one.append("run", 1, 1, [b"end"], DONE) == 2
    while await other.read("run", 1, 10) != Slice([], True):
        await reader.woken.wait()
        reader.woken.clear()


async def test_a_failing_sweep_goes_on(
    server: RedisServer, one: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = [ValueError("no"), StoreDown("away")]
    fields = other._client.fields
    done = asyncio.Event()

    async def fails(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        done.set()
        return await fields(*args)

    await one.acquire(a_run("run"))
    other.subscribe("run", lambda: None)
    await other.read("run", 0, 1)
    monkeypatch.setattr(other._client, "fields", fails)
    monkeypatch.setattr(subscriber, "PERIOD", 0.01)
    other._subscriber.look_soon("run")
    await done.wait()
    assert failures == []


async def test_a_run_without_readers_is_not_listened_to(
    server: RedisServer, one: RedisStore, other: RedisStore
) -> None:
    await one.acquire(a_run("run"))
    await one.append("run", 1, 1, [b"a"])
    reader, second = Follower(other, "run"), Follower(other, "run")
    own = Follower(one, "run")
    await reader.catch_up()
    assert other._subscriber.is_live("run")
    await one.append("run", 1, 2, [b"b"])
    await reaches(reader, 2)
    with server.client() as client:
        assert dict(client.pubsub_numsub("streamserve:run:run")) == {b"streamserve:run:run": 1}  # not the owner
        reader.unsubscribe()
        assert other._subscriber.is_live("run")
        second.unsubscribe()
        assert not other._subscriber.is_live("run")
        while await asyncio.to_thread(client.pubsub_channels, "streamserve:run:*"):
            pass
    own.unsubscribe()
    assert not other._subscriber._run_ids


async def test_runs_read_here_are_listened_to_after_a_lost_connection(
    server: RedisServer, one: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "PERIOD", LIMIT * 10)
    cancels = heard(one, "on_cancel")
    await one.acquire(a_run("run"))
    reader = Follower(other, "run")
    await one._subscriber.connected.wait()
    await other._subscriber.connected.wait()
    await one.append("run", 1, 1, [b"a"])
    await reaches(reader, 1)
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        client.hset("streamserve:{run}:run", "cancel", "1")  # requested while nobody listened
    assert await cancels.get() == "run"
    await one.append("run", 1, 2, [b"b"])
    await reaches(reader, 2)
    await one.append("run", 1, 3, [b"c"])
    await reaches(reader, 3)


async def test_a_silent_connection_is_replaced(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: asyncio.Queue[int] = asyncio.Queue()
    async with worker(server, lease=0.2) as store:
        monkeypatch.setattr(store._worker, "heartbeat", asyncio.Event().wait)  # whose messages end the silence
        connect = store._client.connect

        async def counted(*args: Any) -> Any:
            connections.put_nowait(1)
            return await connect(*args)

        monkeypatch.setattr(store._client, "connect", counted)
        for _ in range(2):
            await connections.get()


async def test_each_message_prolongs_the_patience_with_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    now, sleeps = [100.0], []
    listening = SimpleNamespace(_worker=SimpleNamespace(lease=5.0), _heard_at=100.0)

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        now[0] += seconds
        if len(sleeps) == 1:
            listening._heard_at = 104.0

    monkeypatch.setattr(subscriber, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(subscriber, "asyncio", SimpleNamespace(sleep=sleep))
    with pytest.raises(RedisConnectionError, match="no message for 10 s"):
        await subscriber.Subscriber._fail_after_silence(listening)  # type: ignore[arg-type]
    assert sleeps == [10.0, 4.0]


async def test_a_worker_notes_when_it_heard_a_message(
    one: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancels = heard(one, "on_cancel")
    await one.acquire(a_run("run"))
    await one._subscriber.connected.wait()
    monkeypatch.setattr(subscriber, "time", SimpleNamespace(monotonic=lambda: 7.0))
    await other.request_cancel("run")
    await cancels.get()
    assert one._subscriber._heard_at == 7.0


async def test_a_run_is_sealed_in_bounded_pieces(
    server: RedisServer, one: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PIECE_BYTES", 10)
    monkeypatch.setattr(retention, "READ_BLOCKS", 4)
    sizes = [5, 5, 5, 4, 1, 12, 1, 9, 3]
    blocks = [bytes([number]) * size for number, size in enumerate(sizes)]
    await one.acquire(a_run("run"))
    reader = Follower(other, "run")
    await one.append("run", 1, 1, blocks, DONE)
    await reaches(reader, len(blocks))
    reader.unsubscribe()
    with server.client() as client:
        while not (sealed := await asyncio.to_thread(client.hget, "streamserve:{run}:run", "sealed")):
            pass
        assert sealed == b"1,3,6,7,9"
        assert client.exists("streamserve:{run}:blocks") == 0
        assert 0 < client.pttl("streamserve:{run}:pieces") <= retention.blocks_ttl(one._bounds)  # type: ignore[operator]
    for after in range(len(blocks) + 1):
        for limit in (1, 2, 100):
            found, at_end = await other.read("run", after, limit)
            assert found == blocks[after : after + len(found)]
            assert at_end == (after + len(found) == len(blocks))
    await one.purge("run")
    assert await one.read("run", 0, 10) == Slice((), True)


async def test_what_no_reaper_drops_redis_drops_itself(server: RedisServer, one: RedisStore) -> None:
    run = replace(a_run("run", "key"), thread="thread", request=b"x")
    await one.acquire(run)
    await one.set_reading("run", True)
    bounds = one._bounds
    with server.client() as client:
        (key,), (thread,) = client.keys("streamserve:key:*"), client.keys("streamserve:thread:*")
        longest = retention.record_ttl(bounds) + KEY_SLACK
        assert longest - LIMIT * 1000 < client.pttl(key) <= longest
        assert client.pttl(thread) > 0
        assert 0 < client.pttl("streamserve:{run}:request") <= workers.TTL
        assert 0 < client.pttl("streamserve:{run}:readers") <= workers.TTL
        await one.append("run", 1, 1, [b"x"], DONE)
        record, ttl = client.pttl("streamserve:{run}:run"), retention.record_ttl(bounds)
        assert ttl - LIMIT * 1000 < record <= ttl
        assert client.exists("streamserve:{run}:request") == 0


async def test_a_run_whose_blocks_expired_counts_as_purged(server: RedisServer) -> None:
    now = [1_000_000.0]
    async with worker(server, clock=lambda: now[0]) as store:
        await store.acquire(a_run("run", "key"))
        await store.append("run", 1, 1, [b"x"], DONE)
        ttl = retention.blocks_ttl(store._bounds) / 1000
        expires_at = 1_000_000.0 + store._bounds.retention
        for moment, purged in ((expires_at, False), (expires_at + ttl, False), (expires_at + ttl + 1, True)):
            now[0] = moment
            found = await store.get("run")
            assert found is not None
            assert found.purged is purged
            assert (await store.named("key") is None) is purged
        assert (await store.acquire(a_run("next", "key")))[1]
        assert (await store.acquire(a_run("third", "key")))[0].run_id == "next"
