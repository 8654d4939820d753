"""A live run's timer: it calls back once, unless a reader comes."""

from __future__ import annotations

import asyncio
from typing import Any

from streamserve.runs.live import LiveRun
from tests.runs.support import LIMIT


class Orphans(list[Any]):
    """The runs whose timer has ended."""

    def live(self, grace: float | None = 0.0) -> LiveRun:
        """Return a live run with a timer of this length."""
        return LiveRun("run", grace, self.append)  # type: ignore[arg-type] - the timer knows nothing of its run


async def turns() -> None:
    """Let the event loop call what is due."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_timer_calls_back_once() -> None:
    orphans = Orphans()
    live = orphans.live()
    live.start_orphan_timer()
    live.start_orphan_timer()
    assert live.is_waiting
    await turns()
    assert (orphans, live.is_waiting) == (["run"], False)


async def test_a_stopped_timer_does_not_call_back() -> None:
    orphans = Orphans()
    live = orphans.live()
    live.start_orphan_timer()
    live.stop_orphan_timer()
    await turns()
    assert (orphans, live.is_waiting) == ([], False)


async def test_a_timer_has_its_least_time() -> None:
    orphans = Orphans()
    live = orphans.live()
    live.start_orphan_timer(at_least=LIMIT)
    await turns()
    assert (orphans, live.is_waiting) == ([], True)
    live.stop_orphan_timer()


async def test_a_run_that_continues_has_no_timer() -> None:
    live = Orphans().live(None)
    live.start_orphan_timer()
    assert not live.is_waiting
