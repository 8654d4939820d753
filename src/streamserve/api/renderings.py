"""The forms in which a reader gets chunks that the store has as patches: whole, or as patches if the reader asks.

A reader asks with a parameter of `Accept`. `patch=rfc6902` means JSON Patch; with `patch=append`, a patch may have the
operation `append`, as in the store. A reader that continues (`Last-Event-ID`) has the chunk at its cursor; one that
joins (`after`) has not, so its first patch is the whole chunk.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Literal, cast

from fastapi import Request

from streamserve.errors import BadRequest
from streamserve.runs.fairness import TimeSlice
from streamserve.stores import RunStore, StoreDown
from streamserve.wire.blocks import data_block, is_patch, patch_block, patch_of
from streamserve.wire.patches import Snapshot, operations_of
from streamserve.wire.serializer import typed_line

Form = Literal["whole", "rfc6902", "append"]

_PARAMETER = re.compile(r';\s*patch\s*=\s*"?([^\s";,]*)')
# Blocks read from the store at once.
PAGE = 256


def form_of(request: Request) -> Form:
    """Return the form that a request asks for.

    Raises:
        BadRequest: the parameter has another value.
    """
    found = _PARAMETER.search(request.headers.get("Accept", ""))
    if found is None:
        return "whole"
    if found[1] not in ("rfc6902", "append"):
        raise BadRequest("Accept: the parameter patch is rfc6902 or append")
    return cast(Form, found[1])


class Rendering:
    """The blocks of one run in the form for one reader.

    Args:
        form: the form.
        joins: whether the reader does not have the chunk at its cursor (default false).
    """

    def __init__(self, store: RunStore, run_id: str, form: Form = "whole", *, joins: bool = False) -> None:
        self._store, self._run_id, self._form, self._joins = store, run_id, form, joins
        self._snapshot, self._last = Snapshot(), 0
        self._time_slice: TimeSlice | None = None

    def passes(self, blocks: Sequence[bytes]) -> bool:
        """Return whether the reader gets these blocks as they are stored."""
        return (self._form == "append" and not self._joins) or not any(map(is_patch, blocks))

    async def block(self, number: int, block: bytes) -> bytes:
        """Return a block, after those before it.

        Raises:
            StoreDown: the blocks before it cannot be read.
        """
        if self.passes((block,)):
            return block
        await self._catch_up(number - 1)
        operations = self._snapshot.apply(operations_of(patch_of(block)))
        self._last = number
        joins, self._joins = self._joins, False
        if self._form == "whole":
            return data_block(number, self._snapshot.line())
        return patch_block(number, self._snapshot.patch() if joins else typed_line(operations))

    async def breathe(self) -> None:
        """Let other tasks run if this one has held the event loop for too long."""
        self._time_slice = self._time_slice or TimeSlice()
        if self._time_slice.is_spent():
            await asyncio.sleep(0)

    async def _catch_up(self, last: int) -> None:
        while self._last < last:
            blocks, _ = await self._store.read(self._run_id, self._last, min(PAGE, last - self._last))
            if not blocks:
                raise StoreDown("the first blocks of the run are gone")
            for block in blocks:
                if is_patch(block):
                    self._snapshot.apply(operations_of(patch_of(block)))
                await self.breathe()
            self._last += len(blocks)
