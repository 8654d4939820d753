"""LangSmith works as in LangServe: LANGSMITH_TRACING and its other variables switch on LangChain's own tracer.

Its client sends from its own threads, so a slow or unreachable endpoint delays no stream. Without bounds the client
delays the end of the process by minutes; this module sets them.
"""

import os

from langsmith import Client
from langsmith.run_trees import get_cached_client
from langsmith.utils import tracing_is_enabled
from urllib3 import Retry

# Milliseconds to connect and to answer. Unsent traces are dropped, because a hanging restart costs more than a trace.
TIMEOUTS = (2_000, 4_000)
# Seconds at the end of the server to send the remaining traces.
FLUSH_LIMIT = 3.0


def bounded_client() -> Client | None:
    """Return the client of LangChain's tracer with time limits, or None if tracing is off."""
    if tracing_is_enabled() is not True:
        return None
    os.environ.setdefault("LANGSMITH_USE_DAEMON", "true")
    return get_cached_client(timeout_ms=TIMEOUTS, retry_config=Retry(total=0))
