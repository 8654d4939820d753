"""The ends of the runs that are read in this process: their newest blocks, and whom to wake.

A store that is shared between processes feeds them with what this process stored itself and what it hears of
others, so that a block reaches any number of readers without a question to the store. What is not here (a reader
that starts late or is slow, a lost message) is read from the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from streamserve.stores.base import Slice, Wake

# Blocks kept for readers that are a little behind; those further behind ask the store.
KEPT_BLOCKS = 2048


@dataclass(slots=True)
class _Tail:
    first_seq: int = 1
    blocks: list[bytes] = field(default_factory=list)
    ended: bool = False
    known: bool = False
    wakes: dict[int, Wake] = field(default_factory=dict)

    @property
    def next_seq(self) -> int:
        return self.first_seq + len(self.blocks)

    def trim(self) -> None:
        # Half at once, so that trimming costs nothing per block.
        if len(self.blocks) > KEPT_BLOCKS:
            surplus = len(self.blocks) - KEPT_BLOCKS // 2
            del self.blocks[:surplus]
            self.first_seq += surplus


class Tails:
    """The tails of this process.

    Args:
        on_open: called with a run's id when its first reader comes.
        on_close: called with it when the last one has left.
    """

    def __init__(
        self, on_open: Callable[[str], None] = lambda _: None, on_close: Callable[[str], None] = lambda _: None
    ) -> None:
        self._tails: dict[str, _Tail] = {}
        self._on_open = on_open
        self._on_close = on_close
        self._count = 0

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._tails))

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._tails

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        """As RunStore.subscribe."""
        tail = self._tails.get(run_id)
        if tail is None:
            tail = self._tails[run_id] = _Tail()
            self._on_open(run_id)
        self._count += 1
        number = self._count
        tail.wakes[number] = wake
        return lambda: self._unsubscribe(run_id, tail, number)

    def _unsubscribe(self, run_id: str, tail: _Tail, number: int) -> None:
        tail.wakes.pop(number, None)
        if not tail.wakes and self._tails.get(run_id) is tail:
            del self._tails[run_id]
            self._on_close(run_id)

    def feed(self, run_id: str, first_seq: int, blocks: Sequence[bytes], *, ended: bool = False) -> None:
        """Takes stored blocks; those already here are skipped, those beyond a gap start the tail anew.

        Args:
            run_id: of which run; one that nobody reads here is ignored.
            first_seq: number of the first block.
            blocks: as stored.
            ended: whether the last of them is the terminal block.
        """
        tail = self._tails.get(run_id)
        if tail is None:
            return
        if not tail.known or first_seq > tail.next_seq:
            tail.first_seq, tail.blocks, tail.known = first_seq, [], True
        fresh = blocks[tail.next_seq - first_seq :]
        if fresh:
            tail.blocks.extend(fresh)
            tail.trim()
        tail.ended = tail.ended or (ended and first_seq + len(blocks) == tail.next_seq)
        self.wake(run_id)

    def wake(self, run_id: str) -> None:
        """Has the readers of a run look again."""
        tail = self._tails.get(run_id)
        for wake in list(tail.wakes.values()) if tail else ():
            wake()

    def read(self, run_id: str, after: int, limit: int) -> Slice | None:
        """What follows a cursor (perhaps nothing yet), or None if only the store can tell."""
        tail = self._tails.get(run_id)
        if tail is None or not tail.known or not tail.first_seq - 1 <= after < tail.next_seq:
            return None
        start = after + 1 - tail.first_seq
        blocks = tail.blocks[start : start + limit]
        at_end = tail.ended and after + len(blocks) + 1 == tail.next_seq
        return Slice(blocks, at_end)
