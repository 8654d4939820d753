"""The newest blocks of a run: a tail answers as the whole run would, or leaves the answer to the store."""

from __future__ import annotations

import pytest

from streamserve.stores import tails
from streamserve.stores.tails import Tails

RUN = "run"
BLOCKS = [b"%d" % number for number in range(30)]


class Seen:
    """A tail with a reader, and what it was told."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.wakes = 0
        self.tails = Tails(self.opened.append, self.closed.append)
        self.leave = self.tails.subscribe(RUN, self.wake)

    def wake(self) -> None:
        self.wakes += 1

    def feed(self, first: int, last: int, *, ended: bool = False) -> None:
        """Feed the blocks with these numbers, counted from 1."""
        self.tails.feed(RUN, first, BLOCKS[first - 1 : last], ended=ended)

    def known(self, limit: int = 100) -> dict[int, tuple[list[bytes], bool]]:
        """Return the answers that the tail has, by cursor."""
        found = {after: self.tails.read(RUN, after, limit) for after in range(-1, len(BLOCKS) + 2)}
        return {after: (list(each.blocks), each.at_end) for after, each in found.items() if each is not None}


def answers(first: int, last: int, *, ended: bool = False, limit: int = 100) -> dict[int, tuple[list[bytes], bool]]:
    """Return the right answers of a tail that has these blocks."""
    return {
        after: (BLOCKS[after:last][:limit], ended and after + limit >= last) for after in range(first - 1, last + 1)
    }


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tails, "KEPT_BLOCKS", 8)
    return 8


def test_a_tail_that_was_never_fed_knows_nothing(seen: Seen) -> None:
    assert seen.known() == {}
    assert Tails().read("another", 0, 10) is None


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_tail_begins_with_the_first_blocks_it_gets(seen: Seen, limit: int) -> None:
    seen.feed(5, 7)
    assert seen.known(limit) == answers(5, 7, limit=limit)
    seen.feed(8, 9)
    assert seen.known(limit) == answers(5, 9, limit=limit)
    assert seen.wakes == 2


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_tail_knows_the_end_with_the_last_block_only(seen: Seen, limit: int) -> None:
    seen.feed(1, 2)
    seen.feed(3, 4, ended=True)
    assert seen.known(limit) == answers(1, 4, ended=True, limit=limit)
    seen.feed(1, 2)  # a late message
    assert seen.known(limit) == answers(1, 4, ended=True, limit=limit)


def test_known_blocks_are_skipped(seen: Seen) -> None:
    seen.feed(1, 4)
    seen.feed(2, 3)
    assert seen.known() == answers(1, 4)
    seen.feed(3, 6)
    assert seen.known() == answers(1, 6)
    seen.feed(2, 4, ended=True)  # says no more than what is known already
    assert seen.known() == answers(1, 6)


def test_a_gap_starts_the_tail_anew(seen: Seen) -> None:
    seen.feed(1, 4)
    seen.feed(6, 8)
    assert seen.known() == answers(6, 8)


def test_an_end_without_blocks_ends_the_tail(seen: Seen) -> None:
    seen.feed(1, 4)
    seen.tails.feed(RUN, 5, (), ended=True)
    assert seen.known() == answers(1, 4, ended=True)
    other = Seen()
    other.tails.feed(RUN, 5, (), ended=True)
    assert other.known() == {4: ([], True)}


def test_a_full_tail_drops_its_older_half(seen: Seen, kept: int) -> None:
    seen.feed(1, 4)
    seen.feed(5, kept)
    assert seen.known() == answers(1, kept)
    seen.feed(kept + 1, kept + 1)
    assert seen.known() == answers(6, kept + 1)
    seen.feed(kept + 2, 30, ended=True)
    assert seen.known() == answers(27, 30, ended=True)


def test_the_first_reader_opens_a_tail_and_the_last_closes_it(seen: Seen) -> None:
    second = seen.tails.subscribe(RUN, seen.wake)
    assert (seen.opened, seen.closed, RUN in seen.tails, list(seen.tails)) == ([RUN], [], True, [RUN])
    seen.feed(1, 1)
    assert seen.wakes == 2
    seen.leave()
    assert seen.closed == []
    seen.tails.wake(RUN)
    assert seen.wakes == 3
    second()
    assert (seen.closed, RUN in seen.tails, list(seen.tails)) == ([RUN], False, [])
    seen.tails.wake(RUN)
    assert seen.wakes == 3
    assert seen.known() == {}


def test_a_reader_that_leaves_twice_leaves_the_next_ones_alone(seen: Seen) -> None:
    seen.leave()
    woken: list[str] = []
    seen.tails.subscribe(RUN, lambda: woken.append(RUN))
    seen.leave()
    seen.feed(1, 1)
    assert (seen.opened, seen.closed, woken) == ([RUN, RUN], [RUN], [RUN])


def test_a_run_without_readers_is_ignored(seen: Seen) -> None:
    seen.tails.feed("another", 1, [b"x"])
    assert list(seen.tails) == [RUN]
    assert seen.wakes == 0


def test_a_reader_that_leaves_when_woken_disturbs_no_other(seen: Seen) -> None:
    leave = seen.tails.subscribe(RUN, lambda: leave())
    seen.feed(1, 1)
    seen.feed(2, 2)
    assert seen.wakes == 2
