"""The ASGI response with a run's stream: replay, live blocks, keep-alive and the terminal block.

A reader is a cursor into the store. It never touches the chain; a slow reader costs only its socket's buffer.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from streamserve.api.reader import Reader
from streamserve.api.renderings import Form, Rendering
from streamserve.errors import RunExpired, ServeError, StoreUnavailable
from streamserve.http.intake import BODY
from streamserve.runs.runs import Runs
from streamserve.stores import RunRecord, StoreDown
from streamserve.wire.blocks import KEEP_ALIVE, error_block

logger = logging.getLogger(__name__)

# Maximum blocks per read of the store: bounds the memory of a reader that is far behind.
BATCH = 256
# Seconds before an unreachable store is tried again.
STORE_PAUSE = 0.25
# Maximum bytes per write, unless a single block is larger.
WRITE_BYTES = 64 * 2**10
HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "Content-Type": "text/event-stream; charset=utf-8",
}


class StreamResponse(Response):
    """The stream of a run's blocks after a cursor, up to the terminal block.

    Args:
        after: the cursor; 0 for all blocks.
        base: the path of `/runs/{id}` as the reader sees it.
        resumed: True to name the cursor in the header Run-Replay-From. Default: False.
        form: the form of chunks that the store has as patches. Default: whole chunks.
        joins: True if the reader does not have the chunk at its cursor. Default: False.
    """

    background = None
    status_code = 200

    def __init__(
        self,
        runs: Runs,
        run_id: str,
        after: int,
        base: str,
        *,
        resumed: bool = False,
        form: Form = "whole",
        joins: bool = False,
    ) -> None:
        self._runs = runs
        self._run_id = run_id
        self._cursor = after
        self._rendering = Rendering(runs.store, run_id, form, joins=joins)
        self._unreachable_since: float | None = None
        headers = {**run_headers(run_id, base), **HEADERS}
        if resumed:
            headers["Run-Replay-From"] = str(after)
        # Set here, because `Response.init_headers` would add the content length of an empty body.
        self.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, as an ASGI application."""
        task = asyncio.current_task()
        assert task is not None
        reader = Reader(task, self._runs.settings)
        watch = self._watch(scope, reader)
        try:
            with self._runs.reading(self._run_id, reader.drop):
                await self._serve(task, reader, scope, receive, send)
        finally:
            reader.close()
            if watch is not None:
                watch.cancel()

    def _watch(self, scope: Scope, reader: Reader) -> asyncio.Task[None] | None:
        interval, recheck = self._runs.settings.credential_check, scope.get("state", {}).get("recheck")
        return asyncio.create_task(reader.watch(recheck, interval)) if interval and recheck else None

    async def _serve(
        self, task: asyncio.Task[object], reader: Reader, scope: Scope, receive: Receive, send: Send
    ) -> None:
        disconnect = asyncio.create_task(_cancel_on_disconnect(receive, task))
        try:
            await self._send_all(send, reader)
        except asyncio.CancelledError:
            # A reader that left or was dropped ends normally; any other cancellation passes on.
            if not ((disconnect.done() or reader.dropped) and task.uncancel() == 0):
                raise
            if reader.dropped:
                # The server would close the connection once its buffer is sent: never, if the reader reads nothing.
                scope[BODY].abort()
                await asyncio.sleep(0)  # the server notices the lost connection first, and logs no error
        finally:
            disconnect.cancel()

    async def _send_all(self, send: Send, reader: Reader) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self.raw_headers = []  # frees about a kilobyte per stream that waits for its model
        unsubscribe = self._runs.store.subscribe(self._run_id, reader.wake)
        try:
            await reader.send(send, await self._opening())
            await self._follow(send, reader)
        finally:
            unsubscribe()

    async def _opening(self) -> bytes:
        # A comment, so that proxies flush the headers, and the first block if it is in this process.
        store = self._runs.store
        if not store.immediate:
            return KEEP_ALIVE
        blocks, _ = await store.read(self._run_id, self._cursor, 1)
        opening = [await self._rendering.block(self._cursor + 1, block) for block in blocks]
        self._cursor += len(blocks)
        return KEEP_ALIVE + b"".join(opening)

    async def _follow(self, send: Send, reader: Reader) -> None:
        loop = asyncio.get_running_loop()
        down_since: float | None = None
        while True:
            await reader.pause()
            if reader.refused is not None:
                await self._give_up(send, reader, reader.refused)
                return
            try:
                if await self._send_pending(send, reader):
                    return
                down_since = None
            except StoreDown:
                down_since = down_since or loop.time()
                if loop.time() - down_since > self._runs.settings.store_patience:
                    await self._give_up(send, reader, StoreUnavailable())
                    return
                loop.call_later(STORE_PAUSE, reader.wake)
            if await reader.wait():
                continue
            if await self._is_without_store():  # blocks in memory can still be read, but no terminal can be stored
                await self._give_up(send, reader, StoreUnavailable())
                return
            await reader.send(send, KEEP_ALIVE)

    async def _is_without_store(self) -> bool:
        # The reaper's polls may succeed while the part of the store with this run is unreachable.
        if await self._runs.reaper.is_without_store():
            return True
        now = asyncio.get_running_loop().time()
        try:
            await self._runs.store.get(self._run_id)
        except StoreDown:
            self._unreachable_since = self._unreachable_since or now
            return now - self._unreachable_since > self._runs.settings.store_patience
        self._unreachable_since = None
        return False

    async def _give_up(self, send: Send, reader: Reader, error: ServeError) -> None:
        # Not a block of the run, so it has no id. Without it the reader would take the stream for complete.
        await reader.send(send, error_block(None, error.event(self._run_id)), more=False)

    async def _send_pending(self, send: Send, reader: Reader) -> bool:
        store = self._runs.store
        while True:
            blocks, at_end = await store.read(self._run_id, self._cursor, BATCH)
            if at_end and not blocks:
                await reader.send(send, await self._expiry(), more=False)
                return True
            if self._rendering.passes(blocks):
                left = len(blocks)
                for write in writes(blocks) if left > 1 else (blocks,) if blocks else ():
                    left -= len(write)
                    await reader.send(send, b"".join(write), more=left > 0 or not at_end)
                    self._cursor += len(write)
            else:
                await self._send_rendered(send, reader, blocks, at_end=at_end)
            # Later blocks have woken the reader already.
            if at_end or not blocks or (store.immediate and len(blocks) < BATCH):
                return at_end

    async def _send_rendered(self, send: Send, reader: Reader, blocks: Sequence[bytes], *, at_end: bool) -> None:
        # Each block may be far larger than its patch, so each is made only when the blocks before it are sent.
        write = [await self._rendering.block(self._cursor + 1, blocks[0])]
        size = len(write[0])
        for number, block in enumerate(blocks[1:], self._cursor + 2):
            rendered = await self._rendering.block(number, block)
            if size + len(rendered) > WRITE_BYTES:
                await reader.send(send, b"".join(write))
                self._cursor += len(write)
                write, size = [], 0
            write.append(rendered)
            size += len(rendered)
            await self._rendering.breathe()
        await reader.send(send, b"".join(write), more=not at_end)
        self._cursor += len(write)

    async def _expiry(self) -> bytes:
        # A reader slower than the retention gets an error: without it, it would take the stream for complete.
        record = await self._runs.store.get(self._run_id)
        if record is None or self._cursor >= record.last_id:
            return b""
        error = RunExpired(None, record.last_id, record.status)
        return error_block(record.last_id, error.event(self._run_id))


def writes(blocks: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield the blocks of one write each; the size is bounded, because a server buffers a whole write."""
    first = size = 0
    for index, block in enumerate(blocks):
        if index > first and size + len(block) > WRITE_BYTES:
            yield blocks[first:index]
            first, size = index, 0
        size += len(block)
    if blocks:
        yield blocks[first:]


def resume(
    runs: Runs, record: RunRecord, cursor: int, base: str, form: Form = "whole", *, joins: bool = False
) -> Response:
    """Return the answer to a reader that resumes a run.

    Args:
        cursor: the sequence number of the last block that the reader has.
        base: the path of `/runs/{id}` as the reader sees it.
        form: the form of chunks that the store has as patches.
        joins: whether the reader does not have the chunk at its cursor (default false).

    Raises:
        RunExpired: The blocks after the cursor are past their retention.
    """
    if end := at_end(record, cursor, base):
        return end
    runs.observer.resumed(record.chain)
    after = min(cursor, record.last_id)
    return StreamResponse(runs, record.run_id, after, base, resumed=True, form=form, joins=joins)


def at_end(record: RunRecord, cursor: int, base: str) -> Response | None:
    """Return the answer to a reader that has the last block, else None; arguments and errors are those of `resume`."""
    if record.ended and cursor >= record.last_id:
        return Response(status_code=204, headers=run_headers(record.run_id, base))
    if record.purged:
        raise RunExpired(None, record.last_id, record.status)
    return None


def run_headers(run_id: str, base: str) -> dict[str, str]:
    """Return the headers that name a run; `Location` is its stream, by LangGraph's convention."""
    return {"Run-Id": run_id, "Content-Location": base, "Location": f"{base}/stream"}


async def _cancel_on_disconnect(receive: Receive, task: asyncio.Task[object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()
