"""The RunStore contract: the promises of every store. tests/conformance checks them for each store."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

Status = Literal["queued", "running", "done", "error", "cancelled", "lost"]
TERMINAL: frozenset[Status] = frozenset({"done", "error", "cancelled", "lost"})


class Fenced(Exception):
    """The writer no longer owns the run, or the run has ended."""


class UnknownRun(Fenced):
    """The store does not have the run: it was restarted empty, or has forgotten the run."""


class ThreadLocked(Exception):
    """Another run of the thread is live."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"run {holder} has the thread")


class StoreDown(Exception):
    """The store cannot be reached. Blocks that it has acknowledged are not lost by that."""


class Gap(Exception):
    """Blocks are missing before the given ones."""

    def __init__(self, next_seq: int) -> None:
        self.next_seq = next_seq
        super().__init__(f"the next block has number {next_seq}")


@dataclass(slots=True)
class RunRecord:
    """A run without its blocks. Times are seconds since the epoch.

    Args:
        run_id: 128 random bits as a UUID.
        endpoint: "stream", "stream_log", "stream_events" or "runs".
        principal: the caller; nobody else may see the run.
        key: Idempotency-Key together with principal and path, or None.
        fingerprint: hash of the request's body; it detects another body under the same key.
        status: "queued" until the first block is stored, "running" until the terminal block is.
        attempt: fencing token of the owner, counted from 1.
        last_id: sequence number of the last stored block; 0: there is none.
        expires_at: time after which the blocks are dropped, or None.
        output: JSON of the final output; None: it is merged from the blocks, which are texts or messages.
        purged: whether the blocks are dropped and only this record, the tombstone, is left.
        thread: chain, principal and the caller's name of the thread together, or None.
        request: data with which another worker resumes the run. Only runs that are recovered have it; `acquire`
            takes it and only `take_over_lost` returns it.
    """

    run_id: str
    chain: str
    endpoint: str
    principal: str
    created_at: float
    key: str | None = None
    fingerprint: str = ""
    status: Status = "queued"
    attempt: int = 1
    last_id: int = 0
    ended_at: float | None = None
    expires_at: float | None = None
    error: dict[str, Any] | None = None
    output: bytes | None = None
    purged: bool = False
    thread: str | None = None
    request: bytes | None = None

    @property
    def ended(self) -> bool:
        """Return whether the terminal block is stored."""
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run; stored together with its terminal block."""

    status: Status
    error: dict[str, Any] | None = None
    output: bytes | None = None


class Slice(NamedTuple):
    """Blocks after a cursor, and whether they reach the end of the run."""

    blocks: Sequence[bytes]
    at_end: bool


class Retained(NamedTuple):
    """Number of ended runs that are kept, and bytes of their blocks and outputs."""

    runs: int = 0
    bytes: int = 0


Wake = Callable[[], None]
Stored = Callable[[int | Exception], None]


def resolve(future: asyncio.Future[Any], result: Any) -> None:
    """Set a future's result or exception, unless nobody waits for it any more."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


class RunStore(Protocol):
    """A place for runs and their blocks. Sequence numbers of a run's blocks are 1, 2, 3 and so on.

    Any method may raise StoreDown. A process owns the runs that it acquired while its lease lasts; an open store
    renews the lease by itself.

    Attributes:
        immediate: True if no method ever waits and `read` returns all blocks up to its limit; the store is then an
            ImmediateStore.
        on_cancel: called with the id of a run of this process after any process requested its cancellation.
        on_readers: called with the id of a run of this process when readers in other processes came or left.
    """

    immediate: bool
    on_cancel: Callable[[str], None]
    on_readers: Callable[[str], None]

    @property
    def retained(self) -> Retained:
        """Return what is kept of ended runs of all processes, as of the last `reap`."""

    async def open(self) -> None:
        """Connect, and start the tasks and threads beside (lease, followers).

        Called once, in the event loop that uses the store.
        """

    async def close(self) -> None:
        """Stop what `open` started. Other processes may take over at once what this process still owns."""

    async def check(self) -> None:
        """Return if the store can take work now."""

    async def acquire(self, run: RunRecord, *, alone: bool = False) -> tuple[RunRecord, bool]:
        """Store a new run, or find the run that has its key; atomic. `alone`: only if its thread has no live run.

        Returns:
            The stored record, and whether it is new.

        Raises:
            ThreadLocked: the thread has a live run; nothing was stored.
        """

    async def named(self, key: str) -> RunRecord | None:
        """Return the record of the run that a key names; None if there is none, or it was purged."""

    async def ahead(self, run: RunRecord) -> list[str]:
        """Return the live runs of the run's thread that were acquired before it, oldest first.

        If the run is not stored, return all live runs of its thread.
        """

    async def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None = None
    ) -> int:
        """Store blocks, and skip those that are stored already.

        A writer may repeat any append of its attempt, also that of the terminal block: the reply may have been lost.

        Args:
            attempt: fencing token of the writer.
            first_seq: sequence number of the first block.
            blocks: consecutive blocks.
            outcome: end of the run if the last block is the terminal one, else None.

        Returns:
            The sequence number of the next block.

        Raises:
            Fenced: the run has ended, was purged, or has a newer owner.
            UnknownRun: there is no such run.
            Gap: first_seq is too high.
        """

    def post(
        self,
        run_id: str,
        attempt: int,
        first_seq: int,
        blocks: Sequence[bytes],
        outcome: Outcome | None,
        stored: Stored,
    ) -> None:
        """Append without a task; `stored` is called later in the event loop with what `append` returns or raises.

        The next append of a run is posted after the answer to the last.
        """

    async def restore(self, run: RunRecord) -> None:
        """Store the record of a run that the store has lost, without blocks; do nothing if the store has it."""

    async def get(self, run_id: str) -> RunRecord | None:
        """Return the record of a run, also of a purged one until its tombstone is dropped; None if there is none."""

    async def read(self, run_id: str, after: int, limit: int) -> Slice:
        """Return at most `limit` blocks with numbers above `after`; `([], True)` for an unknown or purged run."""

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        """Call `wake` after each append: at least once per burst, perhaps too often. Return the unsubscriber.

        A wake-up may come a few seconds late, but it comes.
        """

    def show(self, run_id: str, first_seq: int, blocks: Sequence[bytes]) -> None:
        """Hand blocks of an own run to the readers of this process before they are stored (`store_strict` off)."""

    async def set_reading(self, run_id: str, reading: bool) -> None:
        """Set whether this process has readers of a run. The end of the lease unsets it."""

    async def is_read_elsewhere(self, run_id: str) -> bool:
        """Return whether another process has readers of the run."""

    async def request_cancel(self, run_id: str) -> None:
        """Tell the run's owner, in whatever process, to cancel it; do nothing for an ended run."""

    async def take_over_lost(self) -> list[RunRecord]:
        """Take over and return runs whose owner's lease has ended.

        The attempt of each is raised, which fences the former owner. Each run is returned once; the number per call
        is bounded, so call again.
        """

    def give_up(self, run_id: str) -> None:
        """Release an own run that nobody writes any more: `take_over_lost` returns it once the store is back."""

    async def reap(self, now: float) -> None:
        """Drop the blocks of runs past their retention, and tombstones past theirs."""

    async def purge(self, run_id: str) -> None:
        """Drop an ended run's blocks, free its key and leave its tombstone; do nothing for a live run."""


class ImmediateStore(Protocol):
    """The further method of a RunStore whose appends never wait: it stores a token without a coroutine."""

    def append_now(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None
    ) -> int:
        """Append as RunStore.append does."""
