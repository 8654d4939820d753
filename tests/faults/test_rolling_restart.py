"""Replicas behind nginx are restarted one after the other under load: resumable clients lose nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from streamserve_sdk import RetryPolicy

from deploy.cluster import Cluster, Replica
from deploy.services import Missing
from tests.faults.readers import remote
from tests.faults.server import KEEPALIVE

LIMIT = 100.0
DRAIN_TIME = 2.0
CLIENTS = 6
JOINERS = 8
# Half a second; and eight, longer than a replica takes to end.
WISH = {"blocks": 500, "burst": 10, "pause": 0.01}
LONG_WISH = {"blocks": 4_000, "burst": 10, "pause": 0.02}
RETRY = RetryPolicy()  # what users have


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    settings = {
        "STREAMSERVE_CHAINS": "tests.faults.rolling",
        "STREAMSERVE_KEEPALIVE": str(KEEPALIVE),
        "STREAMSERVE_DRAIN_TIME": str(DRAIN_TIME),
        "STREAMSERVE_CANCEL_GRACE": "0.5",
    }
    try:
        with Cluster(settings=settings) as cluster:
            yield cluster
    except Missing as missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(missing))
    assert [service.name for service in cluster.services if service.overdue] == [], "had to be killed at the end"


@pytest.fixture
def rounds(pytestconfig: pytest.Config) -> int:
    return 4 if pytestconfig.getoption("--long") else 1


async def restart(cluster: Cluster, replica: Replica) -> None:
    await asyncio.to_thread(cluster.restart, replica)


async def count_until(stop: asyncio.Event, url: str, counts: list[list[int]]) -> None:
    async with remote(url, retry=RETRY) as client:
        while not stop.is_set():
            counts.append([int(chunk) async for chunk in client.astream(WISH)])


@pytest.mark.timeout(600)
async def test_clients_lose_nothing_while_every_replica_is_restarted(cluster: Cluster, rounds: int) -> None:
    stop, counts = asyncio.Event(), list[list[int]]()
    async with asyncio.timeout(LIMIT * rounds), asyncio.TaskGroup() as load:
        for _ in range(CLIENTS):
            load.create_task(count_until(stop, cluster.url, counts))
        for replica in cluster.replicas * rounds:
            await restart(cluster, replica)
        stop.set()
    whole = list(range(WISH["blocks"]))
    assert [numbers for numbers in counts if numbers != whole] == []
    assert len(counts) > CLIENTS * len(cluster.replicas) * rounds


async def test_readers_resume_when_their_replica_is_restarted(cluster: Cluster) -> None:
    reading, owning = cluster.replicas
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    reads = asyncio.Barrier(JOINERS + 1)
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as readers:
        owner = readers.create_task(count_once(owning.url, started))
        run_id = await started
        joined = [readers.create_task(join(cluster.url, run_id, reads)) for _ in range(JOINERS)]
        await reads.wait()
        assert reads_of(reading, run_id) > 0
        await restart(cluster, reading)
    whole = list(range(LONG_WISH["blocks"]))
    assert owner.result() == whole
    assert [task.result() for task in joined if task.result() != whole] == []
    assert reads_of(reading, run_id) + reads_of(owning, run_id) > JOINERS, "nobody had to come back"


async def count_once(url: str, started: asyncio.Future[str]) -> list[int]:
    async with remote(url) as client:
        return [int(chunk) async for chunk in client.astream(LONG_WISH, on_run=started.set_result)]


async def join(url: str, run_id: str, reads: asyncio.Barrier) -> list[int]:
    numbers: list[int] = []
    async with remote(url, retry=RETRY) as client:
        async for chunk in client.ajoin(run_id, 0):
            numbers.append(int(chunk))
            if len(numbers) == 1:
                await reads.wait()
    return numbers


def reads_of(replica: Replica, run_id: str) -> int:
    """Return the number of readers that connected to a replica."""
    return replica.log.read_text("utf-8").count(f"GET /runs/{run_id}/stream")
