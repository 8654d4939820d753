"""The output of an ended run in the form of /invoke: stored with it, or merged from its blocks of texts or messages."""

import asyncio
from collections.abc import AsyncIterator

from streamserve.lcel.whole import Output
from streamserve.runs.fairness import TimeSlice
from streamserve.stores import RunRecord, RunStore
from streamserve.wire.blocks import data_of
from streamserve.wire.serializer import split_types, typed_line
from streamserve.wire.stored_chunks import chunk_of

# Endpoints whose blocks are the chain's chunks.
CHUNKED = ("stream", "runs")
# Endpoints whose runs have no chunks; their output is the whole answer.
CALLS = ("invoke", "batch")
# Blocks read from the store at once.
PAGE = 1000


async def output_of(store: RunStore, record: RunRecord) -> tuple[bytes, bytes] | None:
    """Return the output and its types as JSON, or None if the run has no single output."""
    if record.output is not None:
        return split_types(record.output)
    if record.endpoint not in CHUNKED:
        return None
    whole, time_slice = Output(), TimeSlice()
    try:
        async for block in blocks_of(store, record):
            if (found := data_of(block)) is not None:
                if (chunk := chunk_of(found[0])) is None:
                    return None
                whole.add(chunk)
            if time_slice.is_spent():
                await asyncio.sleep(0)
        return split_types(typed_line(whole.value()))
    except (TypeError, ValueError):  # messages that do not add up, as in process
        return None


async def blocks_of(store: RunStore, record: RunRecord) -> AsyncIterator[bytes]:
    """Yield the blocks of a run up to the record's last one, or up to the first that the store lacks."""
    cursor = 0
    while cursor < record.last_id:
        blocks, _ = await store.read(record.run_id, cursor, PAGE)
        if not blocks:
            break
        for block in blocks:
            yield block
        cursor += len(blocks)
