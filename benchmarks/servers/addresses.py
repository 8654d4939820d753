"""Addresses of the stores that the benchmarks compare."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.services import free_port


@contextmanager
def addresses() -> Iterator[dict[str, str]]:
    """Yield the URLs of the stores to compare; Redis is left out if it is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        urls = {"memory": "memory:", "sqlite": f"sqlite:///{folder}/runs.sqlite"}
        if shutil.which("redis-server") is None:
            print("redis-server is not installed: Redis is left out")
            yield urls
            return
        with _redis(folder) as url:
            yield {**urls, "redis": url}


@contextmanager
def _redis(folder: str) -> Iterator[str]:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()
