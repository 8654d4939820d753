"""The output of an ended run in the form of /invoke, merged from its blocks on request."""

from collections.abc import AsyncIterator

import orjson

from streamserve.stores import RunRecord, RunStore
from streamserve.wire.blocks import data_of
from streamserve.wire.merge import decode, merge
from streamserve.wire.serializer import split_types, typed_line

# Endpoints whose blocks are the chain's chunks.
CHUNKED = ("stream", "runs")
# Blocks read from the store at once.
PAGE = 1000


async def output_of(store: RunStore, record: RunRecord) -> tuple[bytes, bytes] | None:
    """Return the output and its types as JSON, or None if the run's blocks are not chunks."""
    if record.endpoint not in CHUNKED:
        return None
    if record.output is not None:
        return split_types(record.output)
    data = [found async for block in blocks_of(store, record) if (found := data_of(block)) is not None]
    chunks = [decode(orjson.loads(chunk), orjson.loads(types or b"{}")) for chunk, types in data]
    return split_types(typed_line(merge(chunks)))


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
