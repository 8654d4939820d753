"""What is told of runs to those who measure and trace them; nobody, unless there is telemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from streamserve.call import Call
from streamserve.stores import Outcome, RunRecord

Ended = Callable[[Outcome | None], None]


@dataclass(frozen=True, slots=True)
class Watch:
    """Follows one run.

    Args:
        block: called for each block that the chain makes; None: nobody counts.
        ended: called once with how it ended; None: it was given up.
    """

    block: Callable[[], None] | None = None
    ended: Ended = lambda _outcome: None


class Load(NamedTuple):
    """What is open in a process: runs, calls of /invoke and /batch, readers; and whether its store is away."""

    runs: int
    calls: int
    readers: int
    store_down: bool


class Observer:
    """Is told of runs; this one listens to nothing."""

    stored: Callable[[float], None] | None = None
    """Called with the seconds that the store took to acknowledge blocks."""

    def begin(self, record: RunRecord, call: Call) -> Watch:  # noqa: ARG002 - for those who listen
        """A run begins, in the context that its task will copy."""
        return Watch()

    @contextmanager
    def calling(self, call: Call, endpoint: str) -> Iterator[None]:  # noqa: ARG002
        """Around a call of /invoke or /batch."""
        yield

    def resumed(self, chain: str) -> None:
        """A reader came back to a run, or joined it."""

    def cancelling(self, chain: str) -> None:
        """Somebody wants a run cancelled."""
