"""The RunStore contract: what every store promises; tests/conformance holds each store to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

Status = Literal["queued", "running", "done", "error", "cancelled", "lost"]
TERMINAL: frozenset[Status] = frozenset({"done", "error", "cancelled", "lost"})


class Fenced(Exception):
    """The writer is not the run's owner any more, or the run has ended."""


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
        output: JSON of the final output where it cannot be merged from the blocks (graphs).
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


Wake = Callable[[], None]


class RunStore(Protocol):
    """Keeps runs and their blocks; all numbers count from 1 and are dense."""

    immediate: bool
    """True if `append` never waits, so that a writer needs no task of its own."""

    async def acquire(self, run: RunRecord) -> tuple[RunRecord, bool]:
        """Stores a new run, or finds the one that its key names; atomic.

        Returns:
            The stored record, and whether it is new.
        """

    async def append(
        self, run_id: str, attempt: int, first_seq: int, blocks: Sequence[bytes], outcome: Outcome | None = None
    ) -> int:
        """Stores blocks; those with a number that is stored already are skipped.

        Args:
            attempt: the writer's fencing token.
            first_seq: number of the first block.
            outcome: set if the last block is the terminal one.

        Returns:
            The number of the next block.

        Raises:
            Fenced: the run has ended, is gone, or has a newer owner.
            Gap: first_seq is too high.
        """

    async def get(self, run_id: str) -> RunRecord | None:
        """The record, also of a purged run as long as its tombstone stands; None if there is none."""

    async def read(self, run_id: str, after: int, limit: int) -> Slice:
        """Blocks with numbers above `after`; empty for an unknown or purged run."""

    def subscribe(self, run_id: str, wake: Wake) -> Wake:
        """Calls `wake` after each append (at least once per burst, perhaps too often). Returns the unsubscriber."""

    async def request_cancel(self, run_id: str) -> None:
        """Tells the run's owner, in whatever process, to cancel it; does nothing for an ended run."""

    async def reap(self, now: float) -> None:
        """Drops the blocks of runs past their retention, and tombstones past theirs."""

    async def purge(self, run_id: str) -> None:
        """Drops a run's blocks and leaves its tombstone."""
