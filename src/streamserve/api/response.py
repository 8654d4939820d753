"""The ASGI response of a run's stream: replay, follow, keep-alive, terminal block.

A reader is a cursor into the store. It never touches the chain, and a slow one costs its socket's buffer only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from streamserve.api.follower import Follower
from streamserve.errors import RunExpired, StoreUnavailable
from streamserve.http.body_sender import body_sender
from streamserve.runs.runs import Runs
from streamserve.stores import RunRecord, StoreDown
from streamserve.wire.blocks import KEEP_ALIVE, error_block

logger = logging.getLogger(__name__)

# Blocks in one write at most: bounds what a reader far behind makes at once.
BATCH = 256
# Pause before a store that is away is asked again, in seconds.
STORE_PAUSE = 0.25
# Bytes in one write, unless a single block has more.
WRITE_BYTES = 64 * 2**10
HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "Content-Type": "text/event-stream; charset=utf-8",
}


class StreamResponse(Response):
    """Sends a run's blocks after a cursor, then those to come, until the terminal block.

    Args:
        runs: where the run is.
        run_id: which one.
        after: number of the last block that the reader has; 0 for all.
        base: path of `/runs/{id}` as the reader sees it.
        resumed: whether to say from where it is replayed.
    """

    background = None
    status_code = 200

    def __init__(self, runs: Runs, run_id: str, after: int, base: str, *, resumed: bool = False) -> None:
        self._runs = runs
        self._run_id = run_id
        self._cursor = after
        self._unreachable_since: float | None = None
        headers = {**run_headers(run_id, base), **HEADERS}
        if resumed:
            headers["Run-Replay-From"] = str(after)
        # Response would count the length of an empty body.
        self.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        reader = asyncio.current_task()
        assert reader is not None
        follower = Follower(reader, self._runs.settings)
        try:
            with self._runs.reading(self._run_id, follower.drop):
                await self._serve(reader, follower, scope, receive, send)
        finally:
            follower.close()

    async def _serve(
        self, reader: asyncio.Task[object], follower: Follower, scope: Scope, receive: Receive, send: Send
    ) -> None:
        leaving = asyncio.create_task(_cancel_on_disconnect(receive, reader))
        try:
            await self._send_all(scope, send, follower)
        except asyncio.CancelledError:
            # Only the reader's own leaving ends here; a cancellation from outside goes on.
            if not ((leaving.done() or follower.dropped) and reader.uncancel() == 0):
                raise
            if follower.dropped:
                _abort(receive)
                await asyncio.sleep(0)  # the server notes that the connection is gone, and does not call this an error
        finally:
            leaving.cancel()

    async def _send_all(self, scope: Scope, send: Send, follower: Follower) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self.raw_headers = []  # a kilobyte that a stream which waits for its model need not keep
        send_body = body_sender(scope, send)
        unsubscribe = self._runs.store.subscribe(self._run_id, follower.wake)
        try:
            await follower.send(send_body, await self._opening())
            await self._follow(send_body, follower)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            unsubscribe()

    async def _opening(self) -> bytes:
        """What goes out with the head: a comment, so that proxies flush, and the first block if this process has it."""
        store = self._runs.store
        if not store.immediate:
            return KEEP_ALIVE
        blocks, _ = await store.read(self._run_id, self._cursor, 1)
        self._cursor += len(blocks)
        return KEEP_ALIVE + b"".join(blocks)

    async def _follow(self, send: Send, follower: Follower) -> None:
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        while True:
            await follower.pause()
            try:
                if await self._send_pending(send, follower):
                    return
                away_since = None
            except StoreDown:
                away_since = away_since or loop.time()
                if loop.time() - away_since > self._runs.settings.store_patience:
                    await self._give_up(send, follower)
                    return
                loop.call_later(STORE_PAUSE, follower.wake)
            if await follower.wait():
                continue
            if await self._is_without_store():  # what is known here can be read on, but no end is stored
                await self._give_up(send, follower)
                return
            await follower.send(send, KEEP_ALIVE)

    async def _is_without_store(self) -> bool:
        """Whether the store, or the part of it that has this run, has been away for longer than a run waits for it."""
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

    async def _give_up(self, send: Send, follower: Follower) -> None:
        # Not a block of the run, so it has no id; a bare end of file would pass for the whole answer.
        await follower.send(send, error_block(None, StoreUnavailable().event(self._run_id)))

    async def _send_pending(self, send: Send, follower: Follower) -> bool:
        """Sends what is stored; True once the terminal block was sent."""
        store = self._runs.store
        while True:
            blocks, at_end = await store.read(self._run_id, self._cursor, BATCH)
            for write in writes(blocks) if len(blocks) > 1 else (blocks,) if blocks else ():
                await follower.send(send, b"".join(write))
                self._cursor += len(write)
            if at_end:
                await self._tell_if_expired(send, follower)
            # What has come meanwhile has woken the follower.
            if at_end or not blocks or (store.immediate and len(blocks) < BATCH):
                return at_end

    async def _tell_if_expired(self, send: Send, follower: Follower) -> None:
        """A reader too slow for the retention gets an error: a bare end of file would pass for the whole answer."""
        record = await self._runs.store.get(self._run_id)
        if record is not None and self._cursor < record.last_id:
            error = RunExpired(None, record.last_id, record.status)
            await follower.send(send, error_block(record.last_id, error.event(self._run_id)))


def writes(blocks: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Blocks in groups that are sent in one write each: bounded, since a server buffers a whole write."""
    first = size = 0
    for index, block in enumerate(blocks):
        if index > first and size + len(block) > WRITE_BYTES:
            yield blocks[first:index]
            first, size = index, 0
        size += len(block)
    if blocks:
        yield blocks[first:]


def resume(runs: Runs, record: RunRecord, cursor: int, base: str) -> Response:
    """The answer to a reader who comes back.

    Args:
        runs: where the run is.
        record: of the run.
        cursor: number of the last block that the reader has.
        base: path of `/runs/{id}` as the reader sees it.

    Raises:
        RunExpired: blocks after the cursor are gone.
    """
    if record.ended and cursor >= record.last_id:
        return Response(status_code=204, headers=run_headers(record.run_id, base))
    if record.purged:
        raise RunExpired(None, record.last_id, record.status)
    runs.observer.resumed(record.chain)
    return StreamResponse(runs, record.run_id, min(cursor, record.last_id), base, resumed=True)


def run_headers(run_id: str, base: str) -> dict[str, str]:
    """What names a run in an answer; `Location` is LangGraph's convention for its stream."""
    return {"Run-Id": run_id, "Content-Location": base, "Location": f"{base}/stream"}


def _abort(receive: Receive) -> None:
    # A server closes a connection once its buffer is sent, which somebody who reads nothing never lets happen.
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if callable(abort := getattr(transport, "abort", None)):
        abort()


async def _cancel_on_disconnect(receive: Receive, reader: asyncio.Task[object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.cancel()
