"""A further attempt at a run whose worker is gone."""

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
        run: not started.
        context: to start it in.
        on_disconnect: what happens when the last reader leaves.
    """

    run: Run
    context: Context
    on_disconnect: Literal["continue", "cancel"]


class Recoverer(Protocol):
    """Makes a further attempt at a run whose worker is gone."""

    async def attempt(
        self, record: RunRecord, store: RunStore, limits: Callable[[float | None], RunLimits]
    ) -> Attempt | None:
        """Make a further attempt; None if there cannot be one.

        Args:
            record: the lost run, with its request.
            store: the store that has its blocks.
            limits: gives a run's limits for a timeout in seconds; None: the server's timeout.
        """
