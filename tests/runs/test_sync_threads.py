"""The OS threads of sync code: few, reused, and not waited for at the end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from streamserve.runs.sync_calls import SyncCalls, current_calls
from streamserve.runs.sync_threads import SyncCallExecutor
from tests.fakes import Gate
from tests.runs.support import LIMIT


class Bench:
    """An executor, and calls that wait for a gate."""

    def __init__(self, threads: int) -> None:
        self.gate = Gate()
        self.began = Gate()
        self.executor = SyncCallExecutor(threads, f"bench{id(self)}")

    def call(self, value: Any = None) -> Any:
        """Wait for the gate and return the value."""
        self.began.open()
        self.gate.wait()
        return value

    def threads(self) -> list[threading.Thread]:
        """Return the executor's threads."""
        return [thread for thread in threading.enumerate() if thread.name.startswith(f"bench{id(self)}_")]

    def wait_until_idle(self) -> None:
        """Wait until a thread has nothing to do."""
        assert self.executor._idle.acquire(timeout=LIMIT)
        self.executor._idle.release()


@pytest.fixture
def bench_of() -> Iterator[Callable[[int], Bench]]:
    made: list[Bench] = []

    def make(threads: int) -> Bench:
        made.append(Bench(threads))
        return made[-1]

    yield make
    for bench in made:
        bench.gate.open(50)
        bench.executor.shutdown()
        for thread in bench.threads():
            thread.join(LIMIT)
        assert bench.threads() == []  # the end passes from thread to thread


def test_no_more_threads_are_started_than_the_limit(bench_of: Any) -> None:
    bench = bench_of(2)
    calls = [bench.executor.submit(bench.call, number) for number in range(3)]
    for _ in range(2):
        bench.began.wait()
    assert len(bench.threads()) == 2
    assert all(thread.daemon for thread in bench.threads())
    bench.gate.open(3)
    assert [call.result(LIMIT) for call in calls] == [0, 1, 2]


def test_an_idle_thread_is_used_again(bench_of: Any) -> None:
    bench = bench_of(2)
    bench.gate.open(2)
    for number in range(2):
        assert bench.executor.submit(bench.call, number).result(LIMIT) == number
        bench.wait_until_idle()
    assert len(bench.threads()) == 1


def test_an_error_is_the_calls(bench_of: Any) -> None:
    def fail() -> None:
        raise ValueError("failed")

    failed = bench_of(1).executor.submit(fail)
    assert isinstance(failed.exception(LIMIT), ValueError)


class Held:
    """A value of which a test knows when it is gone."""


class Failed(Exception):
    """An error of which a test knows when it is gone."""


def test_nothing_is_kept_of_a_call_that_has_returned(bench_of: Any) -> None:
    bench, gone = bench_of(1), []

    def fail() -> None:
        raise Failed

    gc.disable()
    try:
        error = bench.executor.submit(fail).exception(LIMIT)
        gone.append(weakref.ref(error))
        del error
        bench.wait_until_idle()
        result = bench.executor.submit(Held).result(LIMIT)
        gone.append(weakref.ref(result))
        del result
        bench.wait_until_idle()
        assert [value() for value in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("cancels", [True, False])
def test_the_end_may_cancel_calls_that_wait(bench_of: Any, cancels: bool) -> None:
    bench = bench_of(1)
    first, second = bench.executor.submit(bench.call, 1), bench.executor.submit(bench.call, 2)
    bench.began.wait()
    bench.executor.shutdown(cancel_futures=cancels)
    with pytest.raises(RuntimeError, match="stopped"):
        bench.executor.submit(bench.call)
    bench.gate.open(2)
    assert first.result(LIMIT) == 1
    assert second.cancelled() == cancels
    assert cancels or second.result(LIMIT) == 2


def test_a_cancelled_call_is_not_carried_out(bench_of: Any) -> None:
    bench, called = bench_of(1), []
    first = bench.executor.submit(bench.call)
    second: Future[None] = bench.executor.submit(called.append, 1)
    assert second.cancel()
    bench.gate.open()
    first.result(LIMIT)
    bench.wait_until_idle()
    assert called == []


def test_a_run_knows_its_sync_calls_until_they_return(bench_of: Any) -> None:
    bench, calls = bench_of(1), SyncCalls()
    token = current_calls.set(calls)
    call = bench.executor.submit(bench.call)
    current_calls.reset(token)
    assert calls.pending == {call}
    bench.gate.open()
    call.result(LIMIT)
    bench.wait_until_idle()
    assert calls.pending == set()
