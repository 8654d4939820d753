"""Fill the disk of a server's SQLite file: it says so, ends its runs, and works again once there is room."""

from __future__ import annotations

import asyncio
import resource
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.faults.server import CountingServer, counting
from tests.faults.test_redis_served import Reader, client_of
from tests.limits import LIMIT

PATIENCE = 1.0
LEASE = 1.0
KEYS = {"Idempotency-Key": "of-the-refused"}
# As fast as possible: only a write finds out that the disk is full.
RUN = {"input": {"blocks": 100_000, "burst": 50, "pause": 0.01}}
SHORT = {"input": {"blocks": 100, "burst": 50, "pause": 0.01}}
DISK = 8 * 2**20


@dataclass
class Disk:
    """A folder whose free space a test takes and gives back while a server uses it."""

    folder: Path
    fill: Callable[[CountingServer], None]
    free: Callable[[CountingServer], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a file system of a few megabytes; ballast takes the space that is left."""
    folder, ballast = tmp_path / "disk", tmp_path / "disk" / "ballast"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here; the limit of a file's size stands in for it")

    def fill(_server: CountingServer) -> None:
        with ballast.open("wb", buffering=0) as file:
            size = 2**20
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    size //= 2

    yield Disk(folder, fill, lambda _server: ballast.unlink())
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def limited_files(tmp_path: Path) -> Disk:
    """Limit the size of the server's files to what they have."""

    def fill(server: CountingServer) -> None:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    def free(server: CountingServer) -> None:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    return Disk(tmp_path, fill, free)


@pytest.fixture(params=["small_disk", "limited_files"])
def disk(request: pytest.FixtureRequest) -> Disk:
    found: Disk = request.getfixturevalue(request.param)
    return found


async def test_a_full_disk_ends_runs_truthfully_and_needs_no_restart(disk: Disk) -> None:
    environment = {
        "STREAMSERVE_STORE": f"sqlite:///{disk.folder}/runs.sqlite",
        "STREAMSERVE_STORE_PATIENCE": str(PATIENCE),
        "STREAMSERVE_LEASE": str(LEASE),
    }
    with counting(environment) as server:
        async with asyncio.timeout(LIMIT), client_of(server) as client:
            ids = [(await client.post("/count/runs", json=RUN)).headers["Run-Id"] for _ in range(3)]
            readers = [Reader() for _ in ids]
            reading = [
                asyncio.create_task(reader.read(client, run_id)) for reader, run_id in zip(readers, ids, strict=True)
            ]
            for reader in readers:
                await reader.begun.wait()
            disk.fill(server)
            while (answer := await client.get("/readyz")).status_code == 200:
                pass
            assert_says_why(answer)
            for path in ("/count/runs", "/count/stream"):
                assert_says_why(await client.post(path, json=SHORT, headers=KEYS))
            assert (await client.get("/healthz")).status_code == 200
            for reader in await asyncio.gather(*reading):
                assert reader.end in ("store_unavailable", "run_lost")
                assert reader.numbers == list(range(len(reader.numbers)))
            disk.free(server)
            while (await client.get("/readyz")).status_code != 200:
                pass
            for reader, run_id in zip(readers, ids, strict=True):
                late = await Reader().read(client, run_id)
                assert late.end == "run_lost"
                shown = [block for block in reader.blocks if b"id:" in block]
                assert late.blocks[: len(shown)] == shown
                assert (await client.get(f"/runs/{run_id}")).json()["status"] == "lost"
            again = await client.post("/count/runs", json=SHORT, headers=KEYS)
            (await Reader().read(client, again.headers["Run-Id"])).assert_whole(SHORT["input"]["blocks"])
            assert server.process.poll() is None


def assert_says_why(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert answer.json()["retryable"]
    assert int(answer.headers["Retry-After"]) > 0
