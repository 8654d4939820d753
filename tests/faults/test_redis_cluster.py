"""A node of a Redis Cluster is killed while runs write, and comes back empty: runs on other nodes never stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest

from streamserve.stores import Outcome, StoreDown
from streamserve.stores.redis import RedisStore
from tests.faults.server import CountingServer, counting
from tests.faults.test_redis_served import Reader, client_of
from tests.limits import LIMIT
from tests.stores.servers import RedisServer, node_of, redis_cluster, wait_for_cluster
from tests.stores.test_redis import a_run, follow

LEASE = 1.0
PATIENCE = 2.0
RUNS = 9
BLOCKS = 400
COUNT = {"input": {"blocks": BLOCKS, "burst": 10, "pause": 0.05}}  # 2 s
# The other nodes count a node as dead after these milliseconds, and serve on without its slots.
OPTIONS = ("--cluster-node-timeout", "500", "--cluster-require-full-coverage", "no")


@pytest.fixture
def nodes() -> Iterator[list[RedisServer]]:
    with redis_cluster(*OPTIONS) as servers:
        yield servers


def address(nodes: list[RedisServer]) -> str:
    return f"redis+cluster://127.0.0.1:{nodes[0].port}"


@dataclass
class Replicas:
    """Two servers on one cluster, with a client of each."""

    owner: httpx.AsyncClient
    other: httpx.AsyncClient

    async def runs_on_and_beside(self, node: RedisServer, nodes: list[RedisServer]) -> tuple[list[str], list[str]]:
        on: list[str] = []
        beside: list[str] = []
        while not on or len(beside) < 2:
            answers = await asyncio.gather(*(self.owner.post("/count/runs", json=COUNT) for _ in range(RUNS)))
            for run_id in (answer.headers["Run-Id"] for answer in answers):
                (on if node_of(run_id, nodes) is node else beside).append(run_id)
        return on, beside

    def read(self, run_ids: list[str]) -> tuple[list[Reader], list[asyncio.Task[Reader]]]:
        """Start two readers of each run, one on either server."""
        readers = [Reader() for _ in run_ids for _ in range(2)]
        places = [(client, run_id) for run_id in run_ids for client in (self.owner, self.other)]
        tasks = [asyncio.create_task(reader.read(*place)) for reader, place in zip(readers, places, strict=True)]
        return readers, tasks


@asynccontextmanager
async def replicas(nodes: list[RedisServer], **settings: str) -> AsyncIterator[Replicas]:
    environment = {"STREAMSERVE_STORE": address(nodes), "STREAMSERVE_LEASE": str(LEASE), **settings}
    with ExitStack() as servers:
        pair: list[CountingServer] = [servers.enter_context(counting(environment)) for _ in range(2)]
        async with asyncio.timeout(LIMIT), AsyncExitStack() as clients:
            yield Replicas(*[await clients.enter_async_context(client_of(server)) for server in pair])


async def begun(readers: list[Reader]) -> None:
    await asyncio.gather(*(reader.begun.wait() for reader in readers))


# Kept on the node beside runs: nothing; the order of the ended runs; the leases of the workers.
@pytest.mark.parametrize("number", [2, 1, 0], ids=["runs only", "ended", "leases"])
async def test_runs_on_a_killed_node_resume_when_it_returns_empty(
    number: int, nodes: list[RedisServer], pytestconfig: pytest.Config
) -> None:
    if number != 2 and not pytestconfig.getoption("--long"):
        pytest.skip("takes half a minute: make faults")
    victim = nodes[number]
    async with replicas(nodes) as servers:
        on, beside = await servers.runs_on_and_beside(victim, nodes)
        struck, waiting = servers.read(on)
        spared, reading = servers.read(beside)
        await begun(struck + spared)
        victim.kill()
        for reader in await asyncio.gather(*reading):
            reader.assert_whole(BLOCKS)
        assert not any(task.done() for task in waiting)
        await asyncio.to_thread(victim.start)
        for reader in await asyncio.gather(*waiting):
            reader.assert_whole(BLOCKS)
        for run_id in on + beside:
            (await Reader().read(servers.other, run_id)).assert_whole(BLOCKS)


async def test_runs_on_a_node_that_stays_away_end_as_unavailable(
    nodes: list[RedisServer], pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption("--long"):
        pytest.skip("takes half a minute: make faults")
    victim = nodes[2]
    async with replicas(nodes, STREAMSERVE_STORE_PATIENCE=str(PATIENCE)) as servers:
        on, beside = await servers.runs_on_and_beside(victim, nodes)
        struck, waiting = servers.read(on)
        _, reading = servers.read(beside)
        await begun(struck)
        victim.kill()
        for reader in await asyncio.gather(*reading):
            reader.assert_whole(BLOCKS)
        for reader in await asyncio.gather(*waiting):
            assert reader.end == "store_unavailable"
            assert reader.numbers == list(range(len(reader.numbers)))
            assert 0 < len(reader.numbers) < BLOCKS
        answers = [await servers.other.post("/count/runs", json={"input": {"blocks": 10}}) for _ in range(RUNS)]
        assert {answer.status_code for answer in answers} <= {202, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.json()["code"] == "store_unavailable"
                assert int(answer.headers["Retry-After"]) > 0
            else:
                assert node_of(answer.headers["Run-Id"], nodes) is not victim
        await asyncio.to_thread(victim.start)
        await asyncio.to_thread(wait_for_cluster, victim)
        for client in (servers.owner, servers.other):
            while (await client.get("/readyz")).status_code != 200:
                pass
        for run_id in on:  # the run is gone, and no server claims that it was whole
            answer = await servers.other.get(f"/runs/{run_id}/stream")
            assert answer.status_code == 404 or "event: end" not in answer.text


async def test_runs_are_taken_over_after_their_owners_set_was_lost(
    nodes: list[RedisServer],
) -> None:
    async with asyncio.timeout(LIMIT), AsyncExitStack() as stack:
        other = await stack.enter_async_context(opened(nodes))
        while True:
            owner = RedisStore(address(nodes), lease=LEASE)
            victim = node_of(owner._worker.id, nodes)
            if victim is nodes[2]:
                break
        await owner.open()
        run_id = next(name for name in map(str, range(100)) if node_of(name, nodes) is nodes[1])
        await owner.acquire(a_run(run_id))
        await owner.append(run_id, 1, 1, [b"a"])
        victim.kill()
        await asyncio.to_thread(victim.start)
        await asyncio.to_thread(wait_for_cluster, victim)
        while not await is_well(owner):
            pass
        await owner.append(run_id, 1, 2, [b"b"])
        await owner.close()
        lost: list[str] = []
        while not lost:
            with suppress(StoreDown):
                lost = [record.run_id for record in await other.take_over_lost()]
        assert lost == [run_id]
        await other.append(run_id, 2, 3, [b"lost"], Outcome("lost"))
        assert await follow(other, run_id) == [b"a", b"b", b"lost"]


async def is_well(store: RedisStore) -> bool:
    try:
        await store.check()
    except StoreDown:
        return False
    return True


@asynccontextmanager
async def opened(nodes: list[RedisServer]) -> AsyncIterator[RedisStore]:
    store = RedisStore(address(nodes), lease=LEASE)
    await store.open()
    try:
        yield store
    finally:
        await store.close()
