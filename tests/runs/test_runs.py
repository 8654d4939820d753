"""The runs of a process, without HTTP: their start, their places, their cancellation and their shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest

from streamserve.call import Call
from streamserve.errors import Cancelled, IdempotencyConflict, NotFound, ServeError, ShuttingDown
from streamserve.runs.attempt import Attempt
from streamserve.runs.limits import RunLimits
from streamserve.runs.observer import Load, Observer, RunHooks
from streamserve.runs.run import Events, Run
from streamserve.runs.runs import Runs
from streamserve.settings import Settings
from streamserve.stores import MemoryStore, Outcome, RunRecord
from tests.runs.support import LIMIT

GRACE = 7.0


def a_run(**fields: Any) -> RunRecord:
    """Return a record with these fields."""
    return replace(RunRecord("r", "c", "stream", "p", created_at=0), **fields)


class Watching(Observer):
    """An observer that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def begin(self, record: RunRecord, call: Call) -> RunHooks:
        return RunHooks(block=lambda: self.told.append("block"), ended=self.ended)

    def ended(self, outcome: Outcome | None) -> None:
        self.told.append(outcome and outcome.status)

    def cancelling(self, chain: str) -> None:
        self.told.append(chain)


class Slot:
    """The place of a run."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def keep(self) -> None:
        self.told.append("kept")

    def release(self, *, kept: bool = False) -> None:
        self.told.append(f"released {kept}")


@pytest.fixture
async def runs() -> AsyncIterator[Runs]:
    made = Runs(Settings(_env_file=None, orphan_grace=GRACE, drain_time=0), MemoryStore())
    made.observer = Watching()
    yield made
    async with asyncio.timeout(LIMIT):
        await made.drain()


async def one_then_wait() -> Events:
    yield {"event": "data", "data": b"1"}
    await asyncio.Event().wait()


async def start(runs: Runs, *, call: Call | None = None, on_disconnect: Any = "cancel", **fields: Any) -> RunRecord:
    """Start a run with these fields of its record."""
    record = a_run(**fields)
    stored, new = await runs.start(record, one_then_wait(), call or Call(), timeout=None, on_disconnect=on_disconnect)
    assert new
    return stored


class Unstarted:
    """An iterator that must be closed without a start."""

    is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True


async def test_a_key_finds_its_run_and_starts_nothing(runs: Runs) -> None:
    first = await start(runs, key="k", fingerprint="f")
    for fingerprint in ("f", "other"):
        events: Any = Unstarted()
        again = a_run(run_id="again", key="k", fingerprint=fingerprint)
        starting = runs.start(again, events, Call(), timeout=None, on_disconnect="cancel")
        if fingerprint == "f":
            assert await starting == (first, False)
        else:
            with pytest.raises(IdempotencyConflict):
                await starting
        assert events.is_closed


async def test_a_refused_run_is_closed_without_a_start(runs: Runs) -> None:
    runs.draining = True
    events: Any = Unstarted()
    with pytest.raises(ShuttingDown):
        await runs.start(a_run(), events, Call(), timeout=None, on_disconnect="cancel")
    assert (events.is_closed, runs._storing) == (True, set())


@pytest.mark.parametrize(
    ("fields", "grace", "is_waiting"),
    [
        ({}, 0.0, False),
        ({"key": "k"}, GRACE, False),
        ({"request": b"{}"}, GRACE, False),
        ({"endpoint": "runs"}, GRACE, True),
        ({"key": "k", "on_disconnect": "continue"}, None, False),
    ],
)
async def test_a_run_waits_for_a_reader_that_can_resume(
    runs: Runs, fields: dict[str, Any], grace: float | None, is_waiting: bool
) -> None:
    await start(runs, **fields)
    live = runs._live["r"]
    assert (live._grace, live.is_waiting) == (grace, is_waiting)


async def test_the_place_of_a_run_is_kept_until_its_end(runs: Runs) -> None:
    slot = Slot()
    await start(runs, call=Call(slot=slot))
    assert slot.told == ["kept"]
    runs.end_all(Cancelled())
    await runs._live["r"].run.ended
    await asyncio.sleep(0)
    assert (slot.told, runs._live) == (["kept", "released True"], {})


async def test_runs_calls_and_items_of_a_batch_count(runs: Runs) -> None:
    assert runs.busy == 0
    await start(runs)
    task = asyncio.current_task()
    assert task
    with runs.calling(task, 4), runs.further(2), runs.reading("r", lambda: None):
        assert (runs.busy, runs.load()) == (7, Load(1, 1, 1, False))
    assert (runs.busy, runs.load()) == (1, Load(1, 0, 0, False))


async def test_the_observer_is_told_of_a_run_and_its_end(runs: Runs) -> None:
    record = await start(runs)
    await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT):
        await runs.cancel(record)
        ended = await runs.wait(record, LIMIT)
        await runs.cancel(ended)
    assert ended.status == "cancelled"
    await asyncio.sleep(0)
    assert runs.observer.told == ["block", "c", "cancelled"]  # type: ignore[attr-defined]


async def test_a_call_can_be_cancelled_by_its_run(runs: Runs) -> None:
    reasons: list[ServeError] = []
    await runs.store.acquire(a_run())
    with runs.cancellable("r", reasons.append):
        await runs.store.request_cancel("r")
    await runs.store.request_cancel("r")
    assert [type(reason) for reason in reasons] == [Cancelled]


async def test_a_run_is_found_by_its_principal_only(runs: Runs) -> None:
    record = await start(runs)
    assert await runs.find("r", "p") is record
    for run_id, principal in (("r", "other"), ("unknown", "p")):
        with pytest.raises(NotFound):
            await runs.find(run_id, principal)


async def test_a_wait_ends_with_its_time_or_its_run(runs: Runs) -> None:
    record = await start(runs)
    assert (await runs.wait(record, 0)).status == record.status
    stale = replace(record)
    runs.end_all(Cancelled())
    async with asyncio.timeout(LIMIT):
        assert (await runs.wait(stale, None)).status == "cancelled"
    unknown = a_run(run_id="unknown")
    assert await runs.wait(unknown, 0) is unknown


async def test_a_wait_goes_on_after_each_block() -> None:
    store = MemoryStore()
    runs = Runs(Settings(_env_file=None), store)
    record, _ = await store.acquire(a_run())
    waiting = asyncio.create_task(runs.wait(replace(record), None))
    for number in (1, 2):
        await asyncio.sleep(0)
        await store.append("r", 1, number, [b"a"])
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    await store.append("r", 1, 3, [b"end"], Outcome("done"))
    async with asyncio.timeout(LIMIT):
        assert (await waiting).status == "done"
    assert not store._entries["r"].wakes


async def test_a_lost_run_can_be_cancelled(runs: Runs) -> None:
    record, _ = await runs.store.acquire(a_run(request=b"{}"))
    runs._lost._pending.append(record)
    runs.recovery = Recovery()
    await runs.store.request_cancel("r")
    await runs._lost.recover_or_end()
    assert (runs._live, record.status) == ({}, "lost")


async def test_a_wait_for_a_run_elsewhere_ends_at_shutdown(runs: Runs) -> None:
    await runs.store.acquire(a_run(run_id="elsewhere"))
    wait = asyncio.create_task(runs.wait(a_run(run_id="elsewhere"), None))
    await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT):
        await runs.drain()
        assert not (await wait).ended
        assert not (await runs.wait(a_run(run_id="elsewhere"), None)).ended


async def test_other_processes_serve_readers_at_shutdown(runs: Runs) -> None:
    await start(runs)
    runs.store.immediate = False
    with runs.reading("x", lambda: None):
        pass
    runs.draining = True
    for immediate, run_id, is_served in ((True, "x", True), (False, "r", True), (False, "x", False)):
        runs.store.immediate = immediate
        if is_served:
            with runs.reading(run_id, lambda: None):
                pass
        else:
            with pytest.raises(ShuttingDown):
                runs.reading(run_id, lambda: None)
    runs.store.immediate = True


class Recovery:
    """A recovery whose attempt is always the same chain."""

    def __init__(self, on_disconnect: Any = "cancel") -> None:
        self.on_disconnect = on_disconnect
        self.has_found = True

    async def attempt(self, record: RunRecord, store: Any, settings: Settings) -> Attempt | None:
        if not self.has_found:
            return None
        run = Run(record, store, one_then_wait(), Call(), RunLimits.of(settings, None))
        return Attempt(run, Context(), self.on_disconnect)


@pytest.mark.parametrize(("on_disconnect", "grace", "is_waiting"), [("cancel", GRACE, True), ("continue", None, False)])
async def test_a_recovered_run_is_live(runs: Runs, on_disconnect: Any, grace: float | None, is_waiting: bool) -> None:
    record, _ = await runs.store.acquire(a_run(request=b"{}"))
    assert not await runs._recover(record)  # nobody can recover it
    runs.recovery = recovery = Recovery(on_disconnect)
    recovery.has_found = False
    assert not await runs._recover(record)
    recovery.has_found, runs.draining = True, True
    assert not await runs._recover(record)
    runs.draining = False
    assert await runs._recover(record)
    live = runs._live["r"]
    assert (live._grace, live.is_waiting) == (grace, is_waiting)


async def test_a_shutdown_ends_runs_calls_and_readers(runs: Runs) -> None:
    record = await start(runs)
    dropped = asyncio.Event()

    async def call() -> None:
        task = asyncio.current_task()
        assert task
        with runs.calling(task):
            await asyncio.Event().wait()

    async def read() -> None:
        with runs.reading("r", dropped.set):
            await dropped.wait()

    calling, reading = asyncio.create_task(call()), asyncio.create_task(read())
    await asyncio.sleep(0)
    runs.settings.cancel_grace = -0.9  # the rest of the second for the readers' last block
    async with asyncio.timeout(LIMIT):
        await runs.drain()
        await asyncio.wait({calling, reading})
    assert (calling.cancelled(), dropped.is_set(), runs.draining) == (True, True, True)
    assert record.error
    assert record.error["code"] == "shutting_down"


async def test_two_drains_take_the_drain_time_once(runs: Runs) -> None:
    runs.settings.cancel_grace = -0.9  # the rest of the second for the readers' last block
    with runs._being_stored():  # by a store that does not answer
        await runs.drain()
        runs.settings.drain_time = 10 * LIMIT
        async with asyncio.timeout(LIMIT):
            await runs.drain()


async def test_a_shutdown_waits_for_runs_that_end_in_time() -> None:
    runs = Runs(Settings(_env_file=None, drain_time=LIMIT), MemoryStore())
    let_go = asyncio.Event()

    async def short() -> Events:
        yield {"event": "data", "data": b"1"}
        await let_go.wait()
        yield {"event": "end"}

    record, _ = await runs.start(a_run(), short(), Call(), timeout=None, on_disconnect="cancel")
    draining = asyncio.create_task(runs.drain())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not draining.done()
    let_go.set()
    async with asyncio.timeout(LIMIT):
        await draining
    assert record.status == "done"
