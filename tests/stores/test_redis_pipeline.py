"""Appends to Redis: which go together, and who gets an answer when something fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from streamserve.stores import Fenced, Gap, StoreDown, UnknownRun
from streamserve.stores.redis import RedisStore, pipeline
from streamserve.stores.redis.connection import Connection
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.pipeline import FENCED, GAP, UNKNOWN, Answer, Append, _Pipeline
from tests.conformance.stores import DONE, a_run
from tests.limits import LIMIT
from tests.stores.servers import RedisServer, redis_server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    opened = RedisStore(server.url, lease=60.0)
    await opened.open()
    async with asyncio.timeout(LIMIT):
        yield opened
        await opened.close()


def test_a_refused_append_says_why() -> None:
    found = [Answer(state, 4, 0, 0).refusal("run") for state in (UNKNOWN, FENCED, GAP)]
    assert [type(error) for error in found] == [UnknownRun, Fenced, Gap]
    assert isinstance(found[2], Gap)
    assert found[2].next_seq == 5


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ([2, 1, 1], [[2, 1], [1]]),
        ([3, 1], [[3], [1]]),
        ([5, 1], [[5], [1]]),  # larger than a call, so alone
        ([1, 5], [[1], [5]]),
        ([0, 3, 0, 1], [[0, 3, 0], [1]]),
        ([1, 1, 1, 1], [[1, 1, 1], [1]]),
    ],
    ids=str,
)
async def test_a_call_has_a_bounded_number_of_blocks(sizes: list[int], taken: list[list[int]]) -> None:
    made = _Pipeline(None, Keys("test"), "")  # type: ignore[arg-type]
    for number, size in enumerate(sizes):
        made.put(Append(f"run-{number}", 1, 1, [b"x"] * size, (), lambda _answer: None))
    assert made._any_posted.is_set()
    for group in taken:
        assert made._any_posted.is_set()
        assert [len(append.blocks) for append in made._take(3)] == group
    assert not made._any_posted.is_set()
    assert made._take(3) == []
    await made.close()


async def test_waiting_appends_share_one_call(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    call = Connection.call

    async def counted(self: Connection, commands: Any) -> Any:
        calls.append(len(commands))
        return await call(self, commands)

    monkeypatch.setattr(Connection, "call", counted)
    names = [f"run-{number}" for number in range(9)]
    for name in names:
        await store.acquire(a_run(name))
    assert await asyncio.gather(*(store.append(name, 1, 1, [b"x"]) for name in names)) == [2] * 9
    for seq in range(2, 6):
        assert await store.append(names[0], 1, seq, [b"x"]) == seq + 1
    assert calls == [1] * 6  # the script, all nine, and four single ones


async def test_appends_to_a_redis_that_is_away_fail(
    server: RedisServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed: list[int] = []
    monkeypatch.setattr(store._client, "refresh_nodes", lambda: refreshed.append(1))
    await store.acquire(a_run("run"))
    server.kill()
    appends = (store.append("run", 1, seq, [b"x"]) for seq in (1, 2, 3))
    assert {type(error) for error in await asyncio.gather(*appends, return_exceptions=True)} == {StoreDown}
    assert refreshed
    server.start()
    with pytest.raises(UnknownRun):
        await answered(lambda: store.append("run", 1, 1, [b"x"]))
    await answered(store.check)  # the run is stored again
    assert await answered(lambda: store.append("run", 1, 1, [b"x"])) == 2


async def answered(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the store is there."""
    while True:
        try:
            return await ask()
        except StoreDown:
            await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["_command", "_connected"])
async def test_an_unexpected_error_is_answered_too(
    store: RedisStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Any, *_: Any) -> Any:
        raise ValueError("no")

    await store.acquire(a_run("run"))
    with monkeypatch.context() as failing:
        failing.setattr(pipeline._Pipeline, name, broken)
        with pytest.raises(StoreDown, match=r"ValueError\('no'\)"):
            await store.append("run", 1, 1, [b"x"])
    assert await store.append("run", 1, 1, [b"x"]) == 2


async def test_a_failing_answer_leaves_the_others(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: asyncio.Queue[Any] = asyncio.Queue()

    def broken(_answer: Any) -> None:
        raise ValueError("no")

    for name in ("a", "b"):
        await store.acquire(a_run(name))
    store.post("a", 1, 1, [b"x"], None, broken)
    store.post("b", 1, 1, [b"x"], None, answers.put_nowait)
    assert await answers.get() == 2


async def test_a_repeated_end_is_not_the_end_of_fewer_blocks(store: RedisStore) -> None:
    await store.acquire(a_run("run"))
    store.subscribe("run", lambda: None)
    await store.append("run", 1, 1, [b"a"])
    assert await store.read("run", 0, 10) == ([b"a"], False)
    await store.append("run", 1, 2, [b"end"], DONE)
    assert await store.read("run", 1, 10) == ([b"end"], True)
    assert await store.append("run", 1, 1, [b"a"], DONE) == 3
    assert await store.read("run", 0, 10) == ([b"a", b"end"], True)
    assert await store.append("run", 1, 1, [b"a", b"end"], DONE) == 3
    assert store._retention._to_count == {}


async def test_a_cancel_that_was_missed_comes_with_the_next_block(server: RedisServer, store: RedisStore) -> None:
    cancelled: list[str] = []
    store.on_cancel = cancelled.append
    await store.acquire(a_run("run"))
    assert await store.append("run", 1, 1, [b"x"]) == 2
    assert cancelled == []
    with server.client() as client:
        client.hset("streamserve:{run}:run", "cancel", "1")
    assert await store.append("run", 1, 2, [b"x"]) == 3
    assert cancelled == ["run"]


async def test_a_closed_store_has_no_connection(server: RedisServer, store: RedisStore) -> None:
    await store.acquire(a_run("run"))
    await store.append("run", 1, 1, [b"x"])
    await store.close()
    with server.client() as client:
        while len(await asyncio.to_thread(client.client_list)) > 1:
            pass
        assert client.zscore("streamserve:{workers}:leases", store._worker.id) == 1
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
