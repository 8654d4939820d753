"""A page of a thread's history as JSON: read, encoded and sent in parts, so that it does not hold the event loop."""

from collections.abc import AsyncIterator
from typing import Literal

from fastapi import Response
from fastapi.responses import StreamingResponse
from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot

from streamserve.api.threads.requests import Checkpoint, HistorySearch
from streamserve.api.threads.states import thread_state
from streamserve.errors.places import invalid
from streamserve.graphs.graph import Graph
from streamserve.http.body import off_loop
from streamserve.wire.serializer import to_line

# Maximum bytes of a page of several states: the page is kept until the caller has read it.
MAX_PAGE_BYTES = 64 * 2**20
# Bytes of states of which LangGraph may read twice as many at once: it keeps all that it reads at once.
SMALL = 64 * 2**10


def encoded(snapshot: StateSnapshot) -> bytes:
    """Return a state as JSON."""
    return to_line(thread_state(snapshot))


async def read_page(
    graph: Graph, search: HistorySearch, config: RunnableConfig, source: Literal["query", "body"]
) -> list[bytes]:
    """Return the states that a search finds as JSON, latest first.

    Args:
        graph: the graph.
        search: the search.
        config: the config that names the thread.
        source: the part of the request that has the search, for the places of errors.

    Raises:
        InvalidInput: the states are too large for one page, or the saver cannot search the metadata.
    """
    before = Checkpoint(checkpoint_id=search.before) if isinstance(search.before, str) else search.before
    place = before.config(config["configurable"]["thread_id"]) if before else None
    lines: list[bytes] = []
    size, count = 0, 1
    while wanted := min(count, search.limit - len(lines)):
        states = [state async for state in _states(graph, search, config, place, wanted)]
        added = [await off_loop(encoded, state) for state in states]
        lines += added
        size += sum(map(len, added))
        if size > MAX_PAGE_BYTES and len(lines) > 1:
            reason = f"{len(lines)} states have more than {MAX_PAGE_BYTES} bytes: ask for fewer"
            raise invalid((source, "limit"), reason, "too_long")
        if len(states) < wanted:
            break
        place, count = states[-1].config, 2 * count if sum(map(len, added)) < SMALL else 1
    return lines


async def _states(
    graph: Graph, search: HistorySearch, config: RunnableConfig, before: RunnableConfig | None, limit: int
) -> AsyncIterator[StateSnapshot]:
    try:
        async for state in graph.aget_state_history(config, filter=search.metadata, before=before, limit=limit):
            yield state
    except (ValueError, TypeError) as error:
        if search.metadata is None:
            raise
        # Some savers accept only plain names and values in a filter.
        raise invalid(("body", "metadata"), "These metadata cannot be searched", "value_error") from error


def page_answer(lines: list[bytes]) -> Response:
    """Return the answer with states as JSON."""
    length = str(sum(map(len, lines)) + max(len(lines), 1) + 1)
    return StreamingResponse(_parts(lines), media_type="application/json", headers={"Content-Length": length})


async def _parts(lines: list[bytes]) -> AsyncIterator[bytes]:
    # A page may have many megabytes: joined and sent at once, they would hold the event loop.
    for index, line in enumerate(lines):
        yield (b"," if index else b"[") + line
    yield b"]" if lines else b"[]"
