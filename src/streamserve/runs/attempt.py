"""A further attempt at a run whose owner is dead."""

from contextvars import Context
from dataclasses import dataclass
from typing import Literal, Protocol

from streamserve.runs.run import Run
from streamserve.settings import Settings
from streamserve.stores import RunRecord, RunStore


@dataclass(frozen=True, slots=True)
class Attempt:
    """A further attempt at a run."""

    run: Run
    context: Context
    on_disconnect: Literal["continue", "cancel"]


class Recoverer(Protocol):
    """The maker of further attempts at runs whose owner is dead."""

    async def attempt(self, record: RunRecord, store: RunStore, settings: Settings) -> Attempt | None:
        """Make a further attempt within the bounds of the settings; return None if the run cannot be recovered."""
