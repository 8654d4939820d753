"""Kill workers on one SQLite file: acknowledged blocks stay, and each run ends once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.services import free_port
from streamserve.stores.sqlite import SqliteStore
from tests.limits import LIMIT
from tests.stores.sqlite_worker import LEASE, ROOT, block, start_worker

RUNS = 4
KILLS, LONG_KILLS = 3, 25
# Seconds that the survivors have by promise, and that a busy machine may add.
PROMISE, SLACK = LEASE + 1.0, 4.0


@contextmanager
def serving(path: Path, workers: int) -> Iterator[str]:
    """Run `streamserve serve --workers` with a file, and kill all its processes at the end."""
    port = free_port()
    command = [sys.executable, "-m", "streamserve.cli", "serve", "--app", "tests.faults.sqlite_server:app"]
    environment = {**os.environ, "STREAMSERVE_STORE": f"sqlite:///{path}", "STREAMSERVE_LEASE": str(LEASE)}
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", str(workers)],
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: ready(url))
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT)


def ready(url: str) -> bool:
    """Return whether the server answers."""
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition for a limited time."""
    give_up = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"


def test_a_restart_keeps_ended_runs_and_loses_live_ones(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    with serving(path, 2) as url, httpx.Client(base_url=url, trust_env=False, timeout=LIMIT) as client:
        whole = client.post("/count/stream", json={"input": {"blocks": 50}})
        done = whole.headers["Run-Id"]
        live = client.post("/count/runs", json={"input": {"blocks": 10_000, "rest": 1000}}).headers["Run-Id"]
        for _ in range(10):  # new connections, so that both workers answer
            answer = httpx.get(f"{url}/runs/{done}/stream", trust_env=False)
            assert answer.text.partition("id: 1\n")[2] == whole.text.partition("id: 1\n")[2]
    with serving(path, 2) as url, httpx.Client(base_url=url, trust_env=False, timeout=LIMIT) as client:
        again = client.get(f"/runs/{done}/stream")
        assert again.text.partition("id: 1\n")[2] == whole.text.partition("id: 1\n")[2]
        wait_until(lambda: client.get(f"/runs/{live}").json()["status"] == "lost")
        assert client.get(f"/runs/{live}/stream").text.count('"run_lost"') == 1


def test_several_workers_do_not_start_with_memory() -> None:
    command = [sys.executable, "-m", "streamserve.cli", "serve", "--app", "tests.faults.sqlite_server:app"]
    environment = {**os.environ, "STREAMSERVE_STORE": "memory:", "WEB_CONCURRENCY": "2"}
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert answer.returncode == 1
    assert "2 workers cannot share memory" in answer.stderr


class Worker:
    """A worker process, and what the store acknowledged to it."""

    def __init__(self, path: Path) -> None:
        self.acknowledged: dict[str, int] = {}
        self.busy = threading.Event()
        self._process = start_worker(path, RUNS)
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            run_id, _, seq = line.strip().partition(" ")
            if line.endswith("\n"):
                self.acknowledged[run_id] = int(seq)
            if len(self.acknowledged) == RUNS and min(self.acknowledged.values()) > 20:
                self.busy.set()

    def kill(self) -> None:
        """End the process as a crash would, and read what it printed before."""
        self._process.kill()
        self._process.wait(LIMIT)
        self._listener.join(LIMIT)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def working(path: Path, count: int) -> Iterator[list[Worker]]:
    """Start workers, and kill those that are in the list at the end."""
    workers = [Worker(path) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()


async def ended(store: SqliteStore, run_id: str) -> list[bytes]:
    """Read all blocks of a run to its end."""
    woken = asyncio.Event()
    unsubscribe = store.subscribe(run_id, woken.set)
    blocks: list[bytes] = []
    while True:
        woken.clear()
        found, at_end = await store.read(run_id, len(blocks), 10_000)
        blocks += found
        if at_end:
            unsubscribe()
            return blocks
        if not found:
            await woken.wait()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [2, 4])
async def test_killed_workers_lose_no_acknowledged_block(
    count: int, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    draw, path = random.Random(count), tmp_path / "runs.sqlite"
    took: list[float] = []
    with working(path, count) as workers:
        reader = SqliteStore(path, lease=LEASE)
        await reader.open()
        for _ in range(LONG_KILLS if pytestconfig.getoption("--long") else KILLS):
            for worker in workers:
                assert await asyncio.to_thread(worker.busy.wait, LIMIT)
            victim = workers.pop(draw.randrange(count))
            reading = [asyncio.create_task(ended(reader, run_id)) for run_id in victim.acknowledged]
            await asyncio.to_thread(victim.kill)
            killed = time.monotonic()
            async with asyncio.timeout(PROMISE + SLACK):
                logs = await asyncio.gather(*reading)
            took.append(time.monotonic() - killed)
            for (run_id, last), blocks in zip(victim.acknowledged.items(), logs, strict=True):
                assert len(blocks) > last
                assert blocks[:-1] == [block(run_id, seq) for seq in range(1, len(blocks))]
                assert b"run_lost" in blocks[-1]
                record = await reader.get(run_id)
                assert record is not None
                assert (record.status, record.last_id, record.attempt) == ("lost", len(blocks), 2)
            workers.append(Worker(path))
        await reader.close()
    print(f"{count} workers, {len(took)} kills: runs ended after {max(took):.2f} s at most")
