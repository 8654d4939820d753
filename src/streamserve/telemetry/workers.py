"""A folder in which the workers of one server keep their metrics together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from streamserve.settings import Settings

# prometheus_client reads it when it is imported, so it is set before the workers start.
SHARED = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def shared_metrics(settings: Settings, workers: int) -> Iterator[None]:
    """Gives several workers a folder, gone with the server, unless somebody has named one.

    Args:
        settings: `metrics` and `dev`; a server that reloads has one worker.
        workers: processes.
    """
    if workers < 2 or settings.dev or settings.metrics == "off" or SHARED in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="streamserve-metrics-") as folder:
        os.environ[SHARED] = folder
        try:
            yield
        finally:
            del os.environ[SHARED]
