"""The hooks for telemetry: runs, calls and readers as they start and end. By default they do nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from streamserve.call import Call
from streamserve.stores import Outcome, RunRecord

Ended = Callable[[Outcome | None], None]


@dataclass(frozen=True, slots=True)
class RunHooks:
    """The hooks of one run.

    Args:
        block: function that is called for each block of the chain. Default: None.
        ended: function that is called once with the outcome; None as outcome: the run was given up.
    """

    block: Callable[[], None] | None = None
    ended: Ended = lambda _outcome: None


class Load(NamedTuple):
    """The load of a process: its runs, calls of /invoke and /batch and readers, and the state of its store."""

    runs: int
    calls: int
    readers: int
    store_down: bool


class Observer:
    """An observer of runs that does nothing."""

    stored: Callable[[float], None] | None = None
    """Function that is called with the seconds until the store acknowledged blocks."""

    def begin(self, record: RunRecord, call: Call) -> RunHooks:  # noqa: ARG002 - for observers that use them
        """Observe the start of a run, in the context that its task will copy."""
        return RunHooks()

    @contextmanager
    def calling(self, call: Call, endpoint: str) -> Iterator[None]:  # noqa: ARG002
        """Observe a call of /invoke or /batch from start to end."""
        yield

    def resumed(self, chain: str) -> None:
        """Observe a reader that resumes or joins a run."""

    def cancelling(self, chain: str) -> None:
        """Observe a request to cancel a run."""
