"""Runs in the memory of this process: the default with one worker. They are lost when the process ends."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streamserve.stores.base import (
    Fenced,
    Gap,
    ImmediateStore,
    Outcome,
    Retained,
    RunRecord,
    RunStore,
    Slice,
    Stored,
    ThreadLocked,
    UnknownRun,
    Wake,
)
from streamserve.stores.bounds import DEFAULT_BOUNDS, Bounds

# A tombstone is a few hundred bytes. Past this number the oldest are dropped before their time.
MAX_TOMBSTONES = 100_000


@dataclass(slots=True)
class _Entry:
    record: RunRecord
    blocks: list[bytes] = field(default_factory=list)
    size: int = 0
    expires_at: float = math.inf
    wakes: dict[object, Wake] = field(default_factory=dict)


class MemoryStore(RunStore, ImmediateStore):
    """The RunStore and ImmediateStore contracts on plain lists."""

    immediate = True

    def __init__(self, bounds: Bounds = DEFAULT_BOUNDS, *, clock: Callable[[], float] = time.time) -> None:
        self.on_cancel: Callable[[str], None] = lambda _run_id: None
        self.on_readers: Callable[[str], None] = lambda _run_id: None
        self._bounds = bounds
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._keys: dict[str, str] = {}
        # The runs of each thread in the order of their acquisition; some of them may have ended.
        self._threads: dict[str | None, list[str]] = {}
        # Both in the order in which the runs ended, so that the oldest are found without a search.
        self._ended: OrderedDict[str, _Entry] = OrderedDict()
        self._tombstones: OrderedDict[str, float] = OrderedDict()
        self._ended_bytes = 0

    # Nothing to do: memory is never down, and no other process has its runs.
    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def check(self) -> None: ...
    async def restore(self, run: RunRecord) -> None: ...
    async def set_reading(self, run_id: str, reading: bool) -> None: ...
    def show(self, run_id: str, first_seq: int, blocks: Sequence[bytes]) -> None: ...
    def give_up(self, run_id: str) -> None: ...

    @property
    def retained(self) -> Retained:
        return Retained(len(self._ended), self._ended_bytes)

    async def is_read_elsewhere(self, run_id: str) -> bool:  # noqa: ARG002 - the contract
        return False

    async def take_over_lost(self) -> list[RunRecord]:
        return []

    async def acquire(self, run: RunRecord, *, alone: bool = False) -> tuple[RunRecord, bool]:
        if run.key and (found := await self.named(run.key)):
            return found, False
        if run.thread is not None:
            live = self._threads[run.thread] = self._live(run.thread)
            if alone and live:
                raise ThreadLocked(live[0])
            live.append(run.run_id)
        self._entries[run.run_id] = _Entry(run)
        if run.key:
            self._keys[run.key] = run.run_id
        return run, True

    async def named(self, key: str) -> RunRecord | None:
        holder = self._keys.get(key)
        return None if holder is None else self._entries[holder].record

    async def ahead(self, run: RunRecord) -> list[str]:
        live = self._live(run.thread)
        return live[: live.index(run.run_id)] if run.run_id in live else live

    def _live(self, thread: str | None) -> list[str]:
        records = [self._entries[run_id].record for run_id in self._threads.get(thread, ())]
        return [record.run_id for record in records if not record.ended]

    async def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None = None
    ) -> int:
        return self.append_now(run_id, attempt, first_seq, blocks, outcome)

    def post(
        self,
        run_id: str,
        attempt: int,
        first_seq: int,
        blocks: Sequence[bytes],
        outcome: Outcome | None,
        stored: Stored,
    ) -> None:
        try:
            result: int | Exception = self.append_now(run_id, attempt, first_seq, blocks, outcome)
        except (Fenced, Gap) as refusal:
            result = refusal
        asyncio.get_running_loop().call_soon(stored, result)

    def append_now(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None
    ) -> int:
        entry = self._entries.get(run_id)
        if entry is None:
            raise UnknownRun(run_id)
        record = entry.record
        if first_seq != record.last_id + 1 or record.attempt != attempt or record.ended:
            blocks = _fresh(record, attempt, first_seq, blocks)
            if record.ended:
                return record.last_id + 1
        entry.blocks += blocks
        for block in blocks:
            entry.size += len(block)
        record.last_id += len(blocks)
        record.status = "running"
        if outcome is not None:
            self._end(entry, outcome)
        for wake in tuple(entry.wakes.values()):
            wake()
        return record.last_id + 1

    def _end(self, entry: _Entry, outcome: Outcome) -> None:
        record, now = entry.record, self._clock()
        record.status, record.error, record.output = outcome.status, outcome.error, outcome.output
        record.ended_at, record.expires_at = now, now + self._bounds.retention
        entry.expires_at = record.expires_at
        entry.size += len(outcome.output or b"")
        self._ended[record.run_id] = entry
        self._ended_bytes += entry.size
        bounds = self._bounds
        while len(self._ended) > bounds.max_runs or (self._ended_bytes > bounds.max_bytes and len(self._ended) > 1):
            self._drop(next(iter(self._ended)))

    async def get(self, run_id: str) -> RunRecord | None:
        entry = self._entries.get(run_id)
        return entry.record if entry else None

    async def read(self, run_id: str, after: int, limit: int) -> Slice:
        entry = self._entries.get(run_id)
        if entry is None or entry.record.purged:
            return Slice((), True)
        blocks = entry.blocks[after : after + limit]
        return Slice(blocks, entry.record.ended and after + len(blocks) >= entry.record.last_id)

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        entry = self._entries.get(run_id)
        if entry is None:
            return lambda: None
        number = object()
        entry.wakes[number] = wake

        def unsubscribe() -> None:
            entry.wakes.pop(number, None)

        return unsubscribe

    async def request_cancel(self, run_id: str) -> None:
        entry = self._entries.get(run_id)
        if entry is not None and not entry.record.ended:
            self.on_cancel(run_id)

    async def reap(self, now: float) -> None:
        while self._ended and next(iter(self._ended.values())).expires_at <= now:
            self._drop(next(iter(self._ended)))
        while self._tombstones and (
            next(iter(self._tombstones.values())) <= now or len(self._tombstones) > MAX_TOMBSTONES
        ):
            self._forget(next(iter(self._tombstones)))

    async def purge(self, run_id: str) -> None:
        if run_id in self._ended:
            self._drop(run_id)

    def _drop(self, run_id: str) -> None:
        entry = self._ended.pop(run_id)
        self._ended_bytes -= entry.size
        entry.blocks, entry.record.output, entry.record.purged = [], None, True
        if entry.record.key:
            self._keys.pop(entry.record.key, None)
        self._leave(entry.record.thread)
        self._tombstones[run_id] = self._clock() + self._bounds.tombstone

    def _leave(self, thread: str | None) -> None:
        if live := self._live(thread):
            self._threads[thread] = live
        else:
            self._threads.pop(thread, None)

    def _forget(self, run_id: str) -> None:
        del self._tombstones[run_id]
        del self._entries[run_id]


def _fresh(record: RunRecord, attempt: int, first_seq: int, blocks: Sequence[bytes]) -> Sequence[bytes]:
    expected = record.last_id + 1
    repeated = first_seq + len(blocks) <= expected and not record.purged
    if record.attempt != attempt or (record.ended and not repeated):
        raise Fenced(record.run_id)
    if first_seq > expected:
        raise Gap(expected)
    return blocks[expected - first_seq :]
