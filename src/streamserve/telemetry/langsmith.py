"""LangSmith, as LangServe has it: LangChain's own tracer, switched on by LANGSMITH_TRACING and its other variables.

Its client sends from threads of its own, so that an endpoint that is slow or away is in the way of no stream. Left as
it is, it holds up the end of the process by minutes, which is what is bounded here.
"""

from __future__ import annotations

import os

from langsmith import Client
from langsmith.run_trees import get_cached_client
from langsmith.utils import tracing_is_enabled
from urllib3 import Retry

# Milliseconds to connect and to answer. What cannot be sent is dropped: a trace is not worth a restart that hangs.
TIMEOUTS = (2_000, 4_000)
# Seconds at the end of the server for what was not sent yet.
FLUSH_LIMIT = 3.0


def bounded_client() -> Client | None:
    """The client that LangChain's tracer will use, with bounds on its waiting; None: tracing is off."""
    if tracing_is_enabled() is not True:
        return None
    os.environ.setdefault("LANGSMITH_USE_DAEMON", "true")
    return get_cached_client(timeout_ms=TIMEOUTS, retry_config=Retry(total=0))


def close(client: Client) -> None:
    """Sends what there still is, and waits for the endpoint no longer than may be."""
    client.close(timeout=FLUSH_LIMIT)
