"""A further attempt at a run whose owner is dead."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Literal, Protocol

from streamserve.runs.limits import RunLimits
from streamserve.runs.run import Run
from streamserve.stores import RunRecord, RunStore


@dataclass(frozen=True, slots=True)
class Attempt:
    """A further attempt at a run.

    Args:
        run: The run, not started.
        context: The context to start the run in.
        on_disconnect: The action when the last reader leaves.
    """

    run: Run
    context: Context
    on_disconnect: Literal["continue", "cancel"]


class Recoverer(Protocol):
    """The maker of further attempts at runs whose owner is dead."""

    async def attempt(
        self, record: RunRecord, store: RunStore, limits: Callable[[float | None], RunLimits]
    ) -> Attempt | None:
        """Make a further attempt; return None if the run cannot be recovered.

        Args:
            record: The lost run, with its request.
            store: The store with the run's blocks.
            limits: Function from a timeout in seconds to the run's limits; None selects the server's timeout.
        """
