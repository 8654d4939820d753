"""Servers that share a Redis are killed at any moment, stopped for longer than their lease, or see Redis freeze."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count

import httpx
import pytest

from tests.faults.dying import DIES, PHASES, STORED
from tests.faults.server import UPSTREAM, CountingServer, counting
from tests.limits import LIMIT
from tests.runs.support import EndlessUpstream, endless_upstream
from tests.stores.servers import RedisServer, redis_server

LEASE = 1.0
PROMISE = LEASE + 1.0
FREEZE, LONG_FREEZE = 3.0, 5.0
READERS = 3
BLOCKS = 100
COUNT = {"input": {"blocks": BLOCKS, "burst": 10, "pause": 0.05}}
LONG_BLOCKS = 3_500
LONG_COUNT = {"input": {"blocks": LONG_BLOCKS, "burst": 10, "pause": 0.02}}  # 7 s: longer than the freeze
PATIENCE = 1.5
keys = count(1)


@dataclass
class Place:
    """A Redis, a server that survives, a model server, and the environment of further servers."""

    redis: RedisServer
    survivor: CountingServer
    upstream: EndlessUpstream
    environment: dict[str, str]

    def runs(self) -> set[str]:
        """Return the ids of all runs in Redis."""
        with self.redis.client() as client:
            return {name.decode().split("{")[1].split("}")[0] for name in client.scan_iter("streamserve:*:run")}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with redis_server() as redis, endless_upstream() as upstream:
        environment = {"STREAMSERVE_STORE": redis.url, "STREAMSERVE_LEASE": str(LEASE), UPSTREAM: upstream.url}
        with counting(environment) as survivor:
            yield Place(redis, survivor, upstream, environment)


@asynccontextmanager
async def client_of(server: CountingServer) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=url, timeout=LIMIT, trust_env=False) as client:
        while (await client.get("/readyz")).status_code != 200:
            pass
        yield client


@dataclass
class Reader:
    """The blocks of a run that one connection received."""

    blocks: list[bytes] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, client: httpx.AsyncClient, run_id: str) -> Reader:
        """Read to the end of the stream."""
        buffer = b""
        async with client.stream("GET", f"/runs/{run_id}/stream") as response:
            assert response.status_code == 200
            async for piece in response.aiter_raw():
                *blocks, buffer = (buffer + piece).split(b"\n\n")
                self.blocks += [block for block in map(_without_comments, blocks) if block]
                if any(b"event: data" in block for block in self.blocks):
                    self.begun.set()
        assert not _without_comments(buffer)
        return self

    @property
    def numbers(self) -> list[int]:
        """The numbers in the data blocks."""
        parts = [block.partition(b"data: ")[2] for block in self.blocks if b"event: data" in block]
        return [int(part.strip(b'" ')) for part in parts]

    @property
    def end(self) -> str:
        """The outcome, which must come once and last."""
        assert sum(b"event: end" in block or b"event: error" in block for block in self.blocks) == 1
        last = self.blocks[-1]
        return "end" if b"event: end" in last else last.partition(b'"code":"')[2].partition(b'"')[0].decode()

    def assert_whole(self, blocks: int) -> None:
        """Check that every block up to the end came once and in order."""
        ids = [int(line[4:]) for block in self.blocks for line in block.split(b"\n") if line.startswith(b"id: ")]
        assert ids == list(range(1, len(self.blocks) + 1))
        assert (self.numbers, self.end) == (list(range(blocks)), "end")


def _without_comments(block: bytes) -> bytes:
    return b"\n".join(line for line in block.split(b"\n") if not line.startswith(b":"))


async def start(client: httpx.AsyncClient, path: str = "/count/runs", **headers: str) -> str:
    response = await client.post(path, json=LONG_COUNT if not headers else COUNT, headers=headers)
    assert response.status_code == 202, response.text
    return str(response.headers["Run-Id"])


@pytest.mark.parametrize("phase", PHASES)
async def test_a_run_whose_owner_is_killed_has_one_end_for_all_readers(phase: str, place: Place) -> None:
    before, key = place.runs(), f"key-{next(keys)}"
    async with asyncio.timeout(LIMIT), client_of(place.survivor) as client:
        with counting(place.environment | {DIES: phase}) as owner:
            async with client_of(owner) as doomed:
                with suppress(httpx.TransportError):
                    await start(doomed, **{"Idempotency-Key": key})
            found = place.runs() - before
            readers = [Reader() for _ in range(READERS)] if found else []
            reading = [asyncio.create_task(reader.read(client, run_id)) for run_id in found for reader in readers]
            if phase == "when told to cancel":
                await readers[0].begun.wait()
                assert (await client.post(f"/runs/{next(iter(found))}/cancel")).status_code == 202
            await asyncio.to_thread(owner.process.wait, LIMIT)
            assert owner.process.returncode == -signal.SIGKILL
            async with asyncio.timeout(PROMISE):
                again = await start(client, **{"Idempotency-Key": key})
                await asyncio.gather(*reading)
        repeated = await Reader().read(client, again)
        known = "row" not in phase  # by its key
        assert found == ({again} if known else place.runs() - before - {again})
        if not known:
            repeated.assert_whole(BLOCKS)
        for run_id in found:
            late = await Reader().read(client, run_id)
            assert [reader.blocks for reader in readers] == [late.blocks] * READERS
            _judge(phase, late)
            status = (await client.get(f"/runs/{run_id}")).json()
            assert status["last_id"] == len(late.blocks)
            assert (status["status"], status["attempt"]) == (("done", 1) if late.end == "end" else ("lost", 2))
    assert len(found) == (phase != "before the row")


def _judge(phase: str, reader: Reader) -> None:
    if phase.startswith("after the terminal append"):
        return reader.assert_whole(BLOCKS)
    numbers = reader.numbers
    assert reader.end == "run_lost"
    assert numbers == list(range(len(numbers)))
    if phase == "before the terminal append":
        assert len(numbers) == BLOCKS
    elif "batch" in phase:
        assert STORED <= len(numbers) + 1 < BLOCKS
    elif phase == "when told to cancel":
        assert 0 < len(numbers) < BLOCKS
    else:
        assert not numbers
    return None


async def test_an_owner_that_wakes_after_its_lease_is_fenced(place: Place) -> None:
    async with asyncio.timeout(LIMIT), client_of(place.survivor) as client:
        with counting(place.environment) as owner:
            async with client_of(owner) as late:
                response = await late.post("/talk/runs", json={"input": "x"})
                run_id = response.headers["Run-Id"]
                await asyncio.to_thread(place.upstream.was_opened)
                reader = Reader()
                reading = asyncio.create_task(reader.read(client, run_id))
                await reader.begun.wait()
                owner.process.send_signal(signal.SIGSTOP)
                async with asyncio.timeout(PROMISE):
                    await reading
                assert reader.end == "run_lost"
                assert place.upstream.closed.empty()
                owner.process.send_signal(signal.SIGCONT)
                await asyncio.to_thread(place.upstream.was_closed)
                for server in (late, client):
                    assert (await Reader().read(server, run_id)).blocks == reader.blocks
                    status = (await server.get(f"/runs/{run_id}")).json()
                    assert (status["status"], status["attempt"]) == ("lost", 2)
                again = await Reader().read(client, await start(late, **{"Idempotency-Key": f"key-{next(keys)}"}))
                again.assert_whole(BLOCKS)


@pytest.fixture
def freeze(pytestconfig: pytest.Config) -> float:
    return LONG_FREEZE if pytestconfig.getoption("--long") else FREEZE


async def test_a_frozen_redis_pauses_runs_and_refuses_new_ones(place: Place, freeze: float) -> None:
    key = {"Idempotency-Key": f"key-{next(keys)}"}
    async with asyncio.timeout(LIMIT), client_of(place.survivor) as other:
        with counting(place.environment) as server:
            async with client_of(server) as owner:
                run_id = await start(owner)
                readers = [Reader(), Reader()]
                reading = [
                    asyncio.create_task(reader.read(client, run_id))
                    for reader, client in zip(readers, (owner, other), strict=True)
                ]
                for reader in readers:
                    await reader.begun.wait()
                place.redis.freeze()
                try:
                    refused = await _refused(owner, other, key, freeze)
                finally:
                    place.redis.thaw()
                assert refused >= 4
                assert not any(task.done() for task in reading)
                for client in (owner, other):
                    while (await client.get("/readyz")).status_code != 200:
                        pass
                for reader in await asyncio.gather(*reading):
                    reader.assert_whole(LONG_BLOCKS)
                (await Reader().read(other, await start(owner, **key))).assert_whole(BLOCKS)
                assert place.upstream.opened.empty()


async def _refused(owner: httpx.AsyncClient, other: httpx.AsyncClient, key: dict[str, str], seconds: float) -> int:
    """Send requests for some seconds, check that all are refused, and return their number."""
    loop, refused = asyncio.get_running_loop(), 0
    end = loop.time() + seconds
    while loop.time() < end:
        for client in (owner, other):
            asked = [
                client.get("/readyz"),
                client.post("/talk/runs", json={"input": "x"}),
                client.post("/talk/stream", json={"input": "x"}),
                client.post("/count/runs", json=COUNT, headers=key),
            ]
            for response in await asyncio.gather(*asked):
                assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
                assert int(response.headers["Retry-After"]) > 0
                refused += 1
            assert (await client.get("/healthz")).status_code == 200
    return refused


async def test_a_run_given_up_while_redis_was_frozen_has_one_end(place: Place) -> None:
    impatient = place.environment | {"STREAMSERVE_STORE_PATIENCE": str(PATIENCE)}
    key = {"Idempotency-Key": f"key-{next(keys)}"}
    async with asyncio.timeout(LIMIT), client_of(place.survivor) as patient:
        with counting(impatient) as server:
            async with client_of(server) as owner:
                run_id = await start(owner)
                near, far = Reader(), Reader()
                reading = asyncio.create_task(near.read(owner, run_id))
                waiting = asyncio.create_task(far.read(patient, run_id))
                for reader in (near, far):
                    await reader.begun.wait()
                place.redis.freeze()
                try:
                    await reading
                    # Not a block of the run: this server only reports that it knows no more.
                    assert near.end == "store_unavailable"
                    assert b"id:" not in near.blocks[-1]
                    assert await _refused(owner, patient, key, PATIENCE) > 0
                    assert not waiting.done()
                finally:
                    place.redis.thaw()
                await waiting
                assert far.end == "run_lost"
                assert far.numbers == list(range(len(far.numbers)))
                assert near.blocks[:-1] == far.blocks[: len(near.blocks) - 1]
                for client in (owner, patient):
                    assert (await Reader().read(client, run_id)).blocks == far.blocks
                    assert (await client.get(f"/runs/{run_id}")).json()["status"] == "lost"
                (await Reader().read(patient, await start(owner, **key))).assert_whole(BLOCKS)
