"""The newest blocks of the runs that are read in this process, and the subscribers to wake.

A store that processes share feeds the tails with the blocks that this process stores and those that it hears of from
others, so that a block reaches any number of readers without a query. Readers find older blocks in the store.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from streamserve.stores.base import Slice, Wake

# Blocks kept for readers that are a little behind; readers further behind query the store.
KEPT_BLOCKS = 2048


@dataclass(slots=True)
class _Tail:
    first_seq: int = 1
    blocks: list[bytes] = field(default_factory=list)
    ended: bool = False
    fed: bool = False
    wakes: dict[object, Wake] = field(default_factory=dict)

    @property
    def next_seq(self) -> int:
        return self.first_seq + len(self.blocks)

    def trim(self) -> None:
        # Half of them at once, so that trimming costs next to nothing per block.
        if len(self.blocks) > KEPT_BLOCKS:
            surplus = len(self.blocks) - KEPT_BLOCKS // 2
            del self.blocks[:surplus]
            self.first_seq += surplus


class Tails:
    """The tails of this process.

    Args:
        on_open: called with a run's id when its first reader subscribes.
        on_close: called with a run's id when its last reader has left.
    """

    def __init__(
        self, on_open: Callable[[str], None] = lambda _: None, on_close: Callable[[str], None] = lambda _: None
    ) -> None:
        self._tails: dict[str, _Tail] = {}
        self._on_open = on_open
        self._on_close = on_close

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._tails))

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._tails

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        """Subscribe as RunStore.subscribe does."""
        tail = self._tails.get(run_id)
        if tail is None:
            tail = self._tails[run_id] = _Tail()
            self._on_open(run_id)
        number = object()
        tail.wakes[number] = wake
        return lambda: self._unsubscribe(run_id, tail, number)

    def _unsubscribe(self, run_id: str, tail: _Tail, number: object) -> None:
        tail.wakes.pop(number, None)
        if not tail.wakes and self._tails.get(run_id) is tail:
            del self._tails[run_id]
            self._on_close(run_id)

    def feed(self, run_id: str, first_seq: int, blocks: Sequence[bytes], *, ended: bool = False) -> None:
        """Add stored blocks to a tail and wake its readers. Skip known blocks; after a gap start the tail anew.

        Args:
            run_id: id of the run; a run without readers here is ignored.
            ended: whether the last of them is the terminal block.
        """
        tail = self._tails.get(run_id)
        if tail is None:
            return
        if not tail.fed or first_seq > tail.next_seq:
            tail.first_seq, tail.blocks, tail.fed = first_seq, [], True
        tail.blocks.extend(blocks[tail.next_seq - first_seq :])
        tail.trim()
        tail.ended = tail.ended or (ended and first_seq + len(blocks) == tail.next_seq)
        self.wake(run_id)

    def wake(self, run_id: str) -> None:
        """Wake the readers of a run."""
        tail = self._tails.get(run_id)
        for wake in list(tail.wakes.values()) if tail else ():
            wake()

    def read(self, run_id: str, after: int, limit: int) -> Slice | None:
        """Return the blocks after a cursor, perhaps none yet, or None if only the store has them."""
        tail = self._tails.get(run_id)
        if tail is None or not tail.fed or not tail.first_seq - 1 <= after < tail.next_seq:
            return None
        start = after + 1 - tail.first_seq
        blocks = tail.blocks[start : start + limit]
        at_end = tail.ended and after + len(blocks) + 1 == tail.next_seq
        return Slice(blocks, at_end)
