"""/metrics: what Prometheus reads, from this process or, with several workers, from all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response, params
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Metric,
    generate_latest,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from streamserve.api.access import runs_of
from streamserve.settings import Settings
from streamserve.telemetry.metrics import Metrics
from streamserve.telemetry.pulse import look
from streamserve.telemetry.workers import SHARED


class AllWorkers(Collector):
    """The metrics of all workers: what the dead have counted stays, what they had open does not.

    Args:
        folder: where they keep them.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._values: Any = MultiProcessCollector(None, folder)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        forget_dead(Path(self._folder))
        yield from self._values.collect()


def forget_dead(folder: Path) -> None:
    """Drops what workers had open that are gone without a word."""
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*_*.db")}:
        if not _is_alive(pid):
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def shown(metrics: Metrics) -> CollectorRegistry:
    """The registry to answer from.

    Args:
        metrics: of this process.
    """
    if path := os.environ.get(SHARED):
        together = CollectorRegistry()
        together.register(AllWorkers(path))
        return together
    return metrics.registry


def is_guarded(settings: Settings) -> bool:
    """Whether /metrics is behind the guard: always, but on loopback or where the settings say otherwise."""
    return settings.metrics == "guarded" or (settings.metrics == "auto" and not _is_loopback(settings.host))


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def router(metrics: Metrics | None, settings: Settings, guard: Sequence[params.Depends]) -> APIRouter:
    """The route /metrics, unless it is off or has a port of its own.

    Args:
        metrics: of this process; None: off.
        settings: `metrics` and `metrics_port`.
        guard: what callers must pass where it is guarded.
    """
    routes = APIRouter(tags=["health"], dependencies=list(guard) if is_guarded(settings) else [])
    if metrics is None or settings.metrics_port is not None:
        return routes
    registry = shown(metrics)

    async def answer(request: Request) -> Response:
        look(metrics, runs_of(request))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    documented = {"description": "Prometheus's text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    routes.get("/metrics", summary="Metrics", response_class=Response, responses={200: documented})(answer)
    return routes


@contextmanager
def own_port(metrics: Metrics, settings: Settings) -> Iterator[None]:
    """Answers on `metrics_port` as long as the block lasts; of several workers one does, for all.

    Args:
        metrics: of this process.
        settings: `host` and `metrics_port`.

    Raises:
        OSError: the port is taken, and not by another worker.
    """
    if settings.metrics_port is None:
        yield
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.host, shown(metrics))
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
