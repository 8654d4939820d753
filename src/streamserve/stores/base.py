"""The RunStore contract: what every store promises; tests/conformance holds each store to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

Status = Literal["queued", "running", "done", "error", "cancelled", "lost"]
TERMINAL: frozenset[Status] = frozenset({"done", "error", "cancelled", "lost"})


class Fenced(Exception):
    """The writer is not the run's owner any more, or the run has ended."""


class UnknownRun(Fenced):
    """The store knows nothing of the run: it was restarted empty, or has forgotten it."""


class ThreadBusy(Exception):
    """Another run of the thread is under way.

    Args:
        holder: its id.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"run {holder} has the thread")


class StoreDown(Exception):
    """The store cannot be reached. What it has acknowledged is not lost by that."""


class Gap(Exception):
    """Blocks are missing before the ones given.

    Args:
        next_seq: the sequence number that the store waits for.
    """

    def __init__(self, next_seq: int) -> None:
        self.next_seq = next_seq
        super().__init__(f"the next block has number {next_seq}")


@dataclass(slots=True)
class RunRecord:
    """What is known of a run beside its blocks. Times are seconds since the epoch.

    Args:
        run_id: 128 random bits as a UUID.
        chain: the chain's name.
        endpoint: "stream", "stream_log", "stream_events" or "runs".
        principal: who made it; nobody else may see it.
        key: the Idempotency-Key with principal and path, or None.
        fingerprint: of the request's body, to tell another body under the same key.
        attempt: the owner's fencing token, counted from 1.
        last_id: number of the last stored block.
        thread: what it works on; chain, principal and the caller's name of the thread together.
        output: JSON of the final output where it cannot be merged from the blocks (graphs).
        request: what another worker needs to go on with the run; only of runs that are recovered, and only what
            `acquire` is given and `take_over_lost` gives.
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
        """Whether the terminal block is stored."""
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; stored together with its terminal block."""

    status: Status
    error: dict[str, Any] | None = None
    output: bytes | None = None


class Slice(NamedTuple):
    """Blocks after a cursor, and whether the run's terminal block is the last of them."""

    blocks: Sequence[bytes]
    at_end: bool


class Retained(NamedTuple):
    """Ended runs that are kept, and the bytes of their blocks."""

    runs: int = 0
    bytes: int = 0


Wake = Callable[[], None]
Stored = Callable[[int | Exception], None]


def resolve(future: asyncio.Future[Any], result: Any) -> None:
    """Gives a future its result or exception, unless nobody waits for it any more."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


class RunStore(Protocol):
    """Keeps runs and their blocks; all numbers count from 1 and are dense.

    Any method may raise StoreDown. A process is the owner of the runs that it acquired, as long as its lease lasts:
    the store renews it by itself while it is open.
    """

    immediate: bool
    """True if no method ever waits, and `read` gives all that there is up to its limit: it is an ImmediateStore."""

    on_cancel: Callable[[str], None]
    """Called with the id of a run of this process that somebody, in whatever process, wants cancelled."""

    on_readers: Callable[[str], None]
    """Called with the id of a run of this process when readers in other processes came or left."""

    @property
    def retained(self) -> Retained:
        """What is kept, whichever process ended it; as of the last `reap`."""

    async def open(self) -> None:
        """Connects and starts what runs beside (lease, followers). Called once, in the event loop that uses it."""

    async def close(self) -> None:
        """Stops what `open` started. Runs that this process still owns are lost to others at once."""

    async def check(self) -> None:
        """Returns if the store can take work now."""

    async def acquire(self, run: RunRecord, *, alone: bool = False) -> tuple[RunRecord, bool]:
        """Stores a new run, or finds the one that its key names; atomic.

        Args:
            run: not stored yet.
            alone: only if no live run has its thread.

        Returns:
            The stored record, and whether it is new.

        Raises:
            ThreadBusy: a live run has the thread; nothing was stored.
        """

    async def ahead(self, run: RunRecord) -> list[str]:
        """The live runs of a run's thread that were acquired before it, in that order; all if it is not stored."""

    async def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None = None
    ) -> int:
        """Stores blocks; those with a number that is stored already are skipped.

        Repeating an append of the same attempt is harmless, that of the terminal block too: its reply may be lost.

        Args:
            attempt: the writer's fencing token.
            first_seq: number of the first block.
            outcome: set if the last block is the terminal one.

        Returns:
            The number of the next block.

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
        """As `append`, for writers that have no task of their own; appends of one run are posted one after another.

        Args:
            stored: called in the event loop, and not before this returns, with what `append` returns or raises.
        """

    async def restore(self, run: RunRecord) -> None:
        """Stores the record of a run that the store has lost, without blocks; does nothing if it is there."""

    async def get(self, run_id: str) -> RunRecord | None:
        """The record, also of a purged run as long as its tombstone stands; None if there is none."""

    async def read(self, run_id: str, after: int, limit: int) -> Slice:
        """Blocks with numbers above `after`; `([], True)` for an unknown or purged run."""

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        """Calls `wake` after each append (at least once per burst, perhaps too often). Returns the unsubscriber.

        A wake-up may come late, by a few seconds at most, but not never.
        """

    def show(self, run_id: str, first_seq: int, blocks: Sequence[bytes]) -> None:
        """Hands blocks of an own run to the readers of this process before they are stored (`store_strict` off)."""

    async def set_reading(self, run_id: str, reading: bool) -> None:
        """Says that this process has readers of a run, or none any more. Ends by itself with the lease."""

    async def is_read_elsewhere(self, run_id: str) -> bool:
        """Whether another process has readers of the run."""

    async def request_cancel(self, run_id: str) -> None:
        """Tells the run's owner, in whatever process, to cancel it; does nothing for an ended run."""

    async def take_over_lost(self) -> list[RunRecord]:
        """Runs whose owner's lease has ended: their attempt is raised, which fences the owner, and this process owns
        them now. Each is handed out once; bounded in number, so ask again."""

    def give_up(self, run_id: str) -> None:
        """Says that nobody writes an own run any more: `take_over_lost` hands it out once the store is back."""

    async def reap(self, now: float) -> None:
        """Drops the blocks of runs past their retention, and tombstones past theirs."""

    async def purge(self, run_id: str) -> None:
        """Drops an ended run's blocks, frees its key and leaves its tombstone; does nothing for a live run."""


class ImmediateStore(Protocol):
    """What a RunStore has in addition if its appends never wait: a token is then stored without a coroutine."""

    def append_now(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None
    ) -> int:
        """As RunStore.append."""
