"""The blocks of a run as JSON, for readers behind a proxy that holds event streams back."""

import asyncio
from collections.abc import Sequence

from fastapi import Request, Response

from streamserve.api.access import runs_base
from streamserve.api.renderings import Rendering, form_of
from streamserve.api.response import BATCH, WRITE_BYTES, at_end, run_headers, writes
from streamserve.api.waiting import while_reading
from streamserve.runs.runs import Runs
from streamserve.stores import RunRecord
from streamserve.stores.base import Slice
from streamserve.wire.blocks import fields_of
from streamserve.wire.serializer import to_line


async def blocks_answer(
    request: Request, runs: Runs, record: RunRecord, cursor: int, wait: float, *, joins: bool = False
) -> Response:
    """Return the next blocks after a cursor; if there are none, wait for the first one.

    Args:
        cursor: the sequence number of the last block that the reader has.
        wait: seconds.
        joins: whether the reader does not have the chunk at its cursor (default false).

    Raises:
        BadRequest: the form of chunks is unknown.
        RunExpired: the blocks after the cursor are past their retention.
        Cancelled: the caller left.
    """
    base, form = runs_base(request, record.run_id), form_of(request)
    if end := at_end(record, cursor, base):
        return end
    found = await while_reading(request, runs, record.run_id, _read(runs, record, cursor, wait))
    if found.at_end and not found.blocks:  # they have expired meanwhile, or the cursor is at the end now
        record = await runs.find(record.run_id, record.principal)
        if end := at_end(record, cursor, base):
            return end
    rendering = Rendering(runs.store, record.run_id, form, joins=joins)
    blocks = await _rendered(rendering, min(cursor, record.last_id), next(writes(found.blocks), ()))
    body = to_line({"run_id": record.run_id, "blocks": [fields_of(block) for block in blocks]})
    return Response(body, media_type="application/json", headers=run_headers(record.run_id, base))


async def _rendered(rendering: Rendering, cursor: int, blocks: Sequence[bytes]) -> Sequence[bytes]:
    if rendering.passes(blocks):
        return blocks
    rendered: list[bytes] = []
    for number, block in enumerate(blocks, cursor + 1):
        rendered.append(await rendering.block(number, block))
        if sum(map(len, rendered)) > WRITE_BYTES:
            break
        await rendering.breathe()
    return rendered


async def _read(runs: Runs, record: RunRecord, cursor: int, wait: float) -> Slice:
    cursor = min(cursor, record.last_id)
    woken = asyncio.Event()
    unsubscribe = runs.store.subscribe(record.run_id, woken.set)
    try:
        found = await runs.store.read(record.run_id, cursor, BATCH)
        async with asyncio.timeout(wait):
            while not (found.blocks or found.at_end):
                await woken.wait()
                woken.clear()
                found = await runs.store.read(record.run_id, cursor, BATCH)
    except TimeoutError:
        pass
    finally:
        unsubscribe()
    return found
