"""/metrics: Prometheus reads it, for this process or, with several workers, for all of them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response, params
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from streamserve.auth.guard import is_loopback
from streamserve.runs.runs import Runs
from streamserve.settings import Settings
from streamserve.telemetry.loop_monitor import refresh
from streamserve.telemetry.metrics import Metrics
from streamserve.telemetry.workers import SHARED


class AllWorkers(Collector):
    """The metrics of all workers. The counters of dead workers stay, and their gauges are dropped."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._values: Any = MultiProcessCollector(None, folder)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        drop_dead_workers(Path(self._folder))
        yield from self._values.collect()


def drop_dead_workers(folder: Path) -> None:
    """Drop the gauges of workers that died, which could not reset them."""
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*_*.db")}:
        if not _is_alive(pid):
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process lives, under another account
    return True


def registry_of(metrics: Metrics) -> CollectorRegistry:
    """Return the registry of all workers if they share a folder, else the one of this process."""
    if path := os.environ.get(SHARED):
        together = CollectorRegistry()
        together.register(AllWorkers(path))
        return together
    return metrics.registry


def is_guarded(settings: Settings) -> bool:
    """Return True if /metrics needs a credential: by default everywhere except on loopback."""
    return settings.metrics == "guarded" or (settings.metrics == "auto" and not is_loopback(settings.host))


def router(metrics: Metrics | None, runs: Runs, settings: Settings, guard: Sequence[params.Depends]) -> APIRouter:
    """Return the route /metrics, behind the guard if the settings demand it.

    There is no route if metrics are off (None) or have a separate port.
    """
    routes = APIRouter(tags=["health"], dependencies=list(guard) if is_guarded(settings) else [])
    if metrics is None or settings.metrics_port is not None:
        return routes
    registry = registry_of(metrics)

    async def answer() -> Response:
        refresh(metrics, runs)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    documented = {"description": "Prometheus's text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    routes.get("/metrics", summary="Metrics", response_class=Response, responses={200: documented})(answer)
    return routes


@contextmanager
def serve_on_own_port(metrics: Metrics, settings: Settings) -> Iterator[None]:
    """Answer on `metrics_port` while the `with` block runs. Of several workers, one answers for all.

    Raises:
        OSError: another process than a worker of this server uses the port.
    """
    if settings.metrics_port is None:
        yield
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.host, registry_of(metrics))
    except OSError:
        if SHARED not in os.environ:
            raise
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
