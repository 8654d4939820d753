"""The RunStore contract in the simplest form: each question searches all runs, and nothing is indexed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from streamserve.stores import Fenced, Gap, Outcome, RunRecord, ThreadLocked
from streamserve.stores.base import Slice
from tests.conformance.stores import Options


@dataclass
class ModelRun:
    """A run as the model knows it."""

    acquired: RunRecord
    blocks: list[bytes] = field(default_factory=list)
    outcome: Outcome | None = None
    ended_at: float = 0.0
    last_id: int = 0
    purged_at: float | None = None

    @property
    def kept(self) -> bool:
        """Return whether the run has ended and its blocks are there."""
        return self.outcome is not None and self.purged_at is None

    @property
    def size(self) -> int:
        """Return the bytes of the blocks."""
        return sum(len(block) for block in self.blocks)


class Model:
    """The RunStore contract on a dict of runs."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.runs: dict[str, ModelRun] = {}
        self.cancelled: list[str] = []
        self._ends: list[str] = []

    def acquire(self, run: RunRecord, alone: bool) -> tuple[str, bool]:
        if run.key is not None and (holder := self.named(run.key)):
            return holder, False
        if alone and (live := self.ahead(run)):
            raise ThreadLocked(live[0])
        self.runs[run.run_id] = ModelRun(replace(run))
        return run.run_id, True

    def named(self, key: str) -> str | None:
        runs = self.runs.values()
        return next((run.acquired.run_id for run in runs if run.acquired.key == key and run.purged_at is None), None)

    def ahead(self, run: RunRecord) -> list[str]:
        before = list(self.runs)[: list(self.runs).index(run.run_id)] if run.run_id in self.runs else list(self.runs)
        same = [name for name in before if run.thread is not None and self.runs[name].acquired.thread == run.thread]
        return [name for name in same if self.runs[name].outcome is None]

    def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None = None
    ) -> int:
        run = self.runs.get(run_id)
        if run is None or attempt != run.acquired.attempt:
            raise Fenced(run_id)
        if run.outcome is not None:
            if run.purged_at is not None or first_seq + len(blocks) > run.last_id + 1:
                raise Fenced(run_id)
            return run.last_id + 1
        if first_seq > run.last_id + 1:
            raise Gap(run.last_id + 1)
        for seq, block in enumerate(blocks, first_seq):
            if seq > run.last_id:
                run.blocks.append(block)
                run.last_id = seq
        if outcome is not None:
            run.outcome, run.ended_at = outcome, self.options.clock()
            self._ends.append(run_id)
            self._keep_bounds()
        return run.last_id + 1

    def _keep_bounds(self) -> None:
        while True:
            kept = [run_id for run_id in self._ends if run_id in self.runs and self.runs[run_id].kept]
            too_large = sum(self.runs[run_id].size for run_id in kept) > self.options.bounds.max_bytes and len(kept) > 1
            if len(kept) <= self.options.bounds.max_runs and not too_large:
                return
            self.purge(kept[0])

    def get(self, run_id: str) -> RunRecord | None:
        run = self.runs.get(run_id)
        if run is None:
            return None
        record = replace(run.acquired, last_id=run.last_id, status="running" if run.last_id else "queued")
        if run.outcome is not None:
            record.status, record.error = run.outcome.status, run.outcome.error
            record.ended_at, record.expires_at = run.ended_at, run.ended_at + self.options.bounds.retention
            record.purged = run.purged_at is not None
            record.output = None if record.purged else run.outcome.output
        return record

    def read(self, run_id: str, after: int, limit: int) -> Slice:
        run = self.runs.get(run_id)
        if run is None or run.purged_at is not None:
            return Slice([], True)
        numbered = [(seq, block) for seq, block in enumerate(run.blocks, 1) if seq > after][:limit]
        reached = numbered[-1][0] if numbered else after
        return Slice([block for _, block in numbered], run.outcome is not None and reached >= run.last_id)

    def request_cancel(self, run_id: str) -> None:
        if run_id in self.runs and self.runs[run_id].outcome is None:
            self.cancelled.append(run_id)

    def purge(self, run_id: str) -> None:
        run = self.runs.get(run_id)
        if run is not None and run.kept:
            run.blocks, run.purged_at = [], self.options.clock()

    def reap(self, now: float) -> None:
        for run_id, run in list(self.runs.items()):
            if run.kept and run.ended_at + self.options.bounds.retention <= now:
                self.purge(run_id)
            if run.purged_at is not None and run.purged_at + self.options.bounds.tombstone <= now:
                del self.runs[run_id]
