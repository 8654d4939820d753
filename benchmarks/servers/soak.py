"""The server of the soak: chains that behave and chains that misbehave, and counts of objects in the process."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from itertools import product
from pathlib import Path

from benchmarks.servers import behaving, misbehaving
from streamserve.api.services import services_in
from streamserve.app import create_app
from streamserve.catalog.registry import Registry
from streamserve.settings import Settings
from tests.fakes import registry_of
from tests.faults.hostile_server import targets

STATM = Path("/proc/self/statm")
# Of glibc: gives back what its heaps keep after long texts, so that the rest is a leak.
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", lambda _kept: 0)

chains = registry_of({**behaving.chains(), **targets(), **misbehaving.chains()}).chains
# Ended runs are forgotten soon, so that the rest is a leak. In development, broken chains do not stop the start.
settings = Settings(retention=5, tombstone=5, orphan_grace=2, body_timeout=2, dev=True)
app = create_app(Registry(chains, misbehaving.broken_modules()), settings)
ENDPOINTS = ("invoke", "batch", "stream", "stream_log", "stream_events", "runs")


def make_metrics() -> None:
    """Make the metrics of each chain's endpoints, which would look like a leak if first calls made them."""
    metrics = services_in(app).telemetry.metrics
    assert metrics is not None
    for names in product(chains, ENDPOINTS):
        metrics.meter(*names)
        metrics.first_token_of(*names)
        metrics.duration_of(*names)
        for state in ("done", "failed", "cancelled"):
            metrics.runs_of(*names, state)


make_metrics()


@app.get("/left")
async def left() -> dict[str, int]:
    """Return the counts of objects in this process, without this request."""
    gc.collect()
    TRIM(0)
    pages = int(STATM.read_text("ascii").split()[1])  # noqa: ASYNC240 - memory, not a disk
    runs = services_in(app).runs
    return {
        "memory_kb": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "tasks": len(asyncio.all_tasks()),
        "files": len(os.listdir("/proc/self/fd")),
        "runs": runs.load().runs + runs.store.retained[0],
        "readers": runs.load().readers,
    }
