"""Run the canned streams of a self-check in this process without a trace of them."""

import asyncio
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from langchain_core.globals import get_debug, get_verbose, set_debug, set_verbose
from langsmith import tracing_context

T = TypeVar("T")


def isolated(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread with an event loop of its own; no log, tracer or telemetry sees it."""
    # In a thread, because the caller may be in an event loop, and in the context of a tracer or a run.
    with ThreadPoolExecutor(1) as pool, _without_debugging():
        return pool.submit(asyncio.run, _untraced(work)).result()


async def _untraced(work: Coroutine[Any, Any, T]) -> T:
    # The key under which OpenTelemetry's instrumentations look, among them OpenInference's.
    if telemetry := sys.modules.get("opentelemetry.context"):
        telemetry.attach(telemetry.set_value("suppress_instrumentation", True))
    with tracing_context(enabled=False):
        return await work


@contextmanager
def _without_debugging() -> Iterator[None]:
    debug, verbose = get_debug(), get_verbose()
    set_debug(False)
    set_verbose(False)
    try:
        yield
    finally:
        set_debug(debug)
        set_verbose(verbose)
