"""The folder in which the workers of one server keep their metrics."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from streamserve.settings import Settings

# Set before the workers start, because prometheus_client reads it on import.
SHARED = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def shared_metrics(settings: Settings, workers: int) -> Iterator[None]:
    """Give several workers a temporary folder while the `with` block runs, unless the environment names one."""
    if workers < 2 or settings.dev or settings.metrics == "off" or SHARED in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="streamserve-metrics-") as folder:
        os.environ[SHARED] = folder
        try:
            yield
        finally:
            del os.environ[SHARED]
