"""Drive a store and the model through the same steps, and compare them after each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from streamserve.stores import Fenced, Gap, Outcome, RunRecord, RunStore, ThreadLocked
from streamserve.stores.bounds import Bounds
from tests.conformance.model import Model
from tests.conformance.stores import Factory, Options

WAKE_LIMIT = 1.0
UNKNOWN = "00000000-0000-0000-0000-000000000000"

OUTCOMES = st.sampled_from(
    [
        Outcome("done"),
        Outcome("done", output=b'{"answer":42}'),
        Outcome("error", {"code": "internal", "status_code": 500}),
        Outcome("cancelled", {"code": "cancelled", "status_code": 499}),
        Outcome("lost", {"code": "run_lost", "status_code": 503}),
    ]
)
BLOCKS = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8)


class Follower:
    """A reader: a cursor, and a flag that wake-ups set."""

    def __init__(self, store: RunStore, run_id: str) -> None:
        self.run_id = run_id
        self.store = store
        self.blocks: list[bytes] = []
        self.woken = asyncio.Event()
        self.unsubscribe = store.subscribe(run_id, self.woken.set)

    async def catch_up(self) -> None:
        """Read all blocks after the cursor."""
        self.woken.clear()
        self.blocks += (await self.store.read(self.run_id, len(self.blocks), 10_000)).blocks


class StoreMachine(RuleBasedStateMachine):
    """The steps. Bounds are small, so that runs reach them."""

    runs = Bundle("runs")
    followers = Bundle("followers")

    def __init__(self, factory: Factory) -> None:
        super().__init__()
        self.options = Options(Bounds(retention=100.0, tombstone=300.0, max_runs=2, max_bytes=300))
        self.model = Model(self.options)
        self._numbers = itertools.count(1)
        self._runner = asyncio.Runner()
        self._opened = factory(self.options)
        self.store: RunStore = self.do(self._opened.__aenter__())

    def do(self, step: Coroutine[Any, Any, Any]) -> Any:
        """Run a step of the store."""
        return self._runner.run(step)

    def teardown(self) -> None:
        self.do(self._opened.__aexit__(None, None, None))
        self._runner.close()

    @rule(
        target=runs,
        key=st.sampled_from([None, "a", "b"]),
        thread=st.sampled_from([None, "x", "y"]),
        alone=st.booleans(),
    )
    def acquire(self, key: str | None, thread: str | None, alone: bool) -> Any:
        name = f"run-{next(self._numbers)}"
        record = RunRecord(name, "chain", "stream", "ann", 1.0, key=key, fingerprint="f", thread=thread)
        try:
            expected = self.model.acquire(replace(record), alone)
        except ThreadLocked as busy:
            with pytest.raises(ThreadLocked, match=busy.holder):
                self.do(self.store.acquire(record, alone=alone))
            return multiple()
        stored, new = self.do(self.store.acquire(record, alone=alone))
        assert (stored.run_id, new) == expected
        return stored.run_id if new else multiple()

    @rule(run_id=runs, blocks=BLOCKS)
    def append(self, run_id: str, blocks: list[bytes]) -> None:
        self._append_both(run_id, self._next(run_id), blocks)

    @rule(run_id=runs, blocks=BLOCKS, outcome=OUTCOMES)
    def end(self, run_id: str, blocks: list[bytes], outcome: Outcome) -> None:
        self._append_both(run_id, self._next(run_id), blocks, outcome)

    @rule(run_id=runs, back=st.integers(1, 6), blocks=BLOCKS)
    def append_what_is_stored_already(self, run_id: str, back: int, blocks: list[bytes]) -> None:
        known = self.model.runs[run_id].blocks[-back:] if run_id in self.model.runs else []
        self._append_both(run_id, self._next(run_id) - len(known), known + blocks)
        self._append_both(run_id, self._next(run_id) - len(blocks), blocks)

    @rule(run_id=runs, ahead=st.integers(1, 3), blocks=BLOCKS)
    def append_too_far_ahead(self, run_id: str, ahead: int, blocks: list[bytes]) -> None:
        self._append_both(run_id, self._next(run_id) + ahead, blocks)

    @rule(run_id=runs, attempt=st.sampled_from([0, 2]), blocks=BLOCKS)
    def append_as_another_owner(self, run_id: str, attempt: int, blocks: list[bytes]) -> None:
        with pytest.raises(Fenced):
            self.do(self.store.append(run_id, attempt, self._next(run_id), blocks))

    @rule(run_id=runs, after=st.integers(0, 30), limit=st.integers(1, 30))
    def read(self, run_id: str, after: int, limit: int) -> None:
        self._compare_reads(run_id, after, limit)

    @rule(run_id=runs)
    def cancel(self, run_id: str) -> None:
        self.model.request_cancel(run_id)
        self.do(self.store.request_cancel(run_id))
        assert self.options.cancelled == self.model.cancelled

    @rule(run_id=runs)
    def purge(self, run_id: str) -> None:
        self.model.purge(run_id)
        self.do(self.store.purge(run_id))

    @rule(seconds=st.sampled_from([1, 99, 100, 101, 301]))
    def reap_later(self, seconds: int) -> None:
        self.options.clock.now += seconds
        self.model.reap(self.options.clock.now)
        self.do(self.store.reap(self.options.clock.now))

    @rule(target=followers, run_id=runs)
    def follow(self, run_id: str) -> Follower:
        async def started() -> Follower:
            follower = Follower(self.store, run_id)
            await follower.catch_up()
            return follower

        return self.do(started())

    @rule(follower=followers)
    def catch_up(self, follower: Follower) -> None:
        expected = self.model.read(follower.run_id, len(follower.blocks), 10_000).blocks

        async def woken() -> None:
            if expected:
                async with asyncio.timeout(WAKE_LIMIT):
                    await follower.woken.wait()
            before = len(follower.blocks)
            await follower.catch_up()
            assert follower.blocks[before:] == expected

        self.do(woken())

    @rule(follower=consumes(followers), blocks=BLOCKS)
    def leave(self, follower: Follower, blocks: list[bytes]) -> None:
        follower.unsubscribe()
        follower.woken.clear()
        self._append_both(follower.run_id, self._next(follower.run_id), blocks)
        assert not follower.woken.is_set()

    @rule(blocks=BLOCKS)
    def use_a_run_that_never_was(self, blocks: list[bytes]) -> None:
        self._append_both(UNKNOWN, 1, blocks)
        self._compare_reads(UNKNOWN, 0, 10)
        self.do(self.store.purge(UNKNOWN))
        self.do(self.store.request_cancel(UNKNOWN))
        assert self.do(self.store.get(UNKNOWN)) is None
        self.store.subscribe(UNKNOWN, lambda: None)()

    @invariant()
    def both_know_the_same(self) -> None:
        for number in range(1, len(self.model.runs) + 4):
            run_id = f"run-{number}"
            assert self.do(self.store.get(run_id)) == self.model.get(run_id)
            self._compare_reads(run_id, 0, 10_000)
            self._compare_ahead(run_id)
        for key in ("a", "b"):
            named = self.do(self.store.named(key))
            assert (named and named.run_id) == self.model.named(key)

    def _compare_ahead(self, run_id: str) -> None:
        record = self.model.get(run_id)
        if record is not None and not record.ended:
            assert self.do(self.store.ahead(record)) == self.model.ahead(record)

    def _next(self, run_id: str) -> int:
        return self.model.runs[run_id].last_id + 1 if run_id in self.model.runs else 1

    def _compare_reads(self, run_id: str, after: int, limit: int) -> None:
        blocks, at_end = self.do(self.store.read(run_id, after, limit))
        assert (list(blocks), at_end) == self.model.read(run_id, after, limit)

    def _append_both(self, run_id: str, first: int, blocks: list[bytes], outcome: Outcome | None = None) -> None:
        step = (run_id, 1, first, blocks, outcome)
        expected = _answer_of(lambda: self.model.append(*step))
        answer = _answer_of(lambda: self.do(self.store.append(*step)))
        assert answer == expected


def _answer_of(append: Callable[[], int]) -> int | tuple[str, int]:
    try:
        return append()
    except Fenced:
        return "fenced", 0
    except Gap as gap:
        return "gap", gap.next_seq
