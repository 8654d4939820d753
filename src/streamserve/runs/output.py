"""The output of an ended run in the form of /invoke, merged from its blocks on request."""

from __future__ import annotations

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
    chunks = [decode(orjson.loads(data), orjson.loads(types or b"{}")) for data, types in await _data(store, record)]
    return split_types(typed_line(merge(chunks)))


async def _data(store: RunStore, record: RunRecord) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    cursor = 0
    while cursor < record.last_id:
        blocks, _ = await store.read(record.run_id, cursor, PAGE)
        if not blocks:
            break
        found += [data for block in blocks if (data := data_of(block)) is not None]
        cursor += len(blocks)
    return found
