"""The errors of the stores, and the answer to who waits."""

from __future__ import annotations

import asyncio

import pytest

from streamserve.stores import Gap, RunRecord, ThreadLocked
from streamserve.stores.base import Status, resolve


def test_a_locked_thread_names_its_run() -> None:
    error = ThreadLocked("one")
    assert (error.holder, str(error)) == ("one", "run one has the thread")


def test_a_gap_says_what_comes_next() -> None:
    error = Gap(7)
    assert (error.next_seq, str(error)) == (7, "the next block has number 7")


@pytest.mark.parametrize(
    ("status", "ended"),
    [("queued", False), ("running", False), ("done", True), ("error", True), ("cancelled", True), ("lost", True)],
)
def test_a_run_has_ended_with_its_terminal_block(status: Status, ended: bool) -> None:
    assert RunRecord("run", "chain", "stream", "ann", 1.0, status=status).ended is ended


async def test_a_future_gets_a_result_or_an_exception() -> None:
    right, wrong, left = (asyncio.get_running_loop().create_future() for _ in range(3))
    left.cancel()
    for future, result in ((right, 2), (wrong, Gap(7)), (left, 3), (right, 4)):
        resolve(future, result)
    assert right.result() == 2
    assert isinstance(wrong.exception(), Gap)
    assert left.cancelled()
