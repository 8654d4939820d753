"""An OS thread with a connection: transactions, refusals, failures and the end."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streamserve.stores import Fenced, StoreDown
from streamserve.stores.sqlite import threads
from streamserve.stores.sqlite.threads import DatabaseThread
from tests.limits import LIMIT


class Recorder:
    """The story of all sessions: "make", "begin", the jobs, "commit" and "close"."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self) -> None:
        self.said.append("begin")

    def commit(self) -> None:
        self.said.append("commit")

    def close(self) -> None:
        self.said.append("close")

    def job(self, name: str) -> str:
        self.said.append(name)
        return name

    def fail(self, error: Exception) -> None:
        self.said.append(type(error).__name__)
        raise error


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def thread(recorder: Recorder) -> AsyncIterator[DatabaseThread[Recorder]]:
    def make() -> Recorder:
        recorder.said.append("make")
        return recorder

    made = DatabaseThread("store test", make)
    async with asyncio.timeout(LIMIT):
        yield made
        await made.stop()


class Busy:
    """Keeps the thread in a job until the test lets it go on."""

    def __init__(self, thread: DatabaseThread[Recorder]) -> None:
        self._reached, self._free = threading.Event(), threading.Event()
        self.done = thread.do(self._wait)
        thread.hand_over()
        assert self._reached.wait(LIMIT)

    def _wait(self, _session: Recorder) -> None:
        self._reached.set()
        assert self._free.wait(LIMIT)

    def end(self) -> None:
        self._free.set()


def transactions(said: list[str]) -> list[list[str]]:
    """Return the jobs of each transaction that was committed."""
    found: list[list[str]] = []
    for each in said:
        if each == "begin":
            found.append([])
        elif each not in ("make", "commit", "close"):
            found[-1].append(each)
    return found


async def test_jobs_of_one_turn_share_a_transaction(thread: DatabaseThread[Recorder], recorder: Recorder) -> None:
    assert await asyncio.gather(*(thread.do(Recorder.job, name) for name in "abc")) == ["a", "b", "c"]
    assert await thread.do(Recorder.job, "d") == "d"
    assert recorder.said == ["make", "begin", "a", "b", "c", "commit", "begin", "d", "commit"]


async def test_what_waits_for_a_busy_thread_shares_a_transaction(
    thread: DatabaseThread[Recorder], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MAX_GROUP", 3)
    busy = Busy(thread)
    waiting = []
    for names in ("ab", "cd", "efg", "h"):
        waiting += [thread.do(Recorder.job, name) for name in names]
        thread.hand_over()
    busy.end()
    assert await asyncio.gather(*waiting) == list("abcdefgh")
    assert transactions(recorder.said) == [[], list("abcd"), list("efg"), ["h"]]


async def test_many_jobs_of_one_turn_are_bounded_groups(
    thread: DatabaseThread[Recorder], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MAX_GROUP", 3)
    await asyncio.gather(*(thread.do(Recorder.job, name) for name in "abcdefgh"))
    assert transactions(recorder.said) == [list("abc"), list("def"), list("gh")]


async def test_a_refusal_leaves_the_others_in_their_transaction(
    thread: DatabaseThread[Recorder], recorder: Recorder
) -> None:
    jobs: list[Any] = [
        thread.do(Recorder.job, "a"),
        thread.do(Recorder.fail, Fenced("x")),
        thread.do(Recorder.job, "b"),
    ]
    first, refused, second = await asyncio.gather(*jobs, return_exceptions=True)
    assert (first, str(refused), second) == ("a", "x", "b")
    assert isinstance(refused, Fenced)
    assert recorder.said == ["make", "begin", "a", "Fenced", "b", "commit"]


async def test_a_faulty_job_fails_alone(
    thread: DatabaseThread[Recorder], recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    jobs: list[Any] = [thread.do(Recorder.job, "a"), thread.do(Recorder.fail, ValueError("no"))]
    first, failed = await asyncio.gather(*jobs, return_exceptions=True)
    assert first == "a"
    assert isinstance(failed, StoreDown)
    assert str(failed) == "ValueError: no"
    assert transactions(recorder.said) == [["a", "ValueError"], ["a"], ["ValueError"]]
    assert recorder.said.count("make") == recorder.said.count("close") == 2
    assert "a job failed" in caplog.text


async def test_a_fault_of_the_file_fails_all_jobs_at_once(
    thread: DatabaseThread[Recorder], recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    broken = sqlite3.OperationalError("disk I/O error")
    jobs: list[Any] = [thread.do(Recorder.job, "a"), thread.do(Recorder.fail, broken)]
    for failed in await asyncio.gather(*jobs, return_exceptions=True):
        assert isinstance(failed, StoreDown)
        assert "disk I/O error" in str(failed)
    assert recorder.said == ["make", "begin", "a", "OperationalError", "close"]
    assert await thread.do(Recorder.job, "b") == "b"  # on a new session
    assert recorder.said[5:] == ["make", "begin", "b", "commit"]
    assert "a job failed" not in caplog.text


async def test_a_session_that_cannot_close_is_replaced(
    thread: DatabaseThread[Recorder], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close() -> None:
        raise sqlite3.OperationalError("unable to close")

    with monkeypatch.context() as broken:
        broken.setattr(recorder, "close", close)
        with pytest.raises(StoreDown):
            await thread.do(Recorder.fail, OSError("gone"))
    assert await thread.do(Recorder.job, "a") == "a"
    assert recorder.said.count("make") == 2


async def test_what_was_posted_before_the_end_is_carried_out(recorder: Recorder) -> None:
    def make() -> Recorder:
        return recorder

    async with asyncio.timeout(LIMIT):
        thread = DatabaseThread("store test", make)
        busy = Busy(thread)
        early = thread.do(Recorder.job, "a")
        thread.hand_over()
        late = thread.do(Recorder.job, "b")
        stopping = asyncio.create_task(thread.stop())
        await asyncio.sleep(0)  # the end is posted
        busy.end()
        await stopping
        assert (await early, await late) == ("a", "b")
    assert transactions(recorder.said) == [[], ["a", "b"]]
    assert recorder.said[-1] == "close"
    assert "store test" not in [each.name for each in threading.enumerate()]


async def test_a_listener_that_fails_leaves_the_others_their_answers(
    thread: DatabaseThread[Recorder], recorder: Recorder
) -> None:
    answers: list[Any] = []

    def broken(_result: Any) -> None:
        raise ValueError("no")

    listeners: list[Callable[[Any], None]] = [answers.append, broken, answers.append]
    for name, listener in zip("abc", listeners, strict=True):
        thread.post(listener, Recorder.job, name)
    await thread.do(Recorder.job, "d")
    assert answers == ["a", "c"]


async def test_a_thread_does_not_keep_the_process(thread: DatabaseThread[Recorder]) -> None:
    assert await thread.do(Recorder.job, "a")
    assert [each.daemon for each in threading.enumerate() if each.name == "store test"] == [True]
