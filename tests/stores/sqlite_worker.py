"""Run a worker on a SQLite file: it writes endless runs, and prints what the store acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import uuid
from pathlib import Path

from streamserve.runs.runs import Runs
from streamserve.settings import Settings
from streamserve.stores import RunRecord, RunStore

ROOT = Path(__file__).parents[2]
LEASE = 1.0
PAUSE = 0.005


def start_worker(path: Path, runs: int) -> subprocess.Popen[str]:
    """Start a worker. It prints lines of `run_id seq`: the store has acknowledged the blocks up to this one."""
    command = [sys.executable, "-m", "tests.stores.sqlite_worker", str(path), str(runs)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def block(run_id: str, seq: int) -> bytes:
    """Return the block that the worker stores."""
    return f"{run_id} {seq}".encode()


async def write(store: RunStore, run_id: str, cancelled: set[str]) -> None:
    """Append to a run until somebody cancels it."""
    await store.acquire(RunRecord(run_id, "chain", "stream", "ann", created_at=1.0))
    seq = 1
    for count in itertools.cycle((1, 3, 2)):
        blocks = [block(run_id, number) for number in range(seq, seq + count)]
        seq = await store.append(run_id, 1, seq, blocks)
        print(run_id, seq - 1, flush=True)
        if run_id in cancelled:
            print(run_id, "cancelled", flush=True)
            return
        await asyncio.sleep(PAUSE)


async def work(path: str, count: int) -> None:
    """Write, and end the runs of dead workers as every server does."""
    runs = Runs(Settings(store=f"sqlite:///{path}", lease=LEASE, _env_file=None))
    cancelled: set[str] = set()
    runs.store.on_cancel = cancelled.add
    await runs.store.open()
    reaping = asyncio.create_task(runs.reaper.run())
    await asyncio.gather(*(write(runs.store, str(uuid.uuid4()), cancelled) for _ in range(count)))
    await reaping


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], int(sys.argv[2])))
