"""Several workers on one Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from streamserve.stores import Fenced, Outcome, RunRecord, StoreDown, ThreadLocked
from streamserve.stores.base import Slice
from streamserve.stores.redis import RedisStore
from streamserve.stores.redis.scripts import TAKE, Script
from tests.limits import LIMIT
from tests.stores.servers import RedisServer, redis_server

LEASE = 1.0
PAUSE = 0.05  # seconds before a store that is away is asked again, as in a response


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@asynccontextmanager
async def worker(server: RedisServer, *, lease: float = LEASE, connections: int = 16) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, lease=lease, connections=connections)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def a_run(run_id: str = "run", key: str | None = None) -> RunRecord:
    return RunRecord(run_id, "chain", "stream", "ann", created_at=1.0, key=key)


async def follow(store: RedisStore, run_id: str = "run") -> list[bytes]:
    """Return every block up to the terminal one, as a reader gets it."""
    blocks: list[bytes] = []
    woken = asyncio.Event()
    unsubscribe = store.subscribe(run_id, woken.set)
    try:
        async with asyncio.timeout(LIMIT):
            while True:
                woken.clear()
                try:
                    found, at_end = await store.read(run_id, len(blocks), 100)
                except StoreDown:
                    asyncio.get_running_loop().call_later(PAUSE, woken.set)
                    found, at_end = Slice((), at_end=False)
                blocks += found
                if at_end:
                    return blocks
                if not found:
                    await woken.wait()
    finally:
        unsubscribe()


async def test_a_reader_on_another_worker_gets_every_block_once(server: RedisServer) -> None:
    async with worker(server) as owner, worker(server) as other:
        await owner.acquire(a_run())
        reading = asyncio.create_task(follow(other))
        blocks = [b"%d" % number for number in range(300)]
        for first in range(0, 300, 3):
            outcome = Outcome("done") if first == 297 else None
            await owner.append("run", 1, first + 1, blocks[first : first + 3], outcome)
        assert await reading == blocks


async def test_a_message_lost_with_the_connection_is_made_good(server: RedisServer) -> None:
    async with worker(server) as owner, worker(server) as other:
        await owner.acquire(a_run())
        await owner.append("run", 1, 1, [b"a"])
        reading = asyncio.create_task(follow(other))
        with server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await owner.append("run", 1, 2, [b"b"])
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await owner.append("run", 1, 3, [b"c"], Outcome("done"))
        assert await reading == [b"a", b"b", b"c"]


async def test_another_worker_cancels(server: RedisServer) -> None:
    async with worker(server) as owner, worker(server) as other:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        owner.on_cancel = told.set_result
        await owner.acquire(a_run())
        await other.request_cancel("run")
        async with asyncio.timeout(LIMIT):
            assert await told == "run"


async def test_readers_on_another_worker_are_known_until_they_leave(server: RedisServer) -> None:
    async with worker(server) as owner, worker(server) as other:
        changed = asyncio.Event()
        owner.on_readers = lambda _run_id: changed.set()
        await owner.acquire(a_run())
        await other.set_reading("run", True)
        assert await owner.is_read_elsewhere("run")
        async with asyncio.timeout(LIMIT):
            await changed.wait()
        await other.set_reading("run", False)
        assert not await owner.is_read_elsewhere("run")


async def test_lost_runs_are_handed_out_once_and_their_owner_is_fenced(server: RedisServer) -> None:
    async with worker(server) as first, worker(server) as second, worker(server) as owner:
        await owner.acquire(a_run())
        await owner.append("run", 1, 1, [b"a"])
        lost: list[RunRecord] = []
        await owner._worker.leave()
        async with asyncio.timeout(LIMIT):
            while not lost:
                found = await asyncio.gather(first.take_over_lost(), second.take_over_lost())
                lost = [record for records in found for record in records]
                await owner._worker.leave()  # the worker is alive and renews its lease
        assert [(record.run_id, record.attempt, record.last_id) for record in lost] == [("run", 2, 1)]
        with pytest.raises(Fenced):
            await owner.append("run", 1, 2, [b"b"])


async def test_a_refused_run_leaves_nothing(server: RedisServer) -> None:
    async with worker(server) as store:
        first, second = a_run("one"), a_run("two")
        first.thread = second.thread = "thread"
        first.request = second.request = b"request"
        await store.acquire(first, alone=True)
        with pytest.raises(ThreadLocked):
            await store.acquire(second, alone=True)
        with server.client() as client:
            assert client.keys("*{two}*") == []
            assert client.keys("*{one}:request") != []


async def test_calls_that_wait_for_a_busy_pool_are_served(server: RedisServer) -> None:
    async with worker(server, lease=10.0, connections=2) as store:
        found = await asyncio.gather(*(store.acquire(a_run(f"run-{number}")) for number in range(50)))
        assert all(new for _, new in found)


async def test_a_redis_that_lost_its_runs_gets_them_again(server: RedisServer) -> None:
    async with worker(server) as owner, worker(server) as other:
        await owner.acquire(a_run(key="key"))
        await owner.append("run", 1, 1, [b"a"])
        with server.client() as client:
            client.flushall()
        await owner.check()
        assert (await owner.append("run", 1, 1, [b"a", b"b"], Outcome("done"))) == 3
        assert await follow(other) == [b"a", b"b"]


async def test_a_lost_run_is_handed_out_after_a_lost_reply(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker(server) as other, worker(server) as owner:
        for name in ("a", "b"):
            await owner.acquire(a_run(name))
        run, replies = other._client.run, iter([True, False])

        async def run_and_lose(script: Script, *args: Any) -> Any:
            answer = await run(script, *args)
            if script is TAKE and not next(replies, True):
                raise StoreDown("the second reply is lost")
            return answer

        monkeypatch.setattr(other._client, "run", run_and_lose)
        lost: list[str] = []
        async with asyncio.timeout(LIMIT):
            while len(lost) < 2:
                await owner._worker.leave()
                with suppress(StoreDown):
                    lost += [record.run_id for record in await other.take_over_lost()]
        assert sorted(lost) == ["a", "b"]


@pytest.mark.parametrize("leaves", [True, False], ids=["caller left", "store away"])
async def test_a_start_that_failed_halfway_is_undone_once(
    server: RedisServer, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker(server, lease=60.0) as store, worker(server, lease=60.0) as other:
        answers = asyncio.Barrier(21)
        claim = store._claim

        async def without_answer(run: RunRecord) -> RunRecord | None:
            await claim(run)
            await answers.wait()  # by now, Redis has whole runs with keys and threads
            if leaves:
                await asyncio.Event().wait()
            raise StoreDown("away")

        monkeypatch.setattr(store, "_claim", without_answer)
        runs = [replace(a_run(f"run-{number}", f"key-{number}"), thread="thread") for number in range(20)]
        starts = [asyncio.create_task(store.acquire(run)) for run in runs]
        async with asyncio.timeout(LIMIT):
            await answers.wait()
            assert len(await other.ahead(replace(a_run("next"), thread="thread"))) == 20
            await other.set_reading("run-0", True)
            for start in starts:
                if leaves:
                    start.cancel()
            await asyncio.wait(starts)
            await asyncio.gather(*(store.check() for _ in range(8)))
            assert [run.run_id for run in await store.take_over_lost()] == ["run-0"]  # its reader sees its end
            assert [await store.get(run.run_id) for run in runs[1:]] == [None] * 19
            assert await other.ahead(replace(a_run("next"), thread="thread")) == ["run-0"]
            with server.client() as client:
                assert client.exists(*(store._keys.key(f"key-{number}") for number in range(1, 20))) == 0
            for number in range(1, 20):
                assert (await other.acquire(a_run(f"again-{number}", f"key-{number}")))[1]


async def test_a_cancellation_while_redis_is_asked_is_not_lost(server: RedisServer) -> None:
    async with worker(server) as store:
        await store.acquire(a_run())
        for turns in range(10):
            asking = asyncio.create_task(_ask_and_stay(store))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            _, pending = await asyncio.wait({asking}, timeout=LIMIT)
            assert not pending


async def _ask_and_stay(store: RedisStore) -> None:
    await store.get("run")
    await asyncio.Event().wait()
